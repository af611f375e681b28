package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/admin"
)

// transferPoll is how often a transfer looks for the new leader.
const transferPoll = 100 * time.Millisecond

func newPartition(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "partition", Short: "Look at partitions, move their leaders"}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// A negative number looks like a flag.
		if none, ok := errors.AsType[*pflag.NotExistError](err); ok {
			if _, bad := strconv.Atoi(none.GetSpecifiedShortnames()); bad == nil {
				_, err := partitionArg("-" + none.GetSpecifiedShortnames())
				return err
			}
		}
		return flagError(cmd, err)
	})
	cmd.AddCommand(newPartitionList(a), newPartitionShow(a), newPartitionTransfer(a))
	return cmd
}

func newPartitionList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the partitions",
		Long: `List the partitions. Commit, applied, first and last are indexes of the
partition's log. Behind a replica's name stands how many entries it has still to
apply, "down" if its node does not answer, and what else is wrong with it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			views, err := c.partitions(cmd.Context())
			if err != nil {
				return err
			}
			header := []string{"PARTITION", "LEADER", "TERM", "COMMIT", "APPLIED", "FIRST", "LAST", "SIZE", "ROOMS", "REPLICAS"}
			return emitTable(a, views, header, partitionView.row)
		},
	}
}

func newPartitionShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show N",
		Short: "Show one partition",
		Args:  oneArg("N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := partitionArg(args[0])
			if err != nil {
				return err
			}
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			v, err := c.partition(cmd.Context(), n)
			if err != nil {
				return err
			}
			return a.emit(v, v.text)
		},
	}
}

func newPartitionTransfer(a *app) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "transfer N --to NODE",
		Short: "Hand leadership of a partition to another node",
		Long: `Hand leadership of a partition to another node, and wait until that node leads.
Publishers notice a pause of some milliseconds.`,
		Args: oneArg("N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := partitionArg(args[0])
			if err != nil {
				return err
			}
			if to == "" {
				return usagef("--to is missing: name the node that shall lead")
			}
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			v, err := c.transfer(ctx, n, to)
			if err != nil {
				return err
			}
			return a.emit(v, v.text)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`NODE` that shall lead")
	return cmd
}

func partitionArg(arg string) (int, error) {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 0 {
		return 0, usagef("partition %q: use a number from 0 on", arg)
	}
	return n, nil
}

// partitionView is a line of the partition commands.
type partitionView struct {
	Partition int           `json:"partition"`
	Leader    string        `json:"leader"`
	Term      uint64        `json:"term"`
	Commit    uint64        `json:"commit"`
	Applied   uint64        `json:"applied"`
	First     uint64        `json:"first"`
	Last      uint64        `json:"last"`
	Snapshot  uint64        `json:"snapshot"` // index of the newest one
	Bytes     int64         `json:"bytes"`
	Rooms     int           `json:"rooms"`
	Replicas  []replicaView `json:"replicas"`
}

type replicaView struct {
	Node  string `json:"node"`
	Role  string `json:"role"`  // "voter" or "non-voter"
	Match uint64 `json:"match"` // its last index, as far as the leader has it too
	Lag   uint64 `json:"lag"`   // entries that it has still to apply

	Diverged   []string `json:"diverged,omitempty"` // nodes whose replica it finds to have another hash
	Fenced     string   `json:"fenced,omitempty"`   // why it was stopped for good
	Stalled    bool     `json:"stalled,omitempty"`
	Rebuilding bool     `json:"rebuilding,omitempty"`

	down bool
}

// trouble says in some words what is wrong with a replica, "" if nothing.
func (r replicaView) trouble() string {
	var words []string
	for _, t := range []struct {
		is   bool
		word string
	}{
		{r.down, "down"}, {r.Fenced != "", "fenced"}, {r.Rebuilding, "rebuilding"}, {r.Stalled, "stalled"},
		{len(r.Diverged) > 0, "differs from " + strings.Join(r.Diverged, " and ")},
	} {
		if t.is {
			words = append(words, t.word)
		}
	}
	return strings.Join(words, ", ")
}

func (v partitionView) row() []any {
	var replicas []string
	for _, r := range v.Replicas {
		s := r.Node
		if !r.down && r.Lag > 0 {
			s += fmt.Sprintf(" (-%d)", r.Lag)
		}
		if trouble := r.trouble(); trouble != "" {
			s += " (" + trouble + ")"
		}
		replicas = append(replicas, s)
	}
	return []any{v.Partition, dash(v.Leader), v.Term, v.Commit, v.Applied, v.First, v.Last, formatBytes(v.Bytes), v.Rooms,
		strings.Join(replicas, ", ")}
}

func (v partitionView) text(w io.Writer) {
	fmt.Fprintf(w, "partition  %d\n", v.Partition)
	fmt.Fprintf(w, "leader     %s\n", dash(v.Leader))
	fmt.Fprintf(w, "term       %d\n", v.Term)
	fmt.Fprintf(w, "commit     %d\n", v.Commit)
	fmt.Fprintf(w, "applied    %d\n", v.Applied)
	fmt.Fprintf(w, "log        %d to %d, %s\n", v.First, v.Last, formatBytes(v.Bytes))
	fmt.Fprintf(w, "snapshot   %d\n", v.Snapshot)
	fmt.Fprintf(w, "rooms      %d\n\n", v.Rooms)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "REPLICA\tROLE\tMATCH\tLAG")
	for _, r := range v.Replicas {
		role := r.Role
		if trouble := r.trouble(); trouble != "" {
			role += " (" + trouble + ")"
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\n", r.Node, role, r.Match, r.Lag)
	}
	tw.Flush() // w keeps the error
	for _, r := range v.Replicas {
		if r.Fenced != "" {
			fmt.Fprintf(w, "\n%s is fenced: %s\nStart it with --rebuild %d to build its replica anew from the others.\n", r.Node, r.Fenced, v.Partition)
		}
	}
}

// dash stands for what is not known.
func dash(s string) string { return cmp.Or(s, "-") }

// partitions asks all nodes and merges what they say, by number.
func (c *cluster) partitions(ctx context.Context) ([]partitionView, error) {
	answers, err := askAll[[]admin.PartitionStatus](ctx, c, "/v1/partitions")
	if err != nil {
		return nil, err
	}
	byNumber := map[int][]replica{}
	var down []string
	for _, a := range answers {
		if a.err != nil {
			down = append(down, a.node.Name)
		}
		for _, s := range a.value {
			byNumber[s.Partition] = append(byNumber[s.Partition], replica{a.node.Name, s})
		}
	}
	views := make([]partitionView, 0, len(byNumber))
	for _, replicas := range byNumber {
		views = append(views, mergePartition(replicas, down))
	}
	slices.SortFunc(views, func(a, b partitionView) int { return cmp.Compare(a.Partition, b.Partition) })
	return views, nil
}

func (c *cluster) partition(ctx context.Context, n int) (partitionView, error) {
	views, err := c.partitions(ctx)
	if err != nil {
		return partitionView{}, err
	}
	i := slices.IndexFunc(views, func(v partitionView) bool { return v.Partition == n })
	if i < 0 {
		return partitionView{}, fmt.Errorf("partition %d: there is none; the cluster has %d, from 0 on", n, len(views))
	}
	return views[i], nil
}

// replica is a partition as one node sees it.
type replica struct {
	node string
	admin.PartitionStatus
}

// mergePartition makes one view of a partition. The leader's numbers count;
// without its answer those of the replica that has come furthest. Nodes that
// are down are listed if they hold it: they have the whole log still to apply.
func mergePartition(replicas []replica, down []string) partitionView {
	lead := slices.MaxFunc(replicas, func(a, b replica) int {
		return cmp.Or(
			compareBool(a.Fenced == "", b.Fenced == ""),
			cmp.Compare(a.Term, b.Term),
			compareBool(a.Leader == a.node, b.Leader == b.node),
			compareBool(a.Leader != "", b.Leader != ""),
			cmp.Compare(a.Applied, b.Applied),
		)
	})
	v := partitionView{
		Partition: lead.Partition, Leader: lead.Leader, Term: lead.Term, Commit: lead.Commit, Applied: lead.Applied,
		First: lead.First, Last: lead.Last, Snapshot: lead.Snapshot, Bytes: lead.Bytes, Rooms: lead.Rooms,
	}
	for _, r := range replicas {
		role := "non-voter"
		if r.Voter || slices.Contains(lead.Voters, r.node) { // one that is fenced knows of no voters
			role = "voter"
		}
		lag := lead.Commit - min(lead.Commit, r.Applied)
		v.Replicas = append(v.Replicas, replicaView{
			Node: r.node, Role: role, Match: min(r.Last, lead.Last), Lag: lag,
			Diverged: r.Diverged, Fenced: r.Fenced, Stalled: r.Stalled, Rebuilding: r.Rebuilding,
		})
	}
	known := lead.Last
	if !v.led() {
		known = slices.MaxFunc(replicas, func(a, b replica) int { return cmp.Compare(a.Last, b.Last) }).Last
	}
	for _, node := range down {
		role := "voter"
		switch {
		case slices.Contains(lead.Voters, node):
		case slices.Contains(lead.Nonvoters, node):
			role = "non-voter"
		default:
			continue
		}
		v.Replicas = append(v.Replicas, replicaView{Node: node, Role: role, Lag: known, down: true})
	}
	slices.SortFunc(v.Replicas, func(a, b replicaView) int { return cmp.Compare(a.Node, b.Node) })
	return v
}

// led tells whether the leader is known and has answered.
func (v partitionView) led() bool {
	return slices.ContainsFunc(v.Replicas, func(r replicaView) bool { return r.Node == v.Leader && !r.down })
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// transfer asks the leader to hand over and returns once to is seen to lead.
// While no leader can be reached it waits for one.
func (c *cluster) transfer(ctx context.Context, n int, to string) (partitionView, error) {
	asked, lastErr := false, error(nil)
	for {
		v, err := c.partition(ctx, n)
		if err == nil {
			err = checkTarget(v, to)
		}
		if err != nil || v.Leader == to {
			return v, err
		}
		if c.drains(ctx, to) {
			return v, fmt.Errorf("partition %d: %s is being drained and would give it back: roomlog node drain %s --undo", n, to, to)
		}
		if leader, ok := c.node(v.Leader); ok && !asked {
			lastErr = c.askTransfer(ctx, leader, n, to)
			if asked = lastErr == nil; !asked && !elsewhere(lastErr) {
				return v, fmt.Errorf("partition %d: %s did not hand over to %s: %w", n, leader.Name, to, lastErr)
			}
		}
		select {
		case <-ctx.Done():
			if v.Leader == "" {
				return v, fmt.Errorf("partition %d: there is no leader that could hand over to %s; most of its nodes must run", n, to)
			}
			return v, fmt.Errorf("partition %d: still led by %q, not %s: %w", n, v.Leader, to, cmp.Or(lastErr, ctx.Err()))
		case <-time.After(transferPoll):
		}
	}
}

// drains tells whether a node says that it is being drained.
func (c *cluster) drains(ctx context.Context, node string) bool {
	n, ok := c.node(node)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	var status admin.NodeStatus
	return c.do(ctx, n, http.MethodGet, "/v1/node", &status) == nil && status.Draining
}

// checkTarget tells why a node cannot lead a partition.
func checkTarget(v partitionView, to string) error {
	var voters []string
	for _, r := range v.Replicas {
		switch {
		case r.Node == to && r.down:
			return fmt.Errorf("partition %d: node %s does not answer", v.Partition, to)
		case r.Node == to && (r.Fenced != "" || r.Rebuilding):
			return fmt.Errorf("partition %d: the replica of node %s cannot lead, it is %s", v.Partition, to, r.trouble())
		case r.Node == to && r.Role == "voter":
			return nil
		case r.Role == "voter":
			voters = append(voters, r.Node)
		}
	}
	return fmt.Errorf("partition %d: node %q has no vote; those that can lead are %s", v.Partition, to, strings.Join(voters, ", "))
}

func (c *cluster) node(name string) (client.Node, bool) {
	i := slices.IndexFunc(c.nodes, func(n client.Node) bool { return n.Name == name })
	if i < 0 {
		return client.Node{}, false
	}
	return c.nodes[i], true
}

func (c *cluster) askTransfer(ctx context.Context, leader client.Node, n int, to string) error {
	path := fmt.Sprintf("/v1/partitions/%d/transfer?to=%s", n, url.QueryEscape(to))
	var out admin.Transferred
	return c.do(ctx, leader, http.MethodPost, path, &out)
}

// elsewhere tells whether a transfer failed because the node does not lead, or
// could not be reached: then it is worth looking again who leads.
func elsewhere(err error) bool {
	var failed *statusError
	return !errors.As(err, &failed) || failed.status == http.StatusConflict
}
