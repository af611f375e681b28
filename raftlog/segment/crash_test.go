package segment_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// Small segments: a header page and three pages of records.
const segmentBytes = 16 << 10

// thorough multiplies how much is drawn at random and how many recoveries are
// crashed in turn; ROOMLOG_CRASH_THOROUGH raises it for a soak.
var thorough = func() int {
	if n, err := strconv.Atoi(os.Getenv("ROOMLOG_CRASH_THOROUGH")); err == nil && n > 0 {
		return n
	}
	return 1
}()

// underRace is set when the race detector makes everything ten times slower.
// The crashes are of one goroutine, so it has little to see: less is tried then.
var underRace bool

var crashScripts = map[string]string{
	"append and roll": `
		open
		store 1x40
		store 5x40
		store 3x1500
		store 1x0
		store 2x4000
		store 2x1000
		close
		open
		store 1x100
		term
		store 4x2900
		store 1x20000
		store 2x100
		abandon
		open
		store 2x700
		close
		open
		close
		open
		store 1x5000
	`,
	"cut": `
		open
		store 4x100
		cut 1
		term
		store 2x700
		store 3x3000
		store 3x3000
		store 3x3000
		store 2x600
		cut 1
		# a whole segment, then across a roll
		cut 4
		cut 5
		term
		store 1x4000
		store 5x2500
		close
		open
		cut 3
		close
		open
		term
		store 2x600
		# all of them
		cut 11
		term
		store 2x600
		close
		open
	`,
	"drop and recycle": `
		open
		store 3x3000
		store 3x3000
		store 3x3000
		store 3x3000
		store 1x100
		drop 5
		drop 11
		store 1x6000
		# into a file that had another life
		store 2x3000
		store 2x600
		store 3x3000
		store 2x2500
		cut 4
		term
		store 1x600
		close
		open
		drop 15
		store 3x3900
		store 3x3900
		drop 99
		store 2x3000
		abandon
		open
		store 1x20000
		store 2x3000
		store 1x600
	`,
	"reset": `
		open
		store 3x3000
		store 3x3000
		store 2x600
		# held: nothing happens
		reset 4/1
		store 1x600
		# ahead of the log
		reset 20/2
		term
		store 2x600
		store 3x3000
		store 3x3000
		# held with another term: what is behind stays until the cut
		reset 24/3
		ghost 25/28
		term
		term
		store 1x600
		store 3x3000
		store 2x3000
		reset 26/9
		close
		open
		store 2x600
		reset 50/9
		close
		open
		reset 60/9
		abandon
		open
		store 3x3000
		store 3x3000
		drop 63
		reset 90/9
		store 1x100
	`,
}

// resend is the entry that a leader sends next after a crash: the one that was
// under way, the same to the byte, or else a new one.
func (r *run) resend() *raft.Log {
	for _, other := range r.start {
		if other.boundary == r.now.boundary && len(other.entries) > len(r.now.entries) && r.life%3 > 0 {
			return other.entries[len(r.now.entries)]
		}
	}
	return r.entries(1, 600)[0]
}

// goOn opens the log as it is found, uses it and opens it again.
func (r *run) goOn(cleanly bool) error {
	before := r.disk.Ops()
	if report, err := segment.Verify(options(r.disk), func(*raft.Log) error { return nil }); err != nil {
		return fmt.Errorf("verify what is found: %w", err)
	} else if r.closed && !report.Clean {
		return errors.New("it does not look closed")
	}
	if r.disk.Ops() != before {
		return fmt.Errorf("verify has written: %q", r.disk.Trace()[before:])
	}
	if err := r.open(); err != nil {
		return err
	}
	if err := r.store(r.resend()); err != nil {
		return err
	}
	if r.life%25 == 0 {
		if err := r.play("store 3x3000\n store 2x3000\n cut 3\n store 1x100"); err != nil {
			return err
		}
	}
	if err := r.stop(cleanly); err != nil {
		return err
	}
	if cleanly {
		if report, err := segment.Verify(options(r.disk), func(*raft.Log) error { return nil }); err != nil {
			return fmt.Errorf("verify: %w", err)
		} else if int(report.Entries) != len(r.now.entries) || !report.Clean {
			return fmt.Errorf("verify found %+v in %v", report, r.now)
		}
	}
	if err := r.open(); err != nil {
		return err
	}
	return r.stop(false)
}

// next is a run after a crash or kill of this one.
func (r *run) next(disk *crashfs.FS, after int, allowed []image) *run {
	next := newRun(disk, allowed)
	next.life = (r.life/1000+1)*1000 + uint64(after)%1000
	return next
}

// crashes goes on from every crash and returns what went wrong first. Each run
// that went on is shown to visit, with the situation that it began in.
func (r *run) crashes(e crashfs.Explore, visit func(r *run, began string)) error {
	type state struct {
		sum    uint64
		moment int
	}
	seen := map[state]bool{}
	e.From = max(e.From, r.from)
	for crash := range r.disk.Crashes(e) {
		allowed, moment := r.promise(crash.After)
		s := state{crash.Sum(), moment}
		if seen[s] {
			continue
		}
		seen[s] = true
		next := r.next(crash.FS(), crash.After, allowed)
		next.closed = moment > 0 && moment%2 == 0 && r.calls[moment/2-1].text == "close"
		if err := next.goOn(moment%3 == 0); err != nil {
			return fmt.Errorf("crash %s, %v: %w", r.under(moment), crash, err)
		}
		visit(next, "crash "+r.under(moment))
	}
	return nil
}

// kinds keeps a few runs of every kind: those that began in the same situation
// and synced for the same purposes are of one.
type kinds struct {
	each int
	kept map[string][]*run
}

func (k *kinds) add(r *run, began string) {
	kind := []string{strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c == '+' {
			return -1
		}
		return c
	}, began)}
	for _, s := range r.disk.Syncs() {
		if s.After >= r.from {
			kind = append(kind, s.Kind())
		}
	}
	slices.Sort(kind[1:])
	key := strings.Join(slices.Compact(kind), ", ")
	if k.kept == nil {
		k.kept = map[string][]*run{}
	}
	if len(k.kept[key]) < k.each {
		k.kept[key] = append(k.kept[key], r)
	}
}

func (k *kinds) runs() []*run {
	var all []*run
	for _, kind := range slices.Sorted(maps.Keys(k.kept)) {
		all = append(all, k.kept[kind]...)
	}
	return all
}

// kills starts again after every kill of the process, which loses nothing by itself.
func (r *run) kills(visit func(r *run, began string)) error {
	trace := append([]string{"start"}, r.disk.Trace()...)
	for n := r.from; n <= r.disk.Ops(); n++ {
		allowed, moment := r.promise(n)
		next := r.next(r.disk.Killed(n), n, allowed)
		if err := next.goOn(moment%3 == 0); err != nil {
			return fmt.Errorf("kill %s (operation %d): %w", r.under(moment), n, err)
		}
		visit(next, "kill "+r.under(moment)+" by "+trace[n])
	}
	return nil
}

// recordings are the runs of all scripts, and of recoveries from crashes and
// kills of them, a few of each kind.
var recordings = sync.OnceValues(func() (all []*run, err error) {
	killed, crashed := &kinds{each: thorough}, &kinds{each: thorough}
	for _, name := range slices.Sorted(maps.Keys(crashScripts)) {
		r := newRun(crashfs.New(), []image{{}})
		if err := r.play(crashScripts[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, r)
		if err := r.crashes(crashfs.Explore{Samples: 4 * thorough}, crashed.add); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := r.kills(killed.add); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return slices.Concat(all, killed.runs(), crashed.runs()), nil
})

// TestCrash cuts the power at every operation of the scripts. The log opens
// again, with all that was promised and nothing that was not; and it can be used.
func TestCrash(t *testing.T) {
	if _, err := recordings(); err != nil {
		t.Fatal(err)
	}
}

// TestCrashAgain cuts the power while the log recovers from a cut or a kill, and
// while it is used after that.
func TestCrashAgain(t *testing.T) {
	all, err := recordings()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range all[len(crashScripts):] {
		if underRace && i%4 > 0 {
			continue
		}
		if err := r.crashes(crashfs.Explore{Exhaustive: 3, Samples: 2 * thorough}, func(*run, string) {}); err != nil {
			t.Fatalf("after a recovery with the operations\n%s\n%v", strings.Join(r.disk.Trace()[r.from:], "\n"), err)
		}
	}
}

// TestEverySyncIsNeeded leaves out the syncs of one purpose after another, and
// requires of every line that syncs that a crash then does harm, for one of its
// callers at least. So the tests above see what they claim to see, and the log
// syncs no more than it must.
func TestEverySyncIsNeeded(t *testing.T) {
	all, err := recordings()
	if err != nil {
		t.Fatal(err)
	}
	purposes := map[string]map[*run][]crashfs.Sync{}
	lines := map[string]string{}
	for _, r := range all {
		for _, s := range r.disk.Syncs() {
			if s.After < r.from {
				continue
			}
			kind := s.Kind()
			if purposes[kind] == nil {
				purposes[kind] = map[*run][]crashfs.Sync{}
			}
			purposes[kind][r] = append(purposes[kind][r], s)
			lines[kind], _, _ = strings.Cut(kind, " < ")
		}
	}
	harmed := map[string]bool{}
	for _, kind := range slices.Sorted(maps.Keys(purposes)) {
		if underRace && harmed[lines[kind]] {
			continue
		}
		var harm error
		tried := 0
		for _, r := range all {
			if syncs := purposes[kind][r]; len(syncs) > 0 && harm == nil {
				harm = r.crashes(without(syncs), func(*run, string) { tried++ })
			}
		}
		harmed[lines[kind]] = harmed[lines[kind]] || harm != nil
		if harm == nil {
			t.Logf("no harm in %d crashes without the sync of %s", tried, kind)
		} else {
			t.Logf("after %d crashes without the sync of %s: %.300v", tried, kind, harm)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(harmed)) {
		if !harmed[line] {
			t.Errorf("without the sync of %s no crash does any harm", line)
		}
	}
}

// without explores as if these syncs had not been called.
func without(syncs []crashfs.Sync) crashfs.Explore {
	left := map[int]bool{}
	for _, s := range syncs {
		left[s.N] = true
	}
	return crashfs.Explore{
		From:   syncs[0].After,
		Ignore: func(s crashfs.Sync) bool { return left[s.N] },
	}
}
