package node

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	partitionSnapshot = partitionDesc("snapshot_index", "Index of the newest snapshot of this node's replica.")
	partitionFirst    = partitionDesc("first_index", "First index that this node's replica holds.")
	partitionLog      = partitionDesc("log_bytes", "Bytes of this node's replica on disk.")
	partitionFenced   = partitionDesc("fenced", "1 if this node's replica was stopped for good.")
)

func partitionDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("roomlog_partition_"+name, help, []string{"partition"}, nil)
}

// partitionMetrics reads the replicas' state when it is asked for.
type partitionMetrics struct{ node *Node }

func (partitionMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{partitionSnapshot, partitionFirst, partitionLog, partitionFenced} {
		to <- d
	}
}

func (m partitionMetrics) Collect(to chan<- prometheus.Metric) {
	for _, p := range m.node.partitions {
		st, label := p.Group().Status(), strconv.Itoa(p.ID())
		fenced := 0.0
		if st.Fenced != "" {
			fenced = 1
		}
		gauge := func(d *prometheus.Desc, v float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
		}
		gauge(partitionSnapshot, float64(st.SnapshotIndex))
		gauge(partitionFirst, float64(st.First))
		gauge(partitionLog, float64(st.Bytes))
		gauge(partitionFenced, fenced)
	}
}
