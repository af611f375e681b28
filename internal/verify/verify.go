// Package verify checks the data directory of a node that does not run, and
// compares it with that of another node of its cluster. It changes nothing.
//
// Every byte that a node relies on is read: who the node is, terms and votes,
// and per partition each record of the log, each index file and each snapshot,
// which raftlog checks; then the log is replayed, from its beginning or its oldest
// snapshot on, and every later snapshot and every room index must be, byte for
// byte, what the replay makes. What a crash may leave is no fault: the rest of a
// write that never ended, files half made, an index that is not there yet.
//
// Not covered by anything are the bytes of reset.key, addresses in node.json,
// dropped segments that wait to be used again, and what lies behind the end of a
// log in a file that had an earlier life. Nothing of that is ever served.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/raftlog"
)

// Options say what is verified.
type Options struct {
	Dir string
	// Against is the directory of another node, which is verified too and then
	// compared with Dir. "": none.
	Against string
	// Parallel is how many partitions are looked at at once; default 2. Each takes
	// the memory of its rooms and sessions.
	Parallel int
	// Progress is told now and then how many bytes of how many have been read,
	// by one goroutine at a time. May be nil.
	Progress func(done, total int64)
}

// Report is what was found.
type Report struct {
	Node       string      `json:"node"`
	Dir        string      `json:"dir"`
	Partitions []Partition `json:"-"`
	Files      int         `json:"files"`   // read
	Entries    uint64      `json:"entries"` // in the logs
	Bytes      int64       `json:"bytes"`   // of those files
	Fault      *Fault      `json:"fault,omitempty"`
	// Damaged is the fault as a node would tell it when it is started, if a rebuild
	// would mend it.
	Damaged *node.DamagedError `json:"-"`
}

// Partition is what was found of one. Indexes are 0 if there are none.
type Partition struct {
	Node       string `json:"node"`
	Partition  int    `json:"partition"`
	First      uint64 `json:"first"`    // index held
	Last       uint64 `json:"last"`     // index held
	Snapshot   uint64 `json:"snapshot"` // index of the newest
	Snapshots  int    `json:"snapshots"`
	Indexes    int    `json:"room_indexes"` // files compared with what the replay makes
	Entries    uint64 `json:"entries"`
	Messages   uint64 `json:"messages"` // that the log holds
	Rooms      int    `json:"rooms"`
	Bytes      int64  `json:"bytes"` // on disk
	Clean      bool   `json:"clean"` // stopped in order
	Torn       int64  `json:"torn"`  // bytes of a write that never ended
	Rebuilding bool   `json:"rebuilding"`
	Hash       string `json:"hash"` // of the state after the last entry
	Fault      *Fault `json:"fault,omitempty"`

	files     int
	damaged   bool
	snapshots []raftlog.Index
}

// Fault is what is wrong, and where.
type Fault struct {
	File      string `json:"file"`
	Offset    int64  `json:"offset"`
	Reason    string `json:"reason"`
	Partition *int   `json:"partition,omitempty"`
	Rebuild   string `json:"rebuild,omitempty"` // what mends it, as --rebuild takes it
	Remedy    string `json:"remedy,omitempty"`  // what else does
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", f.File, f.Offset, f.Reason)
}

// Run verifies o.Dir. Faults are in the Report: the first one of each partition,
// and the first of all. An error means that it could not be looked at: ctx ended,
// the node runs, or there is no data.
func Run(ctx context.Context, o Options) (*Report, error) {
	reports, err := run(ctx, o, o.Dir)
	if err != nil {
		return nil, err
	}
	return reports[0], nil
}

// RunAgainst verifies o.Dir and o.Against and, if they are without fault, compares them.
func RunAgainst(ctx context.Context, o Options) (here, there *Report, c *Comparison, err error) {
	reports, err := run(ctx, o, o.Dir, o.Against)
	if err != nil {
		return nil, nil, nil, err
	}
	here, there = reports[0], reports[1]
	if here.Fault == nil && there.Fault == nil {
		c, err = compare(ctx, o, here, there)
	}
	return here, there, c, err
}

func run(ctx context.Context, o Options, dirs ...string) (reports []*Report, err error) {
	meter := &meter{tell: o.Progress}
	var all []*node.Stopped
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, dir := range dirs {
		s, err := node.OpenStopped(dir)
		report := &Report{Dir: dir}
		switch fault, ok := faultOf(err); {
		case ok:
			fault.Remedy = "compare the configuration with that of the other nodes and remove the file: the node writes it anew"
			report.Fault = fault
			all = append(all, nil)
		case err != nil:
			return nil, err
		default:
			report.Node = s.Node
			all = append(all, s)
			meter.total += logBytes(dir)
		}
		reports = append(reports, report)
	}
	for i, s := range all {
		if s == nil {
			continue
		}
		if err := verify(ctx, o, s, meter, reports[i]); err != nil {
			return nil, err
		}
	}
	all = slices.DeleteFunc(all, func(s *node.Stopped) bool { return s == nil })
	return reports, nil
}

// verify fills r.
func verify(ctx context.Context, o Options, s *node.Stopped, meter *meter, r *Report) error {
	r.count(s.Dir, "node.json", "reset.key", "raft/stable.db")
	fault, err := faultOrError(s.CheckKey())
	if err != nil {
		return err
	}
	if fault != nil {
		fault.Remedy = "remove the file: the node makes a new one"
		r.fault(fault, nil)
	}
	groups, fault, err := stableGroups(s)
	if err != nil {
		return err
	}
	if fault != nil {
		fault.Rebuild = rebuildIfPossible(s, "all")
		r.fault(fault, &node.DamagedError{All: true, Voters: len(s.Voters), Rebuilds: node.CanRebuild(s.Node, s.Voters), Err: fault})
	}
	if fault := strays(s); fault != nil {
		r.fault(fault, nil)
	}
	r.Partitions = make([]Partition, s.Partitions)
	errs := each(o.Parallel, s.Partitions, func(id int) error {
		c := checker{ctx: ctx, meter: meter, id: id, dir: s.Partition(id), out: &r.Partitions[id]}
		c.out.Node, c.out.Partition = s.Node, id
		return c.check(groups)
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.sum(s)
	return nil
}

// sum adds what the partitions tell.
func (r *Report) sum(s *node.Stopped) {
	damaged := &node.DamagedError{Voters: len(s.Voters), Rebuilds: node.CanRebuild(s.Node, s.Voters)}
	var first *Fault
	for i := range r.Partitions {
		p := &r.Partitions[i]
		r.Files += p.files
		r.Entries += p.Entries
		r.Bytes += p.Bytes
		if p.Fault == nil {
			continue
		}
		if p.damaged {
			damaged.Partitions = append(damaged.Partitions, i)
			damaged.Err = errors.Join(damaged.Err, p.Fault)
			p.Fault.Rebuild = rebuildIfPossible(s, strconv.Itoa(i))
		}
		if first == nil {
			first = p.Fault
		}
	}
	switch {
	case first == nil:
	case len(damaged.Partitions) > 0:
		whole := *first
		if whole.Rebuild != "" {
			whole.Rebuild = damaged.Rebuild()
		}
		r.fault(&whole, damaged)
	default:
		r.fault(first, nil)
	}
}

// rebuildIfPossible is what --rebuild is to be given, "" without a majority beside the node.
func rebuildIfPossible(s *node.Stopped, what string) string {
	if !node.CanRebuild(s.Node, s.Voters) {
		return ""
	}
	return what
}

// fault keeps the first one.
func (r *Report) fault(f *Fault, damaged *node.DamagedError) {
	if r.Fault == nil {
		r.Fault, r.Damaged = f, damaged
	}
}

func (r *Report) count(dir string, names ...string) {
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			r.Files++
			r.Bytes += info.Size()
		}
	}
}

// stableGroups returns which partitions have stored a term, nil if that is not known.
func stableGroups(s *node.Stopped) (map[int]bool, *Fault, error) {
	groups := map[int]bool{}
	if _, err := os.Stat(s.Stable()); errors.Is(err, fs.ErrNotExist) {
		return groups, nil, nil // then no partition may have anything
	}
	ids, err := raftlog.VerifyStable(s.Stable())
	if fault, err := faultOrError(err); fault != nil || err != nil {
		return nil, fault, err
	}
	for _, id := range ids {
		groups[int(id)] = true
	}
	return groups, nil, nil
}

var partitionFolder = regexp.MustCompile(`^p\d{4,}$`)

// strays finds partitions that the node does not know of: its node.json is wrong.
func strays(s *node.Stopped) *Fault {
	names, _ := os.ReadDir(filepath.Dir(s.Stable()))
	for _, entry := range names {
		if !partitionFolder.MatchString(entry.Name()) {
			continue
		}
		if id, err := strconv.Atoi(entry.Name()[1:]); err != nil || id >= s.Partitions {
			return &Fault{
				File:   filepath.Join(filepath.Dir(s.Stable()), entry.Name()),
				Reason: fmt.Sprintf("node.json tells of %d partitions", s.Partitions),
				Remedy: "compare node.json with that of the other nodes",
			}
		}
	}
	return nil
}

// faultOf makes a Fault of an error that tells of damage.
func faultOf(err error) (*Fault, bool) {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f, true
	}
	if d, ok := errors.AsType[*raftlog.DamageError](err); ok {
		return &Fault{File: d.Path, Offset: d.Offset, Reason: d.Reason}, true
	}
	return nil, false
}

// faultOrError sorts errors: damage, also what the disk cannot read, is a Fault;
// what keeps from looking is an error.
func faultOrError(err error) (*Fault, error) {
	if err == nil {
		return nil, nil
	}
	if f, ok := faultOf(err); ok {
		return f, nil
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return &Fault{File: path.Path, Reason: path.Op + ": " + path.Err.Error()}, nil
	}
	return nil, err
}

// each calls f for 0 to n-1, some at once.
func each(parallel, n int, f func(int) error) []error {
	if parallel == 0 {
		parallel = 2
	}
	errs := make([]error, n)
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = f(i)
		})
	}
	wg.Wait()
	return errs
}

// meter adds up what has been read.
type meter struct {
	tell func(done, total int64)

	mu          sync.Mutex
	done, total int64
}

func (m *meter) add(n int64) {
	if m.tell == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = min(m.done+n, m.total)
	m.tell(m.done, m.total)
}

// logBytes is what the segments under dir take.
func logBytes(dir string) (total int64) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".seg") {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}
