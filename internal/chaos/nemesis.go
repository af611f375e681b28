package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Nemesis is a kind of fault.
type Nemesis struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`

	// kind is what it acts on: two nemeses of different kinds may be at work at
	// the same time.
	kind kind
	// ends is set where nodes may end by themselves, and rightly.
	ends bool

	// strike makes the fault, lets it last, and takes it away. took is how often it
	// took effect: 0 tells that it did not at all.
	strike func(ctx context.Context, e *episode) (took int, err error)
}

// kind is the part of the world that a nemesis acts on.
type kind int

const (
	onProcesses kind = iota
	onNetwork
	onDisks
	onClocks
	onClients
)

// Nemeses are all there are, in the order of the documentation.
func Nemeses() []Nemesis {
	return slices.Concat(processFaults, networkFaults, diskFaults, clockFaults, clientFaults)
}

// Mix as the name of a nemesis means that now and then two strike at the same time.
const Mix = "mix"

// find returns the nemeses with these names; none but Mix: all.
func find(names []string) ([]Nemesis, error) {
	all := Nemeses()
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == Mix })
	if len(names) == 0 {
		return all, nil
	}
	found := make([]Nemesis, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(all, func(n Nemesis) bool { return n.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no nemesis %q: use %s, or %s", name, strings.Join(nemesisNames(), ", "), Mix)
		}
		found = append(found, all[i])
	}
	return found, nil
}

func nemesisNames() (names []string) {
	for _, n := range Nemeses() {
		names = append(names, n.Name)
	}
	return names
}

// episode is one strike of a nemesis.
type episode struct {
	*cluster
	load  *load
	rng   *rand.Rand
	hold  time.Duration           // how long the fault shall last
	began func(targets ...string) // tells the history that the fault is there now
}

// wait lets time pass; it returns ctx's error if that ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// one draws a node.
func (e *episode) one() string { return e.names[e.rng.IntN(len(e.names))] }

// some draws one node, a minority, a majority or all.
func (e *episode) some() []string {
	n := len(e.names)
	return e.draw([]int{1, (n - 1) / 2, n/2 + 1, n}[e.rng.IntN(4)])
}

// draw draws count different nodes.
func (e *episode) draw(count int) []string {
	nodes := make([]string, 0, count)
	for _, i := range e.rng.Perm(len(e.names))[:count] {
		nodes = append(nodes, e.names[i])
	}
	slices.Sort(nodes)
	return nodes
}

// others are all nodes but these.
func (e *episode) others(than ...string) []string {
	return slices.DeleteFunc(slices.Clone(e.names), func(n string) bool { return slices.Contains(than, n) })
}

// aLeader is the node that leads a partition drawn by chance, or any node if
// none does.
func (e *episode) aLeader(ctx context.Context) string {
	if leader := e.leader(ctx, e.rng.IntN(e.partitions)); leader != "" {
		return leader
	}
	return e.one()
}
