package partition

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are shared by all partitions of a node.
type Metrics struct {
	entries     prometheus.Counter     // publish entries proposed here
	entryBytes  prometheus.Counter     // their bytes
	packed      prometheus.Histogram   // messages per publish entry
	messages    prometheus.Counter     // messages numbered by this node's replicas
	bytes       prometheus.Counter     // their bytes
	outcomes    *prometheus.CounterVec // entries proposed here, by outcome
	refusals    *prometheus.CounterVec // publishes refused before proposing, by reason
	subscribers prometheus.Gauge       // subscriptions served here
	deliveries  prometheus.Counter     // messages handed to subscribers' connections
	drift       prometheus.Histogram   // their age then
	checkpoints prometheus.Histogram   // how long it took to write one down
	trims       prometheus.Counter     // trims applied by this node's replicas
}

// NewMetrics returns metrics that are not registered yet.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "roomlog", Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "roomlog", Name: name, Help: help}, []string{label})
	}
	return &Metrics{
		entries:    counter("entries_proposed_total", "Publish entries proposed by this node."),
		entryBytes: counter("entry_bytes_proposed_total", "Bytes of the publish entries proposed by this node."),
		packed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "roomlog", Name: "entry_messages", Help: "Messages packed into one publish entry.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}),
		messages: counter("messages_applied_total", "Messages numbered by this node's replicas."),
		bytes:    counter("message_bytes_applied_total", "Bytes of the blocks numbered by this node's replicas."),
		outcomes: vec("entries_total", "Entries proposed by this node, by outcome.", "outcome"),
		refusals: vec("publishes_refused_total", "Publishes refused before they were proposed, by reason.", "reason"),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "roomlog", Name: "subscriptions", Help: "Subscriptions served by this node.",
		}),
		deliveries: counter("messages_delivered_total", "Messages handed to subscribers' connections."),
		drift: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "roomlog", Name: "drift_seconds", Help: "Age of messages when handed to a subscriber's connection, of those published since it came.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		checkpoints: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "roomlog", Name: "checkpoint_seconds", Help: "Time from a checkpoint to its durable snapshot.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		trims: counter("trims_applied_total", "Trims applied by this node's replicas."),
	}
}

// Collectors returns the metrics for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.entries, m.entryBytes, m.packed, m.messages, m.bytes, m.outcomes, m.refusals, m.subscribers, m.deliveries, m.drift,
		m.checkpoints, m.trims,
	}
}

func (m *Metrics) proposed(messages, bytes int) {
	m.entries.Inc()
	m.entryBytes.Add(float64(bytes))
	m.packed.Observe(float64(messages))
}

func (m *Metrics) applied(messages, bytes int) {
	m.messages.Add(float64(messages))
	m.bytes.Add(float64(bytes))
}

func (m *Metrics) answered(err error) {
	outcome := "committed"
	switch r := refusalFor(0, err); {
	case err == nil:
	case r.Maybe:
		outcome = "unknown"
	default:
		outcome = "failed"
	}
	m.outcomes.WithLabelValues(outcome).Inc()
}

// refused counts publishes, or the opening of a session.
func (m *Metrics) refused(err error, n int) {
	reason := "unavailable"
	switch {
	case errors.Is(err, ErrOverloaded):
		reason = "overloaded"
	case errors.Is(err, ErrNotLeader):
		reason = "not_leader"
	}
	m.refusals.WithLabelValues(reason).Add(float64(n))
}

func (m *Metrics) checkpointed(took time.Duration) { m.checkpoints.Observe(took.Seconds()) }

func (m *Metrics) trimmed() { m.trims.Inc() }

func (m *Metrics) subscribed(n int) { m.subscribers.Add(float64(n)) }

func (m *Metrics) delivered(messages int) { m.deliveries.Add(float64(messages)) }

// drifted is told once per block: its messages share their age.
func (m *Metrics) drifted(age time.Duration) { m.drift.Observe(age.Seconds()) }

// exported are the stages' buckets that Metrics' readers get: each a power of
// two, from 64 µs to 17 s.
const (
	firstExported = 8
	exportedStep  = 4
	lastExported  = 80
)

// StageTimes returns how long messages took in a stage since the start: how many
// there were, all their time, and by duration in seconds how many took no longer.
func (p *Partition) StageTimes(s Stage) (count uint64, sum time.Duration, upTo map[float64]uint64) {
	all := p.stages.of[s].whole()
	upTo = map[float64]uint64{}
	for i, n := range all.counts {
		count += n
		if i >= firstExported && i <= lastExported && (i-firstExported)%exportedStep == 0 {
			upTo[bounds[i].Seconds()] = count
		}
	}
	return count, all.sum, upTo
}
