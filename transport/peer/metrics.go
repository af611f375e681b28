package peer

import "github.com/prometheus/client_golang/prometheus"

// metrics of one Network; the caller registers what Collectors returns.
type metrics struct {
	linksUp   prometheus.Gauge       // links to other nodes that are up
	linkDowns *prometheus.CounterVec // links lost, by node
	deaths    *prometheus.CounterVec // nodes whose port refused after the link had ended, by node
	silences  *prometheus.CounterVec // nodes from which nothing came for too long, by node
	refused   *prometheus.CounterVec // connections to this node that were refused, by reason
	streams   prometheus.Gauge       // Raft streams open, both directions
}

// Reasons of refused beside the statuses of a handshake.
const (
	refusedTLS      = "tls"       // no TLS, no or a foreign certificate, or it took too long
	refusedHalfOpen = "half-open" // too many handshakes at once
)

func newMetrics() *metrics {
	return &metrics{
		linksUp: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roomlog_peer_links_up", Help: "Links to other nodes that are up."}),
		linkDowns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roomlog_peer_link_downs_total", Help: "Links to other nodes that were lost, by node."}, []string{"node"}),
		deaths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roomlog_peer_deaths_total", Help: "Times that a node's link ended and its port refused: its process was gone, by node."}, []string{"node"}),
		silences: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roomlog_peer_silences_total", Help: "Times that nothing came from a node for a heartbeat timeout, by node."}, []string{"node"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roomlog_peer_handshakes_refused_total", Help: "Connections to the peer port that were refused, by reason."}, []string{"reason"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "roomlog_peer_streams", Help: "Raft streams open to and from other nodes."}),
	}
}

// Collectors returns the metrics of this Network, to be registered.
func (n *Network) Collectors() []prometheus.Collector {
	return []prometheus.Collector{n.metrics.linksUp, n.metrics.linkDowns, n.metrics.deaths, n.metrics.silences, n.metrics.refused, n.metrics.streams}
}
