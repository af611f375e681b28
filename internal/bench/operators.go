package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/admin"
)

// operators asks nodes over HTTP.
type operators struct {
	token string
	nodes []client.Node
	http  *http.Client // nil: operatorsHTTP
}

// askLimit is for one answer; a transfer may take a node that long.
const askLimit = 12 * time.Second

// askAgain is how often a state that is still to come is looked for.
const askAgain = 50 * time.Millisecond

var operatorsHTTP = &http.Client{Transport: &http.Transport{}} // no proxy: nodes are asked directly

// ask sends a request to a node and decodes the answer into out, if there is
// one.
func (o operators) ask(ctx context.Context, n client.Node, method, path string, out any) error {
	return o.read(ctx, n, method, path, func(body io.Reader) error {
		if out == nil {
			return nil
		}
		return json.NewDecoder(body).Decode(out)
	})
}

// read is ask for an answer that take reads.
func (o operators) read(ctx context.Context, n client.Node, method, path string, take func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP+path, nil)
	if err != nil {
		return err
	}
	if o.token != "" {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	resp, err := cmp.Or(o.http, operatorsHTTP).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s: %s", n.Name, method, path, resp.Status)
	}
	return take(resp.Body)
}

// metrics are those of a node that have no labels, by name.
func (o operators) metrics(ctx context.Context, n client.Node) (map[string]float64, error) {
	var text []byte
	if err := o.read(ctx, n, http.MethodGet, "/metrics", func(body io.Reader) (err error) {
		text, err = io.ReadAll(body)
		return err
	}); err != nil {
		return nil, err
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	return values, nil
}

// collectGarbage returns when the node has. Asking for a profile of its memory
// makes it do so.
func (o operators) collectGarbage(ctx context.Context, n client.Node) error {
	return o.ask(ctx, n, http.MethodGet, "/debug/pprof/heap?gc=1", nil)
}

// leaders returns the leader of each partition, "" where none says that it is.
func (o operators) leaders(ctx context.Context) (leaders []string, err error) {
	err = o.replicas(ctx, func(n client.Node, r admin.PartitionStatus) {
		for len(leaders) <= r.Partition {
			leaders = append(leaders, "")
		}
		if r.Leader == n.Name {
			leaders[r.Partition] = n.Name
		}
	})
	return leaders, err
}

// terms is the sum of all partitions' terms: it rises with each election.
func (o operators) terms(ctx context.Context) (sum int, err error) {
	highest := map[int]uint64{}
	err = o.replicas(ctx, func(_ client.Node, r admin.PartitionStatus) {
		highest[r.Partition] = max(highest[r.Partition], r.Term)
	})
	for _, term := range highest {
		sum += int(term)
	}
	return sum, err
}

// replicas calls visit with the replicas of all nodes.
func (o operators) replicas(ctx context.Context, visit func(client.Node, admin.PartitionStatus)) error {
	for _, n := range o.nodes {
		var replicas []admin.PartitionStatus
		if err := o.ask(ctx, n, http.MethodGet, "/v1/partitions", &replicas); err != nil {
			return err
		}
		for _, r := range replicas {
			visit(n, r)
		}
	}
	return nil
}

// settled waits until every partition has a leader.
func (o operators) settled(ctx context.Context) ([]string, error) {
	return o.until(ctx, func(_ int, leader string) bool { return leader != "" })
}

// spread makes the nodes lead in turn, n1 partition 0, n2 partition 1 and so on,
// and waits until they do. A leader that has just been elected may refuse to
// hand over, so it is asked again.
func (o operators) spread(ctx context.Context) ([]string, error) {
	return o.until(ctx, func(partition int, leader string) bool {
		to := o.nodes[partition%len(o.nodes)].Name
		for _, n := range o.nodes {
			if n.Name == leader && leader != to {
				path := fmt.Sprintf("/v1/partitions/%d/transfer?to=%s", partition, to)
				_ = o.ask(ctx, n, http.MethodPost, path, nil) // seen in the next round
			}
		}
		return leader == to
	})
}

// until looks at the leaders until good says so of each.
func (o operators) until(ctx context.Context, good func(partition int, leader string) bool) ([]string, error) {
	for {
		leaders, err := o.leaders(ctx)
		all := err == nil && len(leaders) > 0
		for i, leader := range leaders {
			all = good(i, leader) && all
		}
		if all {
			return leaders, nil
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("the partitions have no leaders, or not those wanted: %w", err)
		}
	}
}
