package raftlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// rebuild makes a replica anew whose files are damaged. Whatever it acknowledged
// and promised before is lost with them, and Raft allows no voter to forget:
//
//   - An entry may be acknowledged because this replica had it and one other has.
//     If this one now voted with an empty log, a third that lacks the entry could
//     be elected.
//   - It may have voted in a term, and would vote again, for another.
//   - It has left terms behind, and would let a leader of one of those count on it.
//
// So it comes back in steps, and a marker says how far it is:
//
//  1. The marker is written; then the log, the snapshots, term and vote are
//     removed. From here on nothing is acknowledged any more on the strength of
//     what was there, but for answers that are still on their way.
//  2. Without raft running, all other voters are asked until, all asked after
//     step 1, they name one leader and one term, and that leader its last index.
//  3. That term becomes this replica's, with a vote for that leader; then the
//     marker gets the term and the index.
//  4. Raft runs, but neither votes nor is elected, until the log reaches that
//     index, or holds an entry of a later term. Then the marker goes.
//
// Why all the others, and one term t. Whoever was given this replica's vote in a
// term had that term before; whoever counts an acknowledgement of it leads, or
// led, in the term of that acknowledgement. Each is one of the others (a vote for
// itself makes this replica no leader without theirs), terms never fall, and the
// reports came later: no vote and no acknowledgement is of a term beyond t. So
// with t as its term and a vote for its leader the replica cannot vote twice, and
// no leader before t can count on it. With a majority of reports only, one that
// was left out could lead in a later term. The reports need not be of one moment.
//
// Why that leader's last index. An acknowledgement of a term before t was given
// before this replica voted in t, if it did: t's leader was elected by the rules
// and has the entry. One of term t was given to that leader, which had the entry
// before. A leader's log only grows. So all entries that count on what was lost
// are in its log, at or before the index that it reported after step 1. And if
// that log does not get here, because its leader has gone, the first entry of any
// later term will do: its leader was elected by the rules, as follows, and has
// those entries before it.
//
// Why no votes and no candidacy until then. An entry that was acknowledged by a
// majority with this replica is held by that majority less one; a leader is
// elected by a majority of the others. Together these are more than the others
// are, so they share a voter, and it has the entry: the elections are as safe as
// with this replica away. That stays true when several replicas are rebuilt at
// once; they wait for each other, because one in step 2 answers nothing. The
// entry may be acknowledged by this replica in step 4 again, for then it has it.
//
// What it cannot know: a request for votes of its own former life that another
// voter takes up only after its report. Its answer is lost, but a repeat of the
// request, in the same term, would be granted without a look at the log. So if
// the lost term can be read it is kept, in the marker too: the replica never
// again asks for votes in it. Where it cannot be read (the stable store itself is
// damaged), the requests of the former life must be taken to have ended with its
// connections.
//
// A crash in step 1 or 2 begins again with the wiping: nothing has been promised.
// One after the term is stored, before the marker says so, does so too. In step 4
// the replica goes on with what it has: its log came from leaders of term t or
// later, and its term cannot be lower. What was reached stays true: those entries
// are committed, or never will be, and no leader removes a committed entry.
type rebuild struct {
	cfg    *Config
	path   string // of the marker
	stable groupStable

	active atomic.Bool // until the marker is gone

	mu     sync.Mutex
	marker marker
}

// marker is how far a rebuild has come.
type marker struct {
	Format int
	Phase  string
	// Term is the lowest that the replica may have: what is known of the lost
	// one while wiping, and what it has promised when catching up.
	Term  Term
	Until Index // the log reaches at least here before it votes; when catching up
}

const (
	phaseWiping     = "wiping"
	phaseCatchingUp = "catching up"

	markerFormat = 1
	markerLimit  = 4096
)

// wiped are the folders of a group whose files a rebuild removes.
var wiped = []string{logDir, snapshotsDir, "rooms"}

// openRebuild returns the rebuild that is under way or that cfg asks for, nil if
// there is none. Where it is to be wiped the replica then is.
func openRebuild(cfg *Config) (*rebuild, error) {
	r := &rebuild{cfg: cfg, path: filepath.Join(cfg.Dir, rebuildFile), stable: cfg.Stable.group(cfg.ID)}
	r.active.Store(true)
	found, err := r.readMarker()
	switch {
	case cfg.Rebuild:
		if err := r.possible(); err != nil {
			return nil, err
		}
		// A marker that is damaged is replaced, and its term is lost.
		if err := r.write(marker{Phase: phaseWiping, Term: r.lostTerm()}); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !found:
		return nil, nil
	}
	if r.marker.Phase == phaseCatchingUp {
		return r, r.checkPromise()
	}
	if err := r.possible(); err != nil {
		return nil, err
	}
	return r, r.wipe()
}

// possible tells whether the others can elect a leader without this replica.
func (r *rebuild) possible() error {
	switch others, need := len(r.others()), len(r.cfg.Voters)/2+1; {
	case others < need:
		return fmt.Errorf("a replica of %d cannot be rebuilt: the others elect no leader", len(r.cfg.Voters))
	case r.cfg.Ask == nil:
		return errors.New("a replica cannot be rebuilt without Ask")
	}
	return nil
}

func (r *rebuild) others() []string {
	return slices.DeleteFunc(slices.Clone(r.cfg.Voters), func(v string) bool { return v == r.cfg.Node })
}

// lostTerm is the highest term that the replica is known to have had.
func (r *rebuild) lostTerm() Term {
	term, _ := r.stable.GetUint64(keyTerm) // 0 if it cannot be read
	return max(Term(term), r.marker.Term)
}

func (r *rebuild) checkPromise() error {
	term, err := r.stable.GetUint64(keyTerm)
	switch {
	case err != nil && err.Error() != "not found":
		return err
	case Term(term) < r.marker.Term:
		return &DamageError{Path: r.stable.store.path, Reason: fmt.Sprintf("group %d has term %d, but %s tells of term %d", r.cfg.ID, term, r.path, r.marker.Term)}
	}
	return nil
}

// wipe removes what the replica has. A crash may leave any part of it.
func (r *rebuild) wipe() error {
	for _, name := range wiped {
		if err := removeFiles(r.cfg.FS, filepath.Join(r.cfg.Dir, name)); err != nil {
			return err
		}
	}
	if err := r.stable.replace(nil); err != nil {
		return err
	}
	return removeFile(r.cfg.FS, filepath.Join(r.cfg.Dir, fenceFile))
}

func removeFiles(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	for _, name := range names {
		if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return fsys.SyncDir(dir)
}

func removeFile(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// readMarker reads the marker, a line of JSON and its checksum as hex digits.
func (r *rebuild) readMarker() (found bool, err error) {
	data, err := vfs.ReadFile(r.cfg.FS, r.path, markerLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	line, sum, ok := bytes.Cut(data, []byte("\n"))
	var m marker
	if !ok || string(sum) != r.sum(line) || json.Unmarshal(line, &m) != nil {
		return true, &DamageError{Path: r.path, Reason: "not what was written"}
	}
	if m.Format != markerFormat || m.Phase != phaseWiping && m.Phase != phaseCatchingUp {
		return true, fmt.Errorf("%s: format %d, phase %q is not known", r.path, m.Format, m.Phase)
	}
	r.marker = m
	return true, nil
}

func (r *rebuild) write(m marker) error {
	m.Format = markerFormat
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := r.cfg.FS.MkdirAll(r.cfg.Dir); err != nil {
		return err
	}
	err = vfs.WriteFile(r.cfg.FS, r.path, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s\n%s", line, r.sum(line))
		return err
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.marker = m
	r.mu.Unlock()
	return nil
}

func (r *rebuild) sum(line []byte) string {
	group := binary.LittleEndian.AppendUint32(nil, r.cfg.ID)
	return fmt.Sprintf("%08x\n", crc32.Update(crc32.Checksum(group, castagnoli), castagnoli, line))
}

// under tells whether a rebuild is under way. r may be nil.
func (r *rebuild) under() bool { return r != nil && r.active.Load() }

// mayRun tells whether raft may run. r may be nil.
func (r *rebuild) mayRun() bool {
	if !r.under() {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.marker.Phase == phaseCatchingUp
}

// votesBlocked is for newTransport. r may be nil.
func (r *rebuild) votesBlocked() func() bool {
	if !r.under() {
		return nil
	}
	return r.active.Load
}

// target is what the others agree on.
type target struct {
	leader string
	term   Term
	last   Index // of the leader
}

// ask asks all others, again and again, until they agree.
func (r *rebuild) ask(ctx context.Context, log *slog.Logger) (target, error) {
	pause := time.NewTicker(r.cfg.Heartbeat)
	defer pause.Stop()
	for told := ""; ; {
		goal, problem := agreement(r.others(), r.askAll(ctx))
		if problem == "" {
			return goal, nil
		}
		if problem != told && ctx.Err() == nil {
			log.Warn("the rebuild of a replica waits for the others", "group", r.cfg.ID, "because", problem)
			told = problem
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return target{}, ctx.Err()
		}
	}
}

// askAll returns the answers of those that gave one.
func (r *rebuild) askAll(ctx context.Context) map[string]PeerState {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	var (
		mu      sync.Mutex
		answers = map[string]PeerState{}
		asked   sync.WaitGroup
	)
	for _, node := range r.others() {
		asked.Go(func() {
			if state, err := r.cfg.Ask(ctx, node); err == nil {
				mu.Lock()
				defer mu.Unlock()
				answers[node] = state
			}
		})
	}
	asked.Wait()
	return answers
}

// agreement returns what the others agree on, or why they do not.
func agreement(others []string, answers map[string]PeerState) (goal target, problem string) {
	for i, node := range others {
		state, ok := answers[node]
		switch {
		case !ok:
			return target{}, fmt.Sprintf("%s does not answer", node)
		case state.Leader == "":
			return target{}, fmt.Sprintf("%s knows no leader", node)
		case i == 0:
			goal = target{leader: state.Leader, term: state.Term}
		case state.Leader != goal.leader || state.Term != goal.term:
			return target{}, fmt.Sprintf("%s and %s do not follow one leader in one term", others[0], node)
		}
	}
	leads, ok := answers[goal.leader]
	if !ok {
		return target{}, fmt.Sprintf("%s leads for the others, and is none of them", goal.leader)
	}
	if goal.last = leads.Last; goal.last == 0 {
		return target{}, fmt.Sprintf("the leader %s has an empty log", goal.leader)
	}
	return goal, ""
}

// promise makes the replica one of goal's term that has voted for its leader. If
// its own lost term was later it has voted in that, for itself.
func (r *rebuild) promise(goal target) error {
	term, vote := goal.term, goal.leader
	if lost := r.marker.Term; lost > term {
		term, vote = lost, r.cfg.Node
	}
	number := binary.BigEndian.AppendUint64(nil, uint64(term))
	err := r.stable.replace(map[string][]byte{
		string(keyTerm):     number,
		string(keyVoteTerm): number,
		string(keyVote):     []byte(vote),
	})
	if err != nil {
		return err
	}
	return r.write(marker{Phase: phaseCatchingUp, Term: term, Until: goal.last})
}

// Where raft keeps its vote.
var (
	keyVoteTerm = []byte("LastVoteTerm")
	keyVote     = []byte("LastVoteCand")
)

// finish removes the marker and then allows votes.
func (r *rebuild) finish() error {
	if err := removeFile(r.cfg.FS, r.path); err != nil {
		return err
	}
	r.active.Store(false)
	return nil
}

// begin starts raft, or lets a rebuild go on, which then starts it.
func (g *Group) begin() error {
	if g.rebuild == nil {
		if err := g.bootstrap(); err != nil {
			return err
		}
		return g.start()
	}
	if g.rebuild.mayRun() {
		if err := g.start(); err != nil {
			return err
		}
	}
	g.tasks.Go(g.runRebuild)
	return nil
}

func (g *Group) runRebuild() {
	if err := g.goOnRebuilding(); err != nil && g.ctx.Err() == nil {
		g.cfg.Fatal(fmt.Errorf("group %d: rebuild: %w", g.cfg.ID, err))
	}
}

func (g *Group) goOnRebuilding() error {
	r := g.rebuild
	if !r.mayRun() {
		goal, err := r.ask(g.ctx, g.log)
		if err != nil {
			return err
		}
		if err := r.promise(goal); err != nil {
			return err
		}
		g.log.Info("a replica is being rebuilt", "group", g.cfg.ID, "leader", goal.leader, "term", goal.term, "until", goal.last)
		if err := g.startLate(); err != nil {
			return err
		}
	}
	tick := time.NewTicker(g.cfg.Heartbeat / 5)
	defer tick.Stop()
	for {
		done, err := g.rebuilt()
		if err != nil {
			return err
		}
		if done {
			break
		}
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return g.ctx.Err()
		}
	}
	if err := r.finish(); err != nil {
		return err
	}
	g.log.Info("a replica has been rebuilt", "group", g.cfg.ID)
	return nil
}

// startLate starts raft unless the group is being closed.
func (g *Group) startLate() error {
	g.restarting.Lock()
	defer g.restarting.Unlock()
	switch {
	case g.ctx.Err() != nil:
		return g.ctx.Err()
	case g.fenced.Load() != nil || g.instance() != nil:
		return nil
	}
	return g.start()
}

// notRunning is why there is no raft: the group is closed, or waits for others.
func (g *Group) notRunning() error {
	if g.ctx.Err() == nil && !g.rebuild.mayRun() {
		return ErrNotLeader
	}
	return ErrClosed
}

// rebuilt tells whether the replica may vote again: it hears a leader, and its
// log reaches what the marker demands or has an entry of a later term.
func (g *Group) rebuilt() (bool, error) {
	inst := g.instance()
	if inst == nil || inst.raft.LastContact().IsZero() {
		return false, nil
	}
	last := inst.raft.LastIndex()
	if Index(last) >= g.rebuild.marker.Until {
		return true, nil
	}
	term, err := g.lastTerm(last)
	return term > g.rebuild.marker.Term, err
}

// lastTerm is the term of the entry at last, 0 if it is not there any more.
func (g *Group) lastTerm(last uint64) (Term, error) {
	var l raft.Log
	err := g.store.GetLog(last, &l)
	if errors.Is(err, raft.ErrLogNotFound) {
		return 0, nil
	}
	return Term(l.Term), err
}

// PeerState is what this replica answers to a voter that asks about the group; an
// error means that it has nothing to say. A leader tells its own last index.
func (g *Group) PeerState() (PeerState, error) {
	inst := g.instance()
	if inst == nil {
		return PeerState{}, ErrClosed
	}
	l := g.readLeader(inst)
	state := PeerState{Leader: l.node, Term: l.term, Last: Index(inst.raft.LastIndex())}
	if again := g.readLeader(inst); *again != *l {
		return PeerState{}, errors.New("raftlog: the leader is changing")
	}
	return state, nil
}
