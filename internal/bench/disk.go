package bench

import (
	"context"
	"fmt"

	"github.com/roomlog/roomlog/internal/devcluster"
)

// disk is a node's, in memory (internal/faultfs).
type disk interface {
	stall() (off func()) // has every fsync hang
	Close() error
}

// StartTargetOnDisks is StartTarget with a disk for each node that can hang. Linux
// and root are needed.
func StartTargetOnDisks(ctx context.Context, binary, dir string, nodes, partitions int) (*Target, error) {
	return startTarget(ctx, dir, nodes, partitions, func(t *Target, opts devcluster.Options) error {
		opts.Data = "data"
		layout, err := devcluster.Prepare(opts)
		if err != nil {
			return err
		}
		t.disks = map[string]disk{}
		for _, n := range layout.Nodes {
			d, err := mountDisk(n.Data)
			if err != nil {
				return fmt.Errorf("a disk for %s: %w", n.Name, err)
			}
			t.disks[n.Name] = d
		}
		t.cluster = devcluster.New(devcluster.Config{Layout: layout, Binary: binary})
		return nil
	})
}
