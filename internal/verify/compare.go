package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/raftlog"
)

// Comparison is what was found of two nodes' data.
type Comparison struct {
	With       string      `json:"against"` // the other directory
	Partitions []Compared  `json:"-"`
	Entries    uint64      `json:"compared_entries"` // that both hold, and that are the same
	Snapshots  int         `json:"compared_snapshots"`
	Difference *Difference `json:"difference,omitempty"` // the first one
}

// Compared is what was found of one partition. Known is up to where both nodes are
// known to have applied the log: the lower of their newest snapshots. Entries
// beyond may differ in order, as long as they are of different terms: at most one
// of the two is, or will be, committed.
type Compared struct {
	Partition  int         `json:"partition"`
	From       uint64      `json:"from"` // both hold entries from here
	To         uint64      `json:"to"`   // to here
	Known      uint64      `json:"known"`
	Same       uint64      `json:"same"`   // entries that are
	Beyond     uint64      `json:"beyond"` // 0, or the first entry behind Known that differs as it may
	Snapshots  int         `json:"snapshots"`
	Difference *Difference `json:"difference,omitempty"`
}

// Difference is where two nodes differ that must not.
type Difference struct {
	Partition int    `json:"partition"`
	Index     uint64 `json:"index"`
	What      string `json:"what"` // "entry" or "snapshot"
	Here      Value  `json:"here"`
	There     Value  `json:"there"`
}

// Value is one node's: an entry's data or a snapshot file. Hash is "" where that
// node has no message entry there, but one of raft's own.
type Value struct {
	Node string `json:"node"`
	Term uint64 `json:"term,omitempty"`
	Size int64  `json:"size"`
	Hash string `json:"sha256"`
}

func (d *Difference) Error() string {
	return fmt.Sprintf("partition %d: the %s at %d differs: %s, %s", d.Partition, d.What, d.Index, d.Here, d.There)
}

func (v Value) String() string {
	if v.Hash == "" {
		return fmt.Sprintf("%s has none of a client's", v.Node)
	}
	if v.Term == 0 {
		return fmt.Sprintf("%s has %d bytes with SHA-256 %s", v.Node, v.Size, v.Hash)
	}
	return fmt.Sprintf("%s has %d bytes of term %d with SHA-256 %s", v.Node, v.Size, v.Term, v.Hash)
}

// compare compares what has been verified.
func compare(ctx context.Context, o Options, here, there *Report) (*Comparison, error) {
	one, err := node.OpenStopped(here.Dir)
	if err != nil {
		return nil, err
	}
	defer one.Close()
	two, err := node.OpenStopped(there.Dir)
	if err != nil {
		return nil, err
	}
	defer two.Close()
	switch {
	case !slices.Equal(one.Members, two.Members) || one.Partitions != two.Partitions:
		return nil, fmt.Errorf("%s is of %d partitions on %q, %s of %d partitions on %q: not one cluster",
			here.Dir, one.Partitions, one.Members, there.Dir, two.Partitions, two.Members)
	case one.Node == two.Node:
		return nil, fmt.Errorf("%s and %s are both of node %s", here.Dir, there.Dir, one.Node)
	}
	c := &Comparison{With: there.Dir, Partitions: make([]Compared, one.Partitions)}
	errs := each(o.Parallel, one.Partitions, func(id int) error {
		p := pair{
			ctx: ctx, id: id, here: one.Partition(id), there: two.Partition(id), nodes: [2]string{one.Node, two.Node},
			a: &here.Partitions[id], b: &there.Partitions[id], out: &c.Partitions[id],
		}
		return p.compare()
	})
	for i := range c.Partitions {
		p := &c.Partitions[i]
		c.Entries += p.Same
		c.Snapshots += p.Snapshots
		if c.Difference == nil {
			c.Difference = p.Difference
		}
	}
	return c, errors.Join(errs...)
}

// pair is one partition on two nodes.
type pair struct {
	ctx         context.Context
	id          int
	here, there string
	nodes       [2]string
	a, b        *Partition
	out         *Compared

	beyond *Difference // the first that may be
}

func (p *pair) compare() error {
	out := p.out
	out.Partition = p.id
	out.Known = min(p.a.Snapshot, p.b.Snapshot)
	if p.a.Entries == 0 || p.b.Entries == 0 {
		return p.snapshots()
	}
	out.From, out.To = max(p.a.First, p.b.First), min(p.a.Last, p.b.Last)
	if out.From > out.To {
		out.From, out.To = 0, 0
		return p.snapshots()
	}
	err := p.entries(p.commands(p.here, out.From, out.To), p.commands(p.there, out.From, out.To))
	if err != nil || out.Difference != nil {
		return err
	}
	return p.snapshots()
}

var errEnough = errors.New("enough")

// commands yields the entries of a log that are commands, up to an index.
func (p *pair) commands(dir string, from, to uint64) iter.Seq2[raftlog.Entry, error] {
	return func(yield func(raftlog.Entry, error) bool) {
		_, err := raftlog.Verify(raftlog.Verification{Dir: dir, ID: uint32(p.id), Entry: func(e raftlog.Entry) error {
			switch {
			case p.ctx.Err() != nil:
				return p.ctx.Err()
			case uint64(e.Index) < from:
				return nil
			case uint64(e.Index) > to || !yield(e, nil):
				return errEnough
			}
			return nil
		}})
		if err != nil && !errors.Is(err, errEnough) {
			yield(raftlog.Entry{}, err)
		}
	}
}

// entries goes through both logs side by side. Raft gives index and term to one
// entry only, and if two logs have one in common they have all before it in
// common: so entries of one term must be the same wherever they are, and behind
// one that differs none may be of one term.
func (p *pair) entries(here, there iter.Seq2[raftlog.Entry, error]) error {
	next, stop := iter.Pull2(here)
	defer stop()
	nextThere, stopThere := iter.Pull2(there)
	defer stopThere()
	a, err, more := next()
	b, errThere, moreThere := nextThere()
	for more || moreThere {
		if err := errors.Join(err, errThere); err != nil {
			return err
		}
		var one, other *raftlog.Entry
		if more && (!moreThere || a.Index <= b.Index) {
			one = &a
		}
		if moreThere && (!more || b.Index <= a.Index) {
			other = &b
		}
		if p.meet(one, other); p.out.Difference != nil {
			return nil
		}
		if one != nil {
			a, err, more = next()
		}
		if other != nil {
			b, errThere, moreThere = nextThere()
		}
	}
	return nil
}

// meet compares the entries at one index; nil is one of raft's own.
func (p *pair) meet(a, b *raftlog.Entry) {
	sameTerm := a != nil && b != nil && a.Term == b.Term
	if sameTerm && bytes.Equal(a.Data, b.Data) {
		p.out.Difference = p.beyond // equal entries behind others must not be
		p.out.Same++
		return
	}
	differ := p.differ(a, b)
	if p.beyond == nil {
		p.beyond = differ
	}
	if sameTerm || differ.Index <= p.out.Known {
		p.out.Difference = p.beyond
	}
	p.out.Beyond = p.beyond.Index
}

func (p *pair) differ(a, b *raftlog.Entry) *Difference {
	d := &Difference{Partition: p.id, What: "entry", Here: Value{Node: p.nodes[0]}, There: Value{Node: p.nodes[1]}}
	for i, e := range []*raftlog.Entry{a, b} {
		if e != nil {
			v := []*Value{&d.Here, &d.There}[i]
			v.Term, v.Size, v.Hash = uint64(e.Term), int64(len(e.Data)), fmt.Sprintf("%x", sha256.Sum256(e.Data))
			d.Index = uint64(e.Index)
		}
	}
	return d
}

// snapshots compares those that both have, whole files.
func (p *pair) snapshots() error {
	for _, index := range p.a.snapshots {
		if _, both := slices.BinarySearch(p.b.snapshots, index); !both {
			continue
		}
		name := filepath.Join("snapshots", fmt.Sprintf("%020d.snap", uint64(index)))
		here, err := fileValue(p.nodes[0], filepath.Join(p.here, name))
		if err != nil {
			return err
		}
		there, err := fileValue(p.nodes[1], filepath.Join(p.there, name))
		if err != nil {
			return err
		}
		if here.Hash != there.Hash {
			p.out.Difference = &Difference{Partition: p.id, Index: uint64(index), What: "snapshot", Here: here, There: there}
			return nil
		}
		p.out.Snapshots++
	}
	return nil
}

func fileValue(name, path string) (Value, error) {
	f, err := os.Open(path)
	if err != nil {
		return Value{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return Value{Node: name, Size: n, Hash: fmt.Sprintf("%x", sum.Sum(nil))}, err
}
