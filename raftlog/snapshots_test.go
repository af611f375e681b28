package raftlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// paperLog is a log without entries: a durable note of where it begins and ends.
// All entries are of one term but those up to its divergent end.
type paperLog struct {
	fs                           vfs.FS
	boundary, bterm, last, lterm uint64
}

func openPaperLog(t *testing.T, fsys vfs.FS) *paperLog {
	t.Helper()
	l := &paperLog{fs: fsys}
	b, err := vfs.ReadFile(fsys, "/log", 100)
	if err == nil {
		_, err = fmt.Sscan(string(b), &l.boundary, &l.bterm, &l.last, &l.lterm)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *paperLog) write() error {
	return vfs.WriteFile(l.fs, "/log", func(w io.Writer) error {
		_, err := fmt.Fprint(w, l.boundary, " ", l.bterm, " ", l.last, " ", l.lterm)
		return err
	})
}

func (l *paperLog) Boundary() (index, term uint64) { return l.boundary, l.bterm }
func (l *paperLog) LastIndex() (uint64, error)     { return l.last, nil }
func (l *paperLog) GetLog(index uint64, e *raft.Log) error {
	switch {
	case index == l.boundary:
		*e = raft.Log{Index: index, Term: l.bterm}
	case index > l.boundary && index <= l.last:
		*e = raft.Log{Index: index, Term: l.lterm}
	default:
		return raft.ErrLogNotFound
	}
	return nil
}

func (l *paperLog) Reset(index, term uint64) error {
	var e raft.Log
	if l.GetLog(index, &e) == nil && e.Term == term {
		return nil
	}
	l.boundary, l.bterm, l.last = index, term, 0
	return l.write()
}

func (l *paperLog) drop(index uint64) error {
	l.boundary, l.bterm = index, l.lterm
	return l.write()
}

// paperStore opens a snapshot store over a log that has been written to fsys.
func paperStore(t *testing.T, fsys vfs.FS) (*snapshotStore, *paperLog, error) {
	t.Helper()
	log := openPaperLog(t, fsys)
	s := &snapshotStore{
		fs: fsys, dir: "/snapshots", group: 7, log: log, logger: slog.New(slog.DiscardHandler),
		applied: func() uint64 { return 0 },
		confBy:  func(uint64) (confAt, bool) { return confAt{}, false },
		fatal:   func(err error) { t.Error(err) },
	}
	return s, log, s.open()
}

func body(text string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
}

// A power cut at any moment of saving and trimming leaves snapshots that the log
// reaches, and those that were acknowledged.
func TestCrashWhileSavingAndTrimming(t *testing.T) {
	disk := crashfs.New()
	if err := (&paperLog{fs: disk, last: 1000, lterm: 3}).write(); err != nil {
		t.Fatal(err)
	}
	type moment struct{ ops, acked, floor int }
	var acks []moment
	s, log, err := paperStore(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	begin := disk.Ops()
	floor := 0
	for i := 1; i <= 4; i++ {
		h := snapshotHead{group: 7, index: uint64(100 * i), term: 3}
		if err := s.save(&h, body(strings.Repeat("state", 50*i))); err != nil {
			t.Fatal(err)
		}
		acks = append(acks, moment{disk.Ops(), 100 * i, floor})
		if i > 1 {
			floor = 100 * (i - 1)
			acks = append(acks, moment{disk.Ops(), 100 * i, floor})
			if err := errors.Join(s.trim(uint64(floor)), log.drop(uint64(floor))); err != nil {
				t.Fatal(err)
			}
		}
	}
	crashes := 0
	for crash := range disk.Crashes(crashfs.Explore{From: begin}) {
		crashes++
		s, _, err := paperStore(t, crash.FS())
		if err != nil {
			t.Fatalf("%v: %v", crash, err)
		}
		now := moment{}
		for _, m := range acks {
			if m.ops <= crash.After {
				now = m
			}
		}
		all := s.indexes()
		if now.acked > 0 && !slices.Contains(all, Index(now.acked)) || len(all) > 0 && int(all[0]) > max(now.floor, 100) {
			t.Fatalf("%v: there are snapshots at %d, acknowledged is %d with floor %d", crash, all, now.acked, now.floor)
		}
		for _, index := range all {
			if r, err := s.body(uint64(index)); err != nil {
				t.Fatalf("%v: %v", crash, err)
			} else {
				r.Close()
			}
		}
	}
	t.Logf("%d crashes", crashes)
}

// A power cut at any moment of an installation leaves a replica as it was before
// or as it is afterwards.
func TestCrashWhileInstalling(t *testing.T) {
	for _, tt := range []struct {
		name        string
		last, lterm uint64
		own         bool // it has a snapshot of its own
		kept        bool // the log has the entry and stays
	}{
		{name: "empty"},
		{name: "short", last: 60, lterm: 2, own: true},
		{name: "divergent", last: 600, lterm: 2, own: true},
		{name: "not needed", last: 600, lterm: 3, own: true, kept: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := crashfs.New()
			if err := (&paperLog{fs: disk, last: tt.last, lterm: tt.lterm}).write(); err != nil {
				t.Fatal(err)
			}
			s, _, err := paperStore(t, disk)
			if err != nil {
				t.Fatal(err)
			}
			if tt.own {
				if err := s.save(&snapshotHead{group: 7, index: 50, term: tt.lterm}, body("own")); err != nil {
					t.Fatal(err)
				}
			}
			begin := disk.Ops()
			shipped := snapshotBytes(t, snapshotHead{group: 7, index: 500, term: 3, confIndex: 1}, []byte(strings.Repeat("shipped", 200)))
			sink, err := s.Create(raft.SnapshotVersionMax, 500, 3, raft.Configuration{}, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(sink, strings.NewReader(string(shipped))); err != nil {
				t.Fatal(err)
			}
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
			done := disk.Ops()
			for crash := range disk.Crashes(crashfs.Explore{From: begin}) {
				s, log, err := paperStore(t, crash.FS())
				if err != nil {
					t.Fatalf("%v: %v", crash, err)
				}
				installed := slices.Contains(s.indexes(), 500)
				if crash.After >= done && !installed {
					t.Fatalf("%v: it is lost", crash)
				}
				want := uint64(0)
				if installed && !tt.kept {
					want = 500
				}
				own := slices.Contains(s.indexes(), 50)
				if log.boundary != want || own != (tt.own && want == 0) {
					t.Fatalf("%v: snapshots at %d, the log begins after %d", crash, s.indexes(), log.boundary)
				}
				if recvs, _, _, err := leftovers(s); err != nil || len(recvs) > 0 {
					t.Fatalf("%v: left behind: %d, %v", crash, recvs, err)
				}
			}
		})
	}
}

func leftovers(s *snapshotStore) (recvs, snaps []uint64, asides []string, err error) {
	snaps, recvs, asides, err = listSnapshots(s.fs, s.dir)
	return recvs, snaps, asides, err
}

// A snapshot that was installed while an older one was being written.
func TestSaveIsOvertaken(t *testing.T) {
	disk := crashfs.New()
	if err := (&paperLog{fs: disk, last: 100, lterm: 3}).write(); err != nil {
		t.Fatal(err)
	}
	s, _, err := paperStore(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.save(&snapshotHead{group: 7, index: 50, term: 3}, body("state")); err != nil {
		t.Fatal(err)
	}
	err = s.save(&snapshotHead{group: 7, index: 90, term: 3}, func(w io.Writer) error {
		sink, err := s.Create(raft.SnapshotVersionMax, 500, 4, raft.Configuration{}, 1, nil)
		if err != nil {
			return err
		}
		_, err = sink.Write(snapshotBytes(t, snapshotHead{group: 7, index: 500, term: 4}, nil))
		return errors.Join(err, sink.Close())
	})
	if !errors.Is(err, ErrOvertaken) {
		t.Errorf("it was saved: %v", err)
	}
	if recvs, snaps, asides, err := leftovers(s); err != nil || len(recvs)+len(asides) > 0 || !slices.Equal(snaps, []uint64{500}) || !slices.Equal(s.indexes(), []Index{500}) {
		t.Errorf("there are %d %d %s, %v", recvs, snaps, asides, err)
	}
}

// What is shipped is checked before anything is done with it.
func TestInstallRefusesDamage(t *testing.T) {
	whole := snapshotBytes(t, snapshotHead{group: 7, index: 500, term: 3}, []byte("state"))
	other := snapshotBytes(t, snapshotHead{group: 8, index: 500, term: 3}, []byte("state"))
	for name, stream := range map[string][]byte{
		"changed":     changed(whole, len(whole)-20),
		"short":       whole[:len(whole)-3],
		"empty":       nil,
		"other group": other,
		"other index": snapshotBytes(t, snapshotHead{group: 7, index: 501, term: 3}, nil),
		"other term":  snapshotBytes(t, snapshotHead{group: 7, index: 500, term: 2}, nil),
		"no snapshot": []byte(strings.Repeat("x", 100)),
		"called off":  whole,
	} {
		t.Run(name, func(t *testing.T) {
			disk := crashfs.New()
			if err := (&paperLog{fs: disk, last: 60, lterm: 2}).write(); err != nil {
				t.Fatal(err)
			}
			s, log, err := paperStore(t, disk)
			if err != nil {
				t.Fatal(err)
			}
			sink, err := s.Create(raft.SnapshotVersionMax, 500, 3, raft.Configuration{}, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := sink.Write(stream); err != nil {
				t.Fatal(err)
			}
			if name == "called off" {
				err = sink.Cancel()
			} else if err = sink.Close(); err == nil {
				t.Error("it was taken")
			} else {
				err = nil
			}
			recvs, snaps, asides, lerr := leftovers(s)
			if errors.Join(err, lerr) != nil || len(recvs)+len(snaps)+len(asides)+len(s.indexes()) > 0 || log.boundary > 0 {
				t.Errorf("left: %d %d %s, the log begins after %d, %v", recvs, snaps, asides, log.boundary, errors.Join(err, lerr))
			}
		})
	}
}

func TestListIsNewestFirstOnlyWhileStarting(t *testing.T) {
	disk := crashfs.New()
	if err := (&paperLog{fs: disk, last: 600, lterm: 3}).write(); err != nil {
		t.Fatal(err)
	}
	s, _, err := paperStore(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); len(all) > 0 || err != nil {
		t.Errorf("of none it lists %v, %v", all, err)
	}
	for _, index := range []uint64{300, 100, 200} {
		if err := s.save(&snapshotHead{group: 7, index: index, term: 3, confIndex: 9}, body("state")); err != nil {
			t.Fatal(err)
		}
	}
	for _, starting := range []bool{true, false} {
		s.setStarting(starting)
		want := uint64(100)
		if starting {
			want = 300
		}
		all, err := s.List()
		if err != nil || len(all) == 0 || all[0].Index != want || starting != (len(all) == 1) {
			t.Fatalf("starting %v: %v, %v", starting, all, err)
		}
		meta, r, err := s.Open(all[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := io.ReadAll(r)
		if err != nil || meta.Size != int64(len(stream)) || meta.Index != want || meta.Term != 3 || meta.ConfigurationIndex != 9 {
			t.Errorf("%+v with %d bytes, %v", meta, len(stream), err)
		}
		r.Close()
	}
}

// Raft may be told again of a snapshot that has been installed, or of one that
// is long past.
func TestOldSnapshots(t *testing.T) {
	for _, tt := range []struct {
		name        string
		index, term uint64
		applied     uint64
		conf        uint64 // index of the newest configuration
		want        string // "" if it is taken
	}{
		{name: "newer", index: 500, term: 3, applied: 499, conf: 1},
		{name: "again", index: 500, term: 3, applied: 500, conf: 1},
		{name: "older", index: 400, term: 3, applied: 500, conf: 1},
		{name: "older than the log", index: 299, term: 3, applied: 500, conf: 1, want: "lies before the log"},
		{name: "at the boundary", index: 300, term: 2, applied: 500, conf: 1},
		{name: "of another term", index: 400, term: 2, applied: 500, conf: 1, want: "of term 3"},
		{name: "with an older configuration", index: 400, term: 3, applied: 500, conf: 401, want: "entry 401"},
		{name: "with the configuration", index: 400, term: 3, applied: 500, conf: 400},
		{name: "older than the newest", index: 450, term: 3, applied: 10, conf: 1, want: "older than the one at 480"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := crashfs.New()
			if err := (&paperLog{fs: disk, boundary: 300, bterm: 2, last: 600, lterm: 3}).write(); err != nil {
				t.Fatal(err)
			}
			if err := disk.MkdirAll("/snapshots"); err != nil {
				t.Fatal(err)
			}
			stream := snapshotBytes(t, snapshotHead{group: 7, index: 480, term: 3}, nil)
			if err := vfs.WriteFile(disk, fmt.Sprintf("/snapshots/%020d.snap", 480), body(string(stream))); err != nil {
				t.Fatal(err)
			}
			s, _, err := paperStore(t, disk)
			if err != nil {
				t.Fatal(err)
			}
			s.applied = func() uint64 { return tt.applied }
			s.confBy = func(uint64) (confAt, bool) { return confAt{index: tt.conf}, true }
			sink, err := s.Create(raft.SnapshotVersionMax, tt.index, tt.term, raft.Configuration{}, 1, nil)
			if err == nil {
				sink.Cancel()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the answer is %v, want %q", err, tt.want)
			}
		})
	}
}

// TestStatusWaitsForNoSnapshotFile: file operations run under the store's mutex, and a
// disk may hang in one. Whoever asks for the state is answered all the same.
func TestStatusWaitsForNoSnapshotFile(t *testing.T) {
	s := &snapshotStore{}
	s.setKept([]snapshotInfo{{snapshotHead{index: 7}, 100}, {snapshotHead{index: 9}, 20}})
	s.mu.Lock() // the file operation that hangs
	defer s.mu.Unlock()
	told := make(chan string, 1)
	go func() { told <- fmt.Sprint(s.indexes(), s.newest(), s.bytes()) }()
	select {
	case got := <-told:
		if got != "[7 9] 9 120" {
			t.Errorf("told %s", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for the disk")
	}
}
