package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/transport/admin"
)

// replicas asks the nodes of a cluster, over HTTP, for what they hold.
type replicas struct {
	layout *devcluster.Layout
	client *http.Client
}

func newReplicas(l *devcluster.Layout) *replicas {
	return &replicas{layout: l, client: &http.Client{Timeout: 2 * time.Second}}
}

// of returns a node's partitions, by number.
func (r *replicas) of(ctx context.Context, n devcluster.Node) (map[int]admin.PartitionStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/v1/partitions", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.layout.Token)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", n.Name, resp.Status)
	}
	var list []admin.PartitionStatus
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", n.Name, err)
	}
	byNumber := make(map[int]admin.PartitionStatus, len(list))
	for _, p := range list {
		byNumber[p.Partition] = p
	}
	return byNumber, nil
}

// leaders returns who leads each partition, as the one with the highest term
// says.
func (r *replicas) leaders(ctx context.Context) (map[int]string, error) {
	leaders, terms := make(map[int]string), make(map[int]uint64)
	var errs []error
	for _, n := range r.layout.Nodes {
		held, err := r.of(ctx, n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for number, p := range held {
			if p.Leader != "" && p.Term >= terms[number] {
				leaders[number], terms[number] = p.Leader, p.Term
			}
		}
	}
	if len(leaders) == 0 {
		return nil, fmt.Errorf("no leader is known: %w", errors.Join(errs...))
	}
	return leaders, nil
}

// agree tells whether all nodes hold every partition with the same hash at the
// same applied index; if not, why.
func (r *replicas) agree(ctx context.Context) error {
	var first map[int]admin.PartitionStatus
	var differ []string
	for i, n := range r.layout.Nodes {
		held, err := r.of(ctx, n)
		if err != nil {
			return err
		}
		if len(held) != r.layout.Partitions {
			return fmt.Errorf("%s holds %d of %d partitions", n.Name, len(held), r.layout.Partitions)
		}
		if i == 0 {
			first = held
			continue
		}
		for number := range r.layout.Partitions {
			a, b := first[number], held[number]
			if a.Hash == "" || a.Applied != b.Applied || a.Hash != b.Hash {
				differ = append(differ, fmt.Sprintf("partition %d: %s has hash %s at %d, %s has hash %s at %d",
					number, r.layout.Nodes[0].Name, a.Hash, a.Applied, n.Name, b.Hash, b.Applied))
			}
		}
	}
	if len(differ) > 0 {
		return errors.New(strings.Join(differ, "\n"))
	}
	return nil
}

// await asks again until all replicas agree or ctx ends.
func (r *replicas) await(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error // what they said before ctx ended, which cuts an answer short
	for {
		err := r.agree(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}
