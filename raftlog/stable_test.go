package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func openTestStable(t testing.TB, path string) *StableStore {
	t.Helper()
	s, err := OpenStable(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStableStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	s := openTestStable(t, path)
	ids := []uint32{0, 1, 1 << 24}
	name, vote := keyVoteTerm, keyVote
	for _, id := range ids {
		g := s.group(id)
		// Raft compares the text.
		if _, err := g.Get(vote); err == nil || err.Error() != "not found" {
			t.Errorf("Get of nothing = %v", err)
		}
		if _, err := g.GetUint64(name); err == nil || err.Error() != "not found" {
			t.Errorf("GetUint64 of nothing = %v", err)
		}
		if exists, err := g.exists(); exists || err != nil {
			t.Errorf("exists = %v, %v before the first Set", exists, err)
		}
	}
	for round := range uint64(2) {
		for i, id := range ids {
			g, value := s.group(id), []byte{'n', byte(i), byte(round)}
			err := errors.Join(g.SetUint64(name, 10*round+uint64(i)), g.Set(vote, value), g.Set([]byte("empty"), nil))
			if err != nil {
				t.Fatal(err)
			}
			value[0] = 'x' // it was the caller's again
		}
	}
	check := func() {
		t.Helper()
		for i, id := range ids {
			g := s.group(id)
			if got, err := g.GetUint64(name); err != nil || got != 10+uint64(i) {
				t.Errorf("group %d: term %d, %v", id, got, err)
			}
			if got, err := g.Get(vote); err != nil || !bytes.Equal(got, []byte{'n', byte(i), 1}) {
				t.Errorf("group %d: vote %q, %v", id, got, err)
			}
			if got, err := g.Get([]byte("empty")); err != nil || got == nil || len(got) != 0 {
				t.Errorf("group %d: empty value %q, %v", id, got, err)
			}
			if _, err := g.GetUint64(vote); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("group %d: a vote is no number, but: %v", id, err)
			}
			if exists, err := g.exists(); !exists || err != nil {
				t.Errorf("exists = %v, %v", exists, err)
			}
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if held, err := VerifyStable(path); err != nil || !slices.Equal(held, ids) {
		t.Errorf("VerifyStable = %v, %v", held, err)
	}
	s = openTestStable(t, path)
	check()

	// A group that is wiped has never stored anything.
	if err := s.group(1).replace(nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTestStable(t, path)
	if exists, err := s.group(1).exists(); exists || err != nil {
		t.Errorf("exists = %v, %v after it was wiped", exists, err)
	}
	ids = []uint32{0, 1 << 24}
	if got, err := s.group(1 << 24).GetUint64(name); err != nil || got != 12 {
		t.Errorf("another group's term is %d, %v", got, err)
	}
}

func TestStableStoreIsOpenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	openTestStable(t, path)
	if _, err := OpenStable(path); err == nil || !strings.Contains(err.Error(), path+": another process has it open") {
		t.Errorf("opened twice: %v", err)
	}
}

// A store that was being made when the node ended is made anew, and is not there
// before it is whole.
func TestStableStoreIsMadeWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	if err := os.WriteFile(path+".tmp", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openTestStable(t, path).group(1).SetUint64(keyTerm, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".tmp"); err == nil {
		t.Error("the half one is still there")
	}
}

// Groups that write at the same time do not wait for a transaction each, and each
// has what it wrote when its write returns.
func TestStableStoreSharesTransactions(t *testing.T) {
	const groups, rounds = 16, 20
	path := filepath.Join(t.TempDir(), "stable.db")
	s := openTestStable(t, path)
	before := transaction(t, path)
	var all sync.WaitGroup
	for id := range uint32(groups) {
		all.Go(func() {
			for round := range uint64(rounds) {
				if err := s.group(id).SetUint64(keyTerm, round); err != nil {
					t.Error(err)
				}
			}
			// What is on the disk now holds it.
			data, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(data, appendSection(nil, id, map[string][]byte{string(keyTerm): binary.BigEndian.AppendUint64(nil, rounds-1)})) {
				t.Errorf("group %d: its last write has returned and is not in the file, %v", id, err)
			}
		})
	}
	all.Wait()
	// Bolt itself may write at most so often as if half of the groups shared.
	if n := transaction(t, path) - before; n > groups*rounds/2 {
		t.Errorf("%d writes took %d transactions", groups*rounds, n)
	}
}

// The halves of a vote come to the disk together: its term alone would be a vote for
// whom the replica voted for before.
func TestStableStoreWritesAVoteAsOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	s := openTestStable(t, path)
	g := s.group(1)
	onDisk := func() (term, vote string) {
		t.Helper()
		groups, err := readStableCopy(t, path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", groups[1].values[string(keyVoteTerm)]), string(groups[1].values[string(keyVote)])
	}
	for term, vote := range []string{"n1", "n2", "n3"} {
		wasTerm, wasVote := onDisk()
		before := transaction(t, path)
		if err := g.SetUint64(keyVoteTerm, uint64(term)); err != nil {
			t.Fatal(err)
		}
		if n := transaction(t, path); n != before {
			t.Errorf("half a vote took %d transactions", n-before)
		}
		if got, err := g.GetUint64(keyVoteTerm); err != nil || got != uint64(term) {
			t.Errorf("the term of the vote is %d, %v, want %d", got, err, term)
		}
		if err := s.group(2).SetUint64(keyTerm, uint64(term)); err != nil {
			t.Fatal(err)
		}
		if err := g.SetUint64(keyTerm, uint64(term)); err != nil {
			t.Fatal(err)
		}
		if gotTerm, gotVote := onDisk(); gotTerm != wasTerm || gotVote != wasVote {
			t.Errorf("half a vote is on the disk: %s, %s", gotTerm, gotVote)
		}
		if err := g.Set(keyVote, []byte(vote)); err != nil {
			t.Fatal(err)
		}
		if gotTerm, gotVote := onDisk(); gotTerm != fmt.Sprintf("%016x", term) || gotVote != vote {
			t.Errorf("on the disk is a vote for %s in term %s, want %s in %d", gotVote, gotTerm, vote, term)
		}
	}
}

// readStableCopy reads what is on the disk now of a store that is open.
func readStableCopy(t *testing.T, path string) (map[uint32]stableGroup, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return readStable(copied)
}

// transaction is the number of the last transaction in a bolt database.
func transaction(t *testing.T, path string) uint64 {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&boltFile{path: path, data: data}).newestMeta()
	if err != nil {
		t.Fatal(err)
	}
	return m.transaction
}

// A write that failed is the last: what is on the disk then is not known, so
// nothing is read either. A vote that was not stored would be repeated as one that was.
func TestStableStoreLatchesTheFirstFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	s := openTestStable(t, path)
	if err := s.group(1).SetUint64(keyTerm, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	first := s.group(1).SetUint64(keyTerm, 2)
	if first == nil || !strings.Contains(first.Error(), path) {
		t.Fatalf("a write to a closed file returned %v", first)
	}
	disk, err := openBoltStore(path)
	if err != nil {
		t.Fatal(err)
	}
	s.disk = disk // the disk is well again, which must not help
	if err := s.group(2).SetUint64(keyTerm, 1); err != first {
		t.Errorf("the next write returned %v, want the first failure", err)
	}
	if _, err := s.group(1).Get(keyTerm); !errors.Is(err, first) {
		t.Errorf("a read returned %v, want the first failure", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := openTestStable(t, path).group(1).GetUint64(keyTerm); err != nil || got != 1 {
		t.Errorf("the disk has term %d, %v", got, err)
	}
}

// busyStable is a store of some groups that has been written to often, so that
// older states lie about in its pages, and what the groups have stored.
func busyStable(t *testing.T, path string, groups uint32) (want map[uint32]map[string][]byte) {
	t.Helper()
	want = map[uint32]map[string][]byte{}
	s := openTestStable(t, path)
	for round := range uint64(6) {
		for id := range groups {
			values := map[string][]byte{
				string(keyTerm):     binary.BigEndian.AppendUint64(nil, 100+round),
				string(keyVoteTerm): binary.BigEndian.AppendUint64(nil, 99+round),
				string(keyVote):     fmt.Appendf(nil, "node-%d", (round+uint64(id))%3),
			}
			if err := s.group(id).replace(values); err != nil {
				t.Fatal(err)
			}
			want[id] = values
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return want
}

// differs tells how groups that were read without an error are not as written.
func differs(groups map[uint32]stableGroup, want map[uint32]map[string][]byte) string {
	for id, values := range want {
		if g := groups[id]; g.damage == nil && !maps.EqualFunc(g.values, values, bytes.Equal) {
			return fmt.Sprintf("group %d has %v, want %v", id, g.values, values)
		}
	}
	if len(groups) != len(want) {
		return fmt.Sprintf("there are %d groups", len(groups))
	}
	return ""
}

// With any one bit changed the values are refused, or they are as written.
func TestStableStoreFindsEveryChangedBit(t *testing.T) {
	for _, tt := range []struct {
		groups uint32
		every  int // bit is tried
	}{
		{groups: 1, every: 1}, // in the root's page
		{groups: 3, every: 1},
		{groups: 16, every: 1},
		{groups: 64, every: 7}, // in more than one page
	} {
		t.Run(fmt.Sprintf("groups=%d", tt.groups), func(t *testing.T) { everyChangedBit(t, tt.groups, tt.every) })
	}
}

func everyChangedBit(t *testing.T, groups uint32, every int) {
	path := filepath.Join(t.TempDir(), "stable.db")
	want := busyStable(t, path, groups)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (map[uint32]stableGroup, error) { return readImage(path, data) }
	if groups, err := read(); err != nil || differs(groups, want) != "" {
		t.Fatalf("unchanged: %v, %s", err, differs(groups, want))
	}
	bits, refused, partly := changedBits(t, path, data), 0, 0
	for i := 0; i < len(bits); i += every {
		bit := bits[i]
		data[bit/8] ^= 1 << (bit % 8)
		groups, err := read()
		var damage *DamageError
		switch problem := differs(groups, want); {
		case errors.As(err, &damage):
			refused++
		case err != nil || problem != "":
			t.Fatalf("with bit %d of byte %d changed: %v, %s", bit%8, bit/8, err, problem)
		default:
			for _, g := range groups {
				if errors.As(g.damage, &damage) {
					partly++
				}
			}
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
	// Sections have more than 60 bytes, of 300 all bits are tried, and there are at least 1,000 bits elsewhere.
	if t.Logf("of %d bits %d are damage to all groups, %d to one", len(bits), refused, partly); refused < 1000/every || partly < min(int(groups)*60, 300)*8/every {
		t.Error("these are too few")
	}
}

func readImage(path string, data []byte) (map[uint32]stableGroup, error) {
	value, offset, err := boltValue(path, data, stableKey)
	if err != nil {
		return nil, err
	}
	return decodeStable(path, offset, value)
}

// Older values lie about in other pages, and move with every write: no bit that
// is changed where bolt says what lies where leads to one.
func TestStableStoreNeverGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	want := busyStable(t, path, 16)
	s := openTestStable(t, path)
	for write := range uint64(25) {
		term := binary.BigEndian.AppendUint64(nil, 1000+write)
		want[3][string(keyTerm)] = term
		if err := s.group(3).Set(keyTerm, term); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := (&boltFile{path: path, data: data}).newestMeta()
		if err != nil {
			t.Fatal(err)
		}
		for bit := range span(int(m.root)*4096*8, 128*8) {
			data[bit/8] ^= 1 << (bit % 8)
			if groups, err := readImage(path, data); err == nil && differs(groups, want) != "" {
				t.Fatalf("with bit %d of byte %d changed: %s", bit%8, bit/8, differs(groups, want))
			}
			data[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// changedBits are bits of the value, all if it is not large, those at the beginning of each page,
// where bolt keeps its books, and some of the rest.
func changedBits(t *testing.T, path string, data []byte) (bits []int) {
	value, offset, err := boltValue(path, data, stableKey)
	if err != nil {
		t.Fatal(err)
	}
	bits = slices.Collect(span(int(offset)*8, min(len(value), 900)*8))
	for page := 0; page < len(data); page += 4096 {
		bits = slices.AppendSeq(bits, span(page*8, 128*8))
	}
	for range 500 {
		bits = append(bits, rand.IntN(len(data)*8))
	}
	return bits
}

func span(from, count int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range count {
			if !yield(from + i) {
				return
			}
		}
	}
}

// The same through the whole of OpenStable, bolt included, for some of the bits.
func TestStableStoreOpensOnlyWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "stable.db")
	want := busyStable(t, path, 16)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) (opened bool) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, verified := VerifyStable(path)
		s, err := OpenStable(path)
		if err != nil && verified == nil {
			t.Errorf("VerifyStable finds nothing where OpenStable says %v", err)
		}
		if err != nil {
			return false
		}
		defer s.Close()
		for id, values := range want {
			for name, value := range values {
				if got, err := s.group(id).Get([]byte(name)); err == nil && !bytes.Equal(got, value) {
					t.Errorf("%s of group %d is %q, want %q", name, id, got, value)
				}
			}
		}
		// It can be written to.
		if err := s.group(99).SetUint64(keyTerm, 1); err != nil {
			t.Errorf("a write: %v", err)
		}
		return true
	}
	if !open("unchanged") {
		t.Fatal("the unchanged file is refused")
	}
	value, offset, err := boltValue(path, data, stableKey)
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&boltFile{path: path, data: data}).newestMeta()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		at := random.IntN(int(m.pages) * 4096)
		switch i % 4 {
		case 1: // where bolt keeps its books
			at = random.IntN(int(m.pages))*4096 + random.IntN(64)
		case 2: // in the value
			at = int(offset) + random.IntN(len(value))
		}
		bit := byte(1) << random.IntN(8)
		data[at] ^= bit
		open(fmt.Sprintf("changed-%d", i))
		data[at] ^= bit
	}
}

func TestStableStoreDamage(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "stable.db")
	busyStable(t, whole, 16)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	zeroPage := func(page uint64) func([]byte) []byte {
		return func(data []byte) []byte {
			clear(data[page*4096 : (page+1)*4096])
			return data
		}
	}
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
	}{
		{name: "empty", change: func(data []byte) []byte { return nil }},
		{name: "one meta page", change: func(data []byte) []byte { return data[:4096] }},
		{name: "cut short", change: func(data []byte) []byte { return data[:3*4096] }},
		{name: "zeros for the first meta page", change: zeroPage(0)},
		{name: "zeros for the second meta page", change: zeroPage(1)},
		{name: "a meta page that was never written", change: oldMeta},
		{name: "another file", change: func(data []byte) []byte { return bytes.Repeat([]byte("x"), len(data)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stable.db")
			if err := os.WriteFile(path, tt.change(bytes.Clone(data)), 0o600); err != nil {
				t.Fatal(err)
			}
			var damage *DamageError
			if s, err := OpenStable(path); err == nil {
				s.Close()
				t.Error("it opens")
			} else if !errors.As(err, &damage) || damage.Path != path {
				t.Errorf("OpenStable = %v, want damage of %s", err, path)
			}
			if _, err := VerifyStable(path); !errors.As(err, &damage) {
				t.Errorf("VerifyStable = %v", err)
			}
		})
	}
}

// oldMeta makes the older meta page one of two transactions before.
func oldMeta(data []byte) []byte {
	f := &boltFile{data: data}
	first, _ := f.meta(0)
	second, _ := f.meta(4096)
	older, at := first.transaction, boltHeader
	if second.transaction < older {
		older, at = second.transaction, 4096+boltHeader
	}
	binary.NativeEndian.PutUint64(data[at+48:], older-2)
	sealMeta(data[at : at+boltMetaSize])
	return data
}

// A damaged section is its group's alone, names its place, and goes when the
// group is wiped.
func TestStableStoreDamageOfOneGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	want := busyStable(t, path, 16)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	value, offset, err := boltValue(path, data, stableKey)
	if err != nil {
		t.Fatal(err)
	}
	at := int(offset) + bytes.Index(value, appendSection(nil, 5, want[5]))
	data[at+30] ^= 4
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyStable(path); err == nil || !strings.Contains(err.Error(), "group 5") {
		t.Errorf("VerifyStable = %v", err)
	}
	for range 2 { // it stays, whatever the others write
		s := openTestStable(t, path)
		var damage *DamageError
		if _, err := s.group(5).Get(keyVote); !errors.As(err, &damage) || damage.Path != path || damage.Offset == 0 {
			t.Errorf("its vote: %v", err)
		}
		if _, err := s.group(5).exists(); !errors.As(err, &damage) {
			t.Errorf("exists: %v", err)
		}
		if err := s.group(5).SetUint64(keyTerm, 200); !errors.As(err, &damage) {
			t.Errorf("Set: %v", err)
		}
		if got, err := s.group(4).Get(keyVote); err != nil || !bytes.Equal(got, want[4][string(keyVote)]) {
			t.Errorf("another group's vote is %q, %v", got, err)
		}
		if err := s.group(4).Set(keyVote, want[4][string(keyVote)]); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := openTestStable(t, path)
	if err := s.group(5).replace(nil); err != nil {
		t.Fatal(err)
	}
	if err := s.group(5).SetUint64(keyTerm, 200); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if held, err := VerifyStable(path); err != nil || len(held) != 16 {
		t.Errorf("VerifyStable = %v, %v", held, err)
	}
}

// A group does not start with a damaged vote or term, nor without one where it
// has a log.
func TestOpenRefusesWithoutItsTerm(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, s *StableStore){
		"damaged": func(t *testing.T, s *StableStore) {
			s.mu.Lock()
			defer s.mu.Unlock()
			section := appendSection(nil, 7, s.groups[7].values)
			section[9] ^= 1
			s.groups[7] = stableGroup{section: section, damage: errors.New("changed")}
		},
		"lost": func(t *testing.T, s *StableStore) {
			if err := s.group(7).replace(nil); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1)
			n := c.leader()
			c.kill("n1")
			path := n.dir + "-stable.db"
			stable := openTestStable(t, path)
			lose(t, stable)
			if err := errors.Join(stable.group(8).SetUint64(keyTerm, 1), stable.Close()); err != nil {
				t.Fatal(err)
			}
			n.machine = &machine{events: c.events}
			group, err := Open(c.config(n, openTestStable(t, path)))
			if err == nil {
				group.Close()
				t.Fatal("it started")
			}
			var damage *DamageError
			if !errors.As(err, &damage) || damage.Path != path {
				t.Errorf("it failed with %v", err)
			}
		})
	}
}

// TestOpenRefusesWithoutItsLog: a folder that is lost while the terms and votes are
// not must not come back as a new one.
func TestOpenRefusesWithoutItsLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	n := c.leader()
	c.kill("n1")
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	n.machine = &machine{events: c.events}
	group, err := Open(c.config(n, openTestStable(t, n.dir+"-stable.db")))
	if err == nil {
		group.Close()
		t.Fatal("it started")
	}
	var damage *DamageError
	if !errors.As(err, &damage) || !strings.Contains(damage.Reason, "missing") {
		t.Errorf("it failed with %v", err)
	}
}

// BenchmarkStableElection is the stable store's part of an election in many
// groups at once: two writes each.
func BenchmarkStableElection(b *testing.B) {
	for _, groups := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			s := openTestStable(b, filepath.Join(b.TempDir(), "stable.db"))
			b.ReportAllocs()
			term := uint64(0)
			for b.Loop() {
				term++
				var all sync.WaitGroup
				for id := range groups {
					all.Go(func() {
						g := s.group(uint32(id))
						if g.SetUint64(keyTerm, term) != nil || g.SetUint64(keyVoteTerm, term) != nil || g.Set(keyVote, []byte("n1")) != nil {
							b.Error("a write failed")
						}
					})
				}
				all.Wait()
			}
		})
	}
}

// sealMeta makes the checksum of a bolt meta page right.
func sealMeta(meta []byte) {
	sum := fnv.New64a()
	sum.Write(meta[:boltMetaSize-8])
	binary.NativeEndian.PutUint64(meta[boltMetaSize-8:], sum.Sum64())
}
