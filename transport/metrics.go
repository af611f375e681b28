package transport

import "github.com/prometheus/client_golang/prometheus"

// Metrics of a Server.
type Metrics struct {
	connections prometheus.Gauge       // clients connected
	closed      *prometheus.CounterVec // connections closed by the server, by reason
	badFrames   prometheus.Counter     // frames that were malformed or out of place
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
	}
}

// Collectors returns the metrics for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.connections, m.closed, m.badFrames}
}
