package verify

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/clustertest"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/transport/wire"
)

func TestStoppedNode(t *testing.T) {
	dir := stopped(t)
	for name, f := range map[string]func(*testing.T, string){"faults": testFaults, "no faults": testNoFaults, "against": testAgainst, "first segment": testFirstSegment} {
		t.Run(name, func(t *testing.T) {
			own := filepath.Join(t.TempDir(), "n1")
			if err := os.CopyFS(own, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			f(t, own)
		})
	}
}

// stopped makes the data directory of a stopped node: partition 0 has several
// segments and snapshots and is trimmed, partition 1 has nothing of a client's.
func stopped(t *testing.T) string {
	t.Helper()
	var dir string
	c := clustertest.Start(t, 1, 2, func(cfg *node.Config) {
		cfg.SegmentBytes, cfg.Retention = 64<<10, node.Retention{Messages: 640}
		dir = cfg.DataDir
	})
	room := "lobby"
	for wire.PartitionOf(room, 2) != 0 {
		room += "!"
	}
	cl := c.Client("p")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	snapshot, more := uint64(0), 0
	for more < 6 {
		for range 300 {
			if _, err := cl.PublishAsync(ctx, room, make([]byte, 300)); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		c.Until("a checkpoint", func() bool { return c.Node("n1").Partitions()[0].Snapshot > snapshot })
		if snapshot = c.Node("n1").Partitions()[0].Snapshot; c.Node("n1").Partitions()[0].First > 1 {
			more += 3
		}
	}
	r, err := Run(ctx, Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("a running node is verified: %+v, %v", r, err)
	}
	c.Stop("n1")
	return dir
}

// as3 makes dir look like one of three nodes'.
func as3(t *testing.T, dir string) {
	t.Helper()
	edit(t, filepath.Join(dir, "node.json"), func(b []byte) []byte {
		var all map[string]any
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
		all["members"] = map[string]string{"n1": "a", "n2": "b", "n3": "c"}
		b, _ = json.Marshal(all)
		return b
	})
}

func edit(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, f(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func testFaults(t *testing.T, whole string) {
	readings, last := 0, int64(0)
	clean, err := Run(t.Context(), Options{Dir: whole, Progress: func(done, total int64) {
		if readings++; done < last || done > total {
			t.Errorf("progress from %d to %d of %d", last, done, total)
		}
		last = done
	}})
	if err != nil || clean.Fault != nil {
		t.Fatalf("%+v, %v", clean, err)
	}
	p := &clean.Partitions[0]
	if p.First < 2 || p.Snapshots < 2 || p.Indexes == 0 || p.Entries != p.Last+1-p.First || !p.Clean || readings == 0 ||
		last < 64<<10 || clean.Entries != p.Entries+clean.Partitions[1].Entries || clean.Files < 10 || clean.Bytes < p.Bytes {
		t.Errorf("found %+v", clean)
	}
	newest := fmt.Sprintf("raft/p0000/snapshots/%020d.snap", p.Snapshot)
	rooms := fmt.Sprintf("raft/p0000/rooms/%020d.rooms", p.Snapshot)
	segments, _ := filepath.Glob(filepath.Join(whole, "raft/p0000/log/*.seg"))
	if len(segments) < 3 {
		t.Fatalf("segments %v", segments)
	}
	flip := func(at int) func(b []byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 4; return b }
	}
	one := 1
	for _, tt := range []struct {
		name, file string
		edit       func([]byte) []byte // nil: the file is removed
		in         string              // where the fault is; "" in file
		partition  *int
		reason     string
		rebuild    string
		remedy     string
	}{
		{name: "a flipped bit in a record", file: fmt.Sprintf("raft/p0000/log/%020d.seg", p.First), edit: flip(4096 + 60),
			partition: new(int), rebuild: "0"},
		{name: "a lost segment", file: strings.TrimPrefix(segments[1], whole+"/"), in: "raft/p0000", partition: new(int), rebuild: "0"},
		{name: "an index", file: fmt.Sprintf("raft/p0000/log/%020d.idx", p.First), edit: flip(60), partition: new(int), remedy: "remove the file"},
		{name: "a snapshot", file: newest, edit: flip(100), partition: new(int), reason: "checksum", rebuild: "0"},
		{name: "a snapshot that is whole, and not what the log makes", file: newest, edit: func(b []byte) []byte {
			b = flip(len(b) - 26)(b)
			binary.LittleEndian.PutUint32(b[len(b)-8:], crc32.Checksum(b[:len(b)-8], crc32.MakeTable(crc32.Castagnoli)))
			return b
		}, partition: new(int), reason: "not what the log makes", rebuild: "0"},
		{name: "a room index", file: rooms, edit: flip(40), partition: new(int), reason: "not what the log makes", remedy: "remove the file"},
		{name: "a short room index", file: rooms, edit: func(b []byte) []byte { return b[:50] }, partition: new(int), remedy: "remove the file"},
		{name: "a longer log was closed", file: "raft/p0001/log/CLEAN", edit: flip(17), partition: &one, rebuild: "1"},
		{name: "terms and votes", file: "raft/stable.db", edit: flip(20), rebuild: "all"},
		{name: "terms and votes are lost", file: "raft/stable.db", partition: new(int), reason: "missing", rebuild: "0,1"},
		{name: "no JSON", file: "node.json", edit: flip(0), remedy: "writes it anew"},
		{name: "an unknown key", file: "node.json", edit: func(b []byte) []byte { return []byte(strings.Replace(string(b), "format", "fornat", 1)) },
			reason: "unknown field", remedy: "writes it anew"},
		{name: "a node that is no member", file: "node.json", edit: func(b []byte) []byte { return []byte(strings.Replace(string(b), `"node": "n1"`, `"node": "n7"`, 1)) },
			reason: "cannot be", remedy: "writes it anew"},
		{name: "whose data is lost", file: "node.json", reason: "missing"},
		{name: "fewer partitions", file: "node.json", edit: func(b []byte) []byte {
			return []byte(strings.Replace(string(b), `"partitions":2`, `"partitions":1`, 1))
		}, in: "raft/p0001", reason: "tells of 1 partitions", remedy: "compare node.json"},
		{name: "half a key", file: "reset.key", edit: func(b []byte) []byte { return b[:16] }, reason: "16 bytes", remedy: "makes a new one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "n1")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if tt.name != "a node that is no member" {
				as3(t, dir)
			}
			if path := filepath.Join(dir, tt.file); tt.edit == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				edit(t, path, tt.edit)
			}
			r, err := Run(t.Context(), Options{Dir: dir})
			if err != nil || r.Fault == nil {
				t.Fatalf("%+v, %v", r, err)
			}
			f := r.Fault
			if tt.in == "" {
				tt.in = tt.file
			}
			if !strings.HasPrefix(f.File, filepath.Join(dir, tt.in)) || !strings.Contains(f.Reason, tt.reason) || !strings.Contains(f.Remedy, tt.remedy) {
				t.Errorf("%+v", f)
			}
			if f.Rebuild != tt.rebuild || (f.Partition == nil) != (tt.partition == nil) || f.Partition != nil && *f.Partition != *tt.partition {
				t.Errorf("partition %v, rebuild %q: %+v", f.Partition, f.Rebuild, f)
			}
			if (r.Damaged != nil) != (tt.rebuild != "") || r.Damaged != nil && r.Damaged.Rebuild() != tt.rebuild {
				t.Errorf("damaged %+v", r.Damaged)
			}
		})
	}
}

// The oldest segment is gone, and no snapshot tells that it was to go.
func testFirstSegment(t *testing.T, dir string) {
	segments, _ := filepath.Glob(filepath.Join(dir, "raft/p0000/log/*.seg"))
	var next uint64
	if _, err := fmt.Sscanf(filepath.Base(segments[1]), "%020d.seg", &next); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, fmt.Sprintf("raft/p0000/snapshots/%020d.snap", next-1)))
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), Options{Dir: dir})
	if err != nil || r.Fault == nil || !strings.Contains(r.Fault.Reason, "first segments are missing") {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is missing without being lost, and where there is nothing to verify.
func testNoFaults(t *testing.T, whole string) {
	for _, pattern := range []string{"raft/p0000/rooms/*", "raft/p0000/log/*.idx", "raft/p0000/log/CLEAN", "LOCK", "reset.key"} {
		files, _ := filepath.Glob(filepath.Join(whole, pattern))
		if len(files) == 0 {
			t.Errorf("there is no %s", pattern)
		}
		for _, path := range files {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := tree(t, whole)
	r, err := Run(t.Context(), Options{Dir: whole})
	if err != nil || r.Fault != nil || r.Partitions[0].Clean || r.Partitions[0].Indexes != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if after := tree(t, whole); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
	if _, err := Run(t.Context(), Options{Dir: t.TempDir()}); !errors.Is(err, node.ErrNoData) {
		t.Errorf("an empty directory: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{Dir: whole}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := os.WriteFile(filepath.Join(whole, "raft/p0000/FENCED"), []byte("odd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err = Run(t.Context(), Options{Dir: whole})
	if err != nil || r.Fault == nil || !strings.Contains(r.Fault.Reason, "fenced: odd") || r.Damaged == nil || r.Damaged.Rebuild() != "0" || r.Fault.Rebuild != "" {
		t.Errorf("fenced: %+v, %v", r, err)
	}
	if err := errors.Join(os.Remove(filepath.Join(whole, "raft/p0000/FENCED")), os.RemoveAll(filepath.Join(whole, "raft/p0000"))); err != nil {
		t.Fatal(err)
	}
	if r, err := Run(t.Context(), Options{Dir: whole}); err != nil || r.Fault == nil || !strings.Contains(r.Fault.Reason, "no log") {
		t.Errorf("without its log: %+v, %v", r, err)
	}
}

// tree lists all files with their sizes and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&all, path, info.Size(), info.ModTime(), info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestEntries(t *testing.T) {
	// "3.2x": at index 3, of term 2, the data x.
	for _, tt := range []struct {
		name, here, there string
		known             uint64
		same              uint64
		beyond, differ    uint64
	}{
		{name: "the same", here: "3.2a 4.2b 6.3c", there: "3.2a 4.2b 6.3c", known: 9, same: 3},
		{name: "no entries"},
		{name: "other data in one term, beyond what is known", here: "3.2a 4.2b", there: "3.2a 4.2c", same: 1, differ: 4, beyond: 4},
		{name: "other terms beyond", here: "3.2a 4.2b 5.2c", there: "3.2a 4.3b 5.3c", known: 3, same: 1, beyond: 4},
		{name: "other terms at what is known", here: "3.2a 4.2b", there: "3.2a 4.3b", known: 4, same: 1, beyond: 4, differ: 4},
		{name: "other terms, and the same ones behind", here: "3.2a 4.2b 5.4c", there: "3.2a 4.3b 5.4c", known: 3, same: 2, beyond: 4, differ: 4},
		{name: "one of raft's there", here: "3.2a 4.2b 5.2c", there: "3.2a 5.2c", known: 4, same: 1, beyond: 4, differ: 4},
		{name: "one of raft's here, beyond", here: "3.2a", there: "3.2a 4.2b", known: 3, same: 1, beyond: 4},
		{name: "one of raft's here, beyond, and the same behind", here: "3.2a 5.3c", there: "3.2a 4.2b 5.3c", known: 3, same: 2, beyond: 4, differ: 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := pair{out: &Compared{Known: tt.known}, nodes: [2]string{"n1", "n2"}}
			if err := p.entries(entriesOf(t, tt.here), entriesOf(t, tt.there)); err != nil {
				t.Fatal(err)
			}
			differ := uint64(0)
			if d := p.out.Difference; d != nil {
				differ = d.Index
				if d.Here.Hash == d.There.Hash && d.Here.Term == d.There.Term || !strings.Contains(d.Error(), "n1 has") {
					t.Errorf("%v", d)
				}
			}
			if p.out.Same != tt.same || p.out.Beyond != tt.beyond || differ != tt.differ {
				t.Errorf("%+v", p.out)
			}
		})
	}
	broken := func(yield func(raftlog.Entry, error) bool) { yield(raftlog.Entry{}, os.ErrInvalid) }
	p := pair{out: &Compared{}}
	if err := p.entries(entriesOf(t, "3.2a"), broken); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("an error: %v", err)
	}
}

func entriesOf(t *testing.T, text string) iter.Seq2[raftlog.Entry, error] {
	return func(yield func(raftlog.Entry, error) bool) {
		for word := range strings.FieldsSeq(text) {
			var e raftlog.Entry
			var data string
			if _, err := fmt.Sscanf(word, "%d.%d%s", &e.Index, &e.Term, &data); err != nil {
				t.Fatal(err)
			}
			if e.Data = []byte(data); !yield(e, nil) {
				return
			}
		}
	}
}

func testAgainst(t *testing.T, dir string) {
	if _, _, _, err := RunAgainst(t.Context(), Options{Dir: dir, Against: dir}); err == nil || !strings.Contains(err.Error(), "both of node n1") {
		t.Errorf("against itself: %v", err)
	}
	other := filepath.Join(t.TempDir(), "n2")
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	as3(t, other)
	if _, _, _, err := RunAgainst(t.Context(), Options{Dir: dir, Against: other}); err == nil || !strings.Contains(err.Error(), "not one cluster") {
		t.Errorf("against another cluster's: %v", err)
	}
	as3(t, dir)
	edit(t, filepath.Join(other, "node.json"), func(b []byte) []byte { return []byte(strings.Replace(string(b), `"node":"n1"`, `"node":"n2"`, 1)) })
	_, _, c, err := RunAgainst(t.Context(), Options{Dir: dir, Against: other})
	if err != nil || c.Difference != nil || c.Snapshots < 2 || c.Entries == 0 {
		t.Errorf("against a copy: %+v, %v", c, err)
	}
	snapshots, _ := filepath.Glob(filepath.Join(other, "raft/p0000/snapshots/*.snap"))
	// The oldest one is where the replay begins: it alone need not be what the log makes.
	edit(t, snapshots[0], func(b []byte) []byte {
		binary.LittleEndian.PutUint64(b[32:], 0) // where the configuration stands
		n := 40 + binary.LittleEndian.Uint32(b[12:])
		castagnoli := crc32.MakeTable(crc32.Castagnoli)
		binary.LittleEndian.PutUint32(b[n:], crc32.Checksum(b[:n], castagnoli))
		binary.LittleEndian.PutUint32(b[len(b)-8:], crc32.Checksum(b[:len(b)-8], castagnoli))
		return b
	})
	_, there, c, err := RunAgainst(t.Context(), Options{Dir: dir, Against: other})
	if err != nil || c == nil || c.Difference == nil || c.Difference.What != "snapshot" {
		t.Errorf("another snapshot: %+v, %+v, %v", there, c, err)
	}
}
