package raftlog

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
)

func openTestStore(t *testing.T, ringBytes int64) (*logStore, *[]error) {
	t.Helper()
	var told []error
	o := segment.Options{Dir: filepath.Join(t.TempDir(), "group", "log"), Group: 7}
	s, err := openLogStore(o, ringBytes, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(false) })
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
}

func TestFirstFailedWriteIsLatched(t *testing.T) {
	for name, write := range map[string]func(*logStore) error{
		"StoreLogs":   func(s *logStore) error { return s.StoreLogs(entries(4, 5, 1, 10)) },
		"StoreLog":    func(s *logStore) error { return s.StoreLog(entries(4, 4, 1, 10)[0]) },
		"DeleteRange": func(s *logStore) error { return s.DeleteRange(2, 3) },
		"Reset":       func(s *logStore) error { return s.Reset(9, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			s, told := openTestStore(t, 5000)
			if err := s.StoreLogs(entries(1, 3, 1, 10)); err != nil {
				t.Fatal(err)
			}
			if err := s.disk.Abandon(); err != nil {
				t.Fatal(err)
			}
			err := write(s)
			if err == nil || !strings.Contains(err.Error(), s.path) {
				t.Errorf("the write failed with %v, want the path %s", err, s.path)
			}
			if err := s.GetLog(4, new(raft.Log)); err == nil {
				t.Error("an entry that was not written is served from memory")
			}

			// The disk is well again, which must not help.
			if s.disk, err = segment.Open(segment.Options{Dir: s.path, Group: 7}); err != nil {
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
	if err := leader.group.store.disk.Abandon(); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.group.Propose([]byte("lost")).Wait(soon(t)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the proposal was answered %v, want ErrUnknown", err)
	}
	c.await("Fatal to be told", func() bool { return len(c.fatals()) > 0 })
	c.kill(leader.name)
	if told := c.fatals(); len(told) != 1 || !strings.Contains(told[0].Error(), filepath.Join(leader.dir, "log")) {
		t.Errorf("Fatal was told %v", told)
	}
	c.forgive()
	c.publish("after")
	c.open(leader.name)
	c.agree("after")
}
