package raftlog

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

func openTestStore(t *testing.T, ringBytes int64) (*logStore, *[]error) {
	t.Helper()
	var told []error
	s, err := openLogStore(filepath.Join(t.TempDir(), "group", "log.db"), ringBytes, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, &told
}

// coherent compares what the store answers with what is on its disk.
func coherent(t *testing.T, s *logStore, last uint64, terms map[uint64]uint64) {
	t.Helper()
	for i := uint64(0); i <= last+2; i++ {
		var got, disk raft.Log
		err, diskErr := s.GetLog(i, &got), s.disk.GetLog(i, &disk)
		if err != diskErr || i >= 1 && i <= last != (err == nil) {
			t.Errorf("entry %d: %v, on disk %v", i, err, diskErr)
		}
		if got.Term != disk.Term || !bytes.Equal(got.Data, disk.Data) || got.Term != terms[i] {
			t.Errorf("entry %d has term %d, on disk %d, want %d", i, got.Term, disk.Term, terms[i])
		}
	}
	if got, err := s.LastIndex(); err != nil || got != last {
		t.Errorf("LastIndex = %d, %v, want %d", got, err, last)
	}
}

func TestLogStoreIsCoherent(t *testing.T) {
	s, told := openTestStore(t, 5000)
	terms := map[uint64]uint64{}
	store := func(first, last, term uint64) {
		t.Helper()
		if err := s.StoreLogs(entries(first, last, term, 100)); err != nil {
			t.Fatal(err)
		}
		for i := first; i <= last; i++ {
			terms[i] = term
		}
	}
	cut := func(min, max uint64) {
		t.Helper()
		if err := s.DeleteRange(min, max); err != nil {
			t.Fatal(err)
		}
		for i := min; i <= max; i++ {
			delete(terms, i)
		}
	}
	store(1, 200, 1) // far more than the ring holds
	coherent(t, s, 200, terms)
	cut(190, 200) // within the ring
	coherent(t, s, 189, terms)
	store(190, 195, 2)
	coherent(t, s, 195, terms)
	cut(50, 195) // below the ring
	coherent(t, s, 49, terms)
	store(50, 52, 3)
	coherent(t, s, 52, terms)
	if err := s.StoreLog(&raft.Log{Index: 53, Term: 4, Type: raft.LogNoop}); err != nil {
		t.Fatal(err)
	}
	terms[53] = 4
	coherent(t, s, 53, terms)
	if len(*told) > 0 {
		t.Errorf("Fatal was told %v", *told)
	}

	// Raft compares with ==.
	if err := s.GetLog(99, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Errorf("GetLog of nothing = %v", err)
	}
	if s.size() < 4096 {
		t.Errorf("size = %d", s.size())
	}
	if _, err := openBolt(s.path); err == nil || !strings.Contains(err.Error(), s.path+": another process has it open") {
		t.Errorf("opened twice: %v", err)
	}
}

func TestFirstFailedWriteIsLatched(t *testing.T) {
	for name, write := range map[string]func(*logStore) error{
		"StoreLogs":   func(s *logStore) error { return s.StoreLogs(entries(4, 5, 1, 10)) },
		"StoreLog":    func(s *logStore) error { return s.StoreLog(entries(4, 4, 1, 10)[0]) },
		"DeleteRange": func(s *logStore) error { return s.DeleteRange(2, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			s, told := openTestStore(t, 5000)
			if err := s.StoreLogs(entries(1, 3, 1, 10)); err != nil {
				t.Fatal(err)
			}
			if err := s.disk.Close(); err != nil {
				t.Fatal(err)
			}
			err := write(s)
			if !errors.Is(err, bolterrors.ErrDatabaseNotOpen) || !strings.Contains(err.Error(), s.path) {
				t.Errorf("the write failed with %v, want the path %s and bolt's words", err, s.path)
			}
			if err := s.GetLog(4, new(raft.Log)); err == nil {
				t.Error("an entry that was not written is served from memory")
			}

			// The disk is well again, which must not help.
			if s.disk, err = openBolt(s.path); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if again := write(s); again == nil || again.Error() != s.failed.Error() {
					t.Errorf("the next write returned %v, want the first failure", again)
				}
			}
			if len(*told) != 1 || (*told)[0] != s.failed {
				t.Errorf("Fatal was told %v, want the failure once", *told)
			}
			if last, err := s.disk.LastIndex(); err != nil || last != 3 {
				t.Errorf("after the failure the disk's last index is %d, %v", last, err)
			}
		})
	}
}

// A leader whose disk fails tells Fatal, and what it was asked to write is
// unknown to have happened.
func TestLeaderWithAFailedDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("before")
	leader := c.leader()
	if err := leader.group.store.disk.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.group.Propose([]byte("lost")).Wait(soon(t)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the proposal was answered %v, want ErrUnknown", err)
	}
	c.await("Fatal to be told", func() bool { return len(c.fatals()) > 0 })
	c.kill(leader.name)
	if told := c.fatals(); len(told) != 1 || !strings.Contains(told[0].Error(), "log.db") {
		t.Errorf("Fatal was told %v", told)
	}
	c.forgive()
	c.publish("after")
	c.open(leader.name)
	c.agree("after")
}

func TestStableStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	s, err := OpenStable(path)
	if err != nil {
		t.Fatal(err)
	}
	groups := []groupStable{s.group(0), s.group(1), s.group(1 << 24)}
	term, vote := []byte("LastVoteTerm"), []byte("LastVoteCand")
	for _, g := range groups {
		// Raft compares the text.
		if _, err := g.Get(vote); err == nil || err.Error() != "not found" {
			t.Errorf("Get of nothing = %v", err)
		}
		if _, err := g.GetUint64(term); err == nil || err.Error() != "not found" {
			t.Errorf("GetUint64 of nothing = %v", err)
		}
	}
	for round := range uint64(2) {
		for i, g := range groups {
			if err := g.SetUint64(term, 10*round+uint64(i)); err != nil {
				t.Fatal(err)
			}
			if err := g.Set(vote, []byte{'n', byte(i), byte(round)}); err != nil {
				t.Fatal(err)
			}
			if err := g.Set([]byte("empty"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenStable(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for i, g := range []groupStable{s.group(0), s.group(1), s.group(1 << 24)} {
		if got, err := g.GetUint64(term); err != nil || got != 10+uint64(i) {
			t.Errorf("group %d: term %d, %v", i, got, err)
		}
		if got, err := g.Get(vote); err != nil || !bytes.Equal(got, []byte{'n', byte(i), 1}) {
			t.Errorf("group %d: vote %q, %v", i, got, err)
		}
		if got, err := g.Get([]byte("empty")); err != nil || len(got) != 0 {
			t.Errorf("group %d: empty value %q, %v", i, got, err)
		}
		if _, err := g.GetUint64(vote); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("group %d: a vote is no number, but: %v", i, err)
		}
	}
}

// Bolt's leaf pages carry no checksum: a changed value is ours to find.
func TestStableStoreFindsDamage(t *testing.T) {
	name := []byte("LastVoteTerm")
	for _, tt := range []struct {
		name   string
		change func(bucket *bbolt.Bucket, key []byte) error
	}{
		{name: "a flipped bit of the value", change: flip(0, 1)},
		{name: "a flipped bit at its end", change: flip(7, 0x80)},
		{name: "a flipped bit of the checksum", change: flip(8, 1)},
		{name: "cut short", change: func(b *bbolt.Bucket, key []byte) error { return b.Put(key, []byte{1, 2, 3}) }},
		{name: "empty", change: func(b *bbolt.Bucket, key []byte) error { return b.Put(key, nil) }},
		{name: "another group's value", change: func(b *bbolt.Bucket, key []byte) error {
			return b.Put(key, bytes.Clone(b.Get(append([]byte{0, 0, 0, 4}, name...))))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stable.db")
			s, err := OpenStable(path)
			if err != nil {
				t.Fatal(err)
			}
			for id := range uint32(6) {
				if err := s.group(id).SetUint64(name, 7); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			disk, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = disk.Update(func(tx *bbolt.Tx) error {
				return tt.change(tx.Bucket([]byte("conf")), append([]byte{0, 0, 0, 5}, name...))
			})
			if err = errors.Join(err, disk.Close()); err != nil {
				t.Fatal(err)
			}
			if s, err = OpenStable(path); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			_, err = s.group(5).GetUint64(name)
			if err == nil {
				t.Fatal("the damage was not found")
			}
			for _, word := range []string{path, `"LastVoteTerm"`, "group 5", "damaged"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error %q does not name %s", err, word)
				}
			}
			if got, err := s.group(4).GetUint64(name); err != nil || got != 7 {
				t.Errorf("another group's value is %d, %v", got, err)
			}
		})
	}
}

func flip(at int, bit byte) func(*bbolt.Bucket, []byte) error {
	return func(b *bbolt.Bucket, key []byte) error {
		value := bytes.Clone(b.Get(key))
		value[at] ^= bit
		return b.Put(key, value)
	}
}

func TestStableStoreLatchesTheFirstFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stable.db")
	s, err := OpenStable(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	first := s.group(1).SetUint64([]byte("a"), 1)
	if first == nil || !strings.Contains(first.Error(), path) {
		t.Fatalf("a write to a closed file returned %v", first)
	}
	if s.disk, err = openBolt(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.group(2).SetUint64([]byte("b"), 1); err != first {
		t.Errorf("the next write returned %v, want the first failure", err)
	}
}

// A group does not start with a damaged vote or term.
func TestOpenRefusesADamagedTerm(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	n := c.leader()
	c.kill("n1")
	disk, err := bbolt.Open(n.dir+"-stable.db", 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = disk.Update(func(tx *bbolt.Tx) error {
		return flip(7, 2)(tx.Bucket([]byte("conf")), append([]byte{0, 0, 0, 7}, keyTerm...))
	})
	if err = errors.Join(err, disk.Close()); err != nil {
		t.Fatal(err)
	}
	stable, err := OpenStable(n.dir + "-stable.db")
	if err != nil {
		t.Fatal(err)
	}
	defer stable.Close()
	group, err := Open(c.config(n, stable))
	if err == nil {
		group.Close()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "damaged") {
		t.Errorf("it failed with %v", err)
	}
}
