package transport

import "github.com/prometheus/client_golang/prometheus"

// Metrics of a Server.
type Metrics struct {
	connections prometheus.Gauge       // clients connected
	closed      *prometheus.CounterVec // connections closed by the server, by reason
	badFrames   prometheus.Counter     // frames that were malformed or out of place
	flushes     prometheus.Counter     // of connections
	stalls      prometheus.Counter     // subscriptions that were left alone for a moment
	spacing     prometheus.Gauge       // seconds between flushes of a connection
	cpu         prometheus.Gauge       // share of all processors that this process uses

	handshakesAdmitted prometheus.Counter // begun
	handshakesRefused  prometheus.Counter // beyond the budget
	handshaking        prometheus.Gauge   // under way: admitted, no hello yet
	handshakeRate      prometheus.Gauge   // that may begin in a second
}

// NewMetrics returns metrics that are not registered yet.
func NewMetrics() *Metrics {
	return &Metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "roomlog", Name: "connections", Help: "Clients connected.",
		}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "connections_refused_total", Help: "Connections closed by the server, by reason.",
		}, []string{"reason"}),
		badFrames: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "bad_frames_total", Help: "Frames that were malformed or out of place.",
		}),
		flushes: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "flushes_total", Help: "Times that a connection was given what its subscriptions had to get.",
		}),
		stalls: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "stalls_total", Help: "Times that a subscription was left alone for a moment, mostly because its client took nothing.",
		}),
		spacing: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "roomlog", Name: "flush_spacing_seconds", Help: "Least time between two flushes of a connection; 0 while the processors are free.",
		}),
		cpu: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "roomlog", Name: "cpu_share", Help: "Share of all processors that this process uses, of the last 50 ms.",
		}),
		handshakesAdmitted: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "handshakes_admitted_total", Help: "Handshakes of clients that were let begin.",
		}),
		handshakesRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "handshakes_refused_total", Help: "Handshakes of clients that were refused before they began, because of too many.",
		}),
		handshaking: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "roomlog", Name: "handshakes_waiting", Help: "Handshakes under way: admitted, and without a hello so far.",
		}),
		handshakeRate: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "roomlog", Name: "handshakes_budget", Help: "Handshakes that may begin in a second: what leaves other work on time.",
		}),
	}
}

// Collectors returns the metrics for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.connections, m.closed, m.badFrames, m.flushes, m.stalls, m.spacing, m.cpu,
		m.handshakesAdmitted, m.handshakesRefused, m.handshaking, m.handshakeRate}
}
