package clustertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/internal/verify"
	"github.com/roomlog/roomlog/raftlog"
)

// TestBitFlips changes single bits of a stopped node's data, and cuts files short.
// Each change is found by verify, or everything that can be read is the same as
// before. A node is started on some: it refuses, or it serves what the others
// serve. ROOMLOG_FLIPS says how many changes there are, ROOMLOG_FLIP_STARTS on how
// many of them a node is started, ROOMLOG_FLIP_SEED repeats the choice.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	d := startData(t, nil)
	all := d.Names()
	d.checkpoint(all...)
	d.Until("a segment is used again", func() bool {
		d.checkpoint(all...)
		return recycled(d.dataDir("n3"))
	})
	d.publish(5)
	d.checkReplicas()
	d.Stop("n3")

	seed := uint64(envInt(t, "ROOMLOG_FLIP_SEED", rand.Int()))
	t.Logf("ROOMLOG_FLIP_SEED=%d", seed)
	f := &flips{dataCluster: d, t: t, dir: d.dataDir("n3"), rng: rand.New(rand.NewPCG(seed, 0)), found: map[string]int{}, harmless: map[string]int{}}
	f.load()
	n, starts := envInt(t, "ROOMLOG_FLIPS", 1000), envInt(t, "ROOMLOG_FLIP_STARTS", 6)
	for i := range n {
		c := f.choose(i)
		f.try(c, starts > 0 && i%(n/starts) == i/(n/starts)%len(f.kinds))
	}
	t.Logf("found: %v; harmless: %v; a node refused %d, served on %d", f.found, f.harmless, f.refused, f.served)
	for _, kind := range f.kinds {
		if f.found[kind] == 0 {
			t.Errorf("no change of a %s file was found", kind)
		}
	}
	if f.harmless["db"] == 0 || starts > 0 && (f.refused == 0 || f.served == 0) {
		t.Error("the changes were not of all sorts")
	}
}

// recycled tells whether a segment in use had an earlier life, by its header.
func recycled(dir string) bool {
	segments, _ := filepath.Glob(filepath.Join(dir, "raft/p0000/log/*.seg"))
	for _, name := range segments {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		var head [8]byte
		_, err = f.ReadAt(head[:], 0)
		f.Close()
		if err == nil && binary.LittleEndian.Uint16(head[6:]) == 1 {
			return true
		}
	}
	return false
}

// flips changes the files of one node.
type flips struct {
	*dataCluster
	t   *testing.T
	dir string
	rng *rand.Rand

	files    map[string][]byte // as they were, by path
	byKind   map[string][]string
	kinds    []string
	content  string // of everything that can be read, as it was
	live     int    // where in stable.db the value lies that counts
	liveSize int
	rooms    map[string][]client.Message

	found, harmless map[string]int
	refused, served int
}

// change is one change of a file.
type change struct {
	path, kind string
	at         int
	bit        int // -1: the file ends here
}

func (c change) String() string {
	if c.bit < 0 {
		return fmt.Sprintf("%s cut off at byte %d", filepath.Base(c.path), c.at)
	}
	return fmt.Sprintf("bit %d of byte %d of %s", c.bit, c.at, filepath.Base(c.path))
}

// load reads the node's files and what is in them.
func (f *flips) load() {
	f.t.Helper()
	f.files, f.byKind = map[string][]byte{}, map[string][]string{}
	f.must(filepath.WalkDir(filepath.Join(f.dir, "raft"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		f.files[path] = b
		kind := strings.TrimPrefix(filepath.Ext(path), ".")
		if kind == "" {
			kind = filepath.Base(path)
		}
		f.byKind[kind] = append(f.byKind[kind], path)
		return err
	}))
	f.kinds = []string{"seg", "idx", "snap", "rooms", "db", "CLEAN"}
	for _, kind := range f.kinds {
		if len(f.byKind[kind]) == 0 {
			f.t.Fatalf("there is no %s file", kind)
		}
	}
	r, err := verify.Run(f.t.Context(), verify.Options{Dir: f.dir})
	f.must(err)
	if r.Fault != nil || r.Partitions[0].Snapshots < 2 || r.Partitions[0].Indexes == 0 || !r.Partitions[0].Clean {
		f.t.Fatalf("the data is not as it should be: %+v", r)
	}
	f.content = f.read()
	f.findVote()
	f.rooms = f.readRooms("n1")
}

// read reads all that can be read, as a sum.
func (f *flips) read() string {
	f.t.Helper()
	sum := sha256.New()
	add := func(h hash.Hash, v uint64) { h.Write(binary.LittleEndian.AppendUint64(nil, v)) }
	found, err := raftlog.Verify(raftlog.Verification{
		Dir: filepath.Join(f.dir, "raft", "p0000"), ID: 0,
		Entry: func(e raftlog.Entry) error {
			add(sum, uint64(e.Index))
			add(sum, uint64(e.Term))
			add(sum, uint64(len(e.Data)))
			sum.Write(e.Data)
			return nil
		},
		Snapshot: func(index raftlog.Index, body io.Reader) error {
			add(sum, uint64(index))
			n, err := io.Copy(sum, body)
			add(sum, uint64(n))
			return err
		},
	})
	f.must(err)
	found.Log.Bytes = 0 // zeros behind the log may be missing
	return fmt.Sprintf("%x %v %+v", sum.Sum(nil), found.Snapshots, found.Log)
}

// findVote finds the value of stable.db that counts: of all that look like one, the
// one whose change makes a difference.
func (f *flips) findVote() {
	f.t.Helper()
	path := f.byKind["db"][0]
	b := f.files[path]
	f.live = -1
	for at := 0; ; {
		next := bytes.Index(b[at:], []byte("RLST"))
		if next < 0 {
			break
		}
		at += next + 1
		if f.verdict(change{path: path, at: at - 1, bit: 0}) != nil {
			if f.live >= 0 {
				f.t.Fatal("stable.db has two values that count")
			}
			f.live = at - 1
		}
	}
	if f.live < 0 {
		f.t.Fatal("stable.db has no value that counts")
	}
	// One group: the length of its section stands behind its number.
	f.liveSize = 24 + int(binary.LittleEndian.Uint32(b[f.live+16:]))
}

// choose draws a change, of each kind of file in turn.
func (f *flips) choose(i int) change {
	kind := f.kinds[i%len(f.kinds)]
	paths := f.byKind[kind]
	c := change{kind: kind, path: paths[f.rng.IntN(len(paths))]}
	size := len(f.files[c.path])
	c.at, c.bit = f.rng.IntN(size), f.rng.IntN(8)
	switch {
	case f.rng.IntN(10) == 0:
		c.bit = -1
	case kind == "seg" && f.rng.IntN(4) == 0:
		c.at = f.rng.IntN(44) // the header
	case kind == "seg" && f.rng.IntN(3) == 0: // the newest records
		c.path = paths[len(paths)-1]
		c.at = 4096 + f.rng.IntN(int(binary.LittleEndian.Uint64(f.files[f.byKind["CLEAN"][0]][24:]))-4096)
	case kind == "db" && f.rng.IntN(2) == 0:
		c.at = f.live + f.rng.IntN(f.liveSize)
	}
	return c
}

// change makes the change; undo takes it back.
func (f *flips) change(c change) (undo func()) {
	f.t.Helper()
	if c.bit < 0 {
		f.must(os.Truncate(c.path, int64(c.at)))
	} else {
		f.put(c.path, f.files[c.path][c.at]^1<<c.bit, c.at)
	}
	return func() {
		if c.bit < 0 {
			f.must(os.WriteFile(c.path, f.files[c.path], 0o600))
		} else {
			f.put(c.path, f.files[c.path][c.at], c.at)
		}
	}
}

func (f *flips) put(path string, b byte, at int) {
	f.t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	f.must(err)
	_, err = file.WriteAt([]byte{b}, int64(at))
	f.must(errors.Join(err, file.Close()))
}

func (f *flips) verdict(c change) *verify.Fault {
	f.t.Helper()
	defer f.change(c)()
	return f.verify()
}

func (f *flips) verify() *verify.Fault {
	f.t.Helper()
	r, err := verify.Run(f.t.Context(), verify.Options{Dir: f.dir})
	f.must(err)
	return r.Fault
}

// try makes a change and checks what becomes of it.
func (f *flips) try(c change, start bool) {
	f.t.Helper()
	undo := f.change(c)
	fault := f.verify()
	if fault == nil {
		f.harmless[c.kind]++
		f.checkHarmless(c)
	} else {
		f.found[c.kind]++
		if fault.File == "" || fault.Reason == "" || fault.Offset < 0 || fault.Offset > int64(len(f.files[c.path])) {
			f.t.Errorf("%v: %+v", c, fault)
		}
	}
	if start {
		f.start(c, fault)
	} else {
		undo()
	}
}

// checkHarmless makes sure that a change which was not found changes nothing.
func (f *flips) checkHarmless(c change) {
	f.t.Helper()
	switch c.kind {
	case "seg":
	case "db":
		if c.bit >= 0 && c.at >= f.live && c.at < f.live+f.liveSize || c.bit < 0 && c.at < f.live+f.liveSize {
			f.t.Errorf("%v is in a term or vote, and was not found", c)
		}
	default:
		f.t.Errorf("%v was not found", c)
	}
	if got := f.read(); got != f.content {
		f.t.Errorf("%v was not found, and changes what is read:\n%s\n%s", c, f.content, got)
	}
}

// start starts the node on what has been changed, and puts all of it back.
func (f *flips) start(c change, fault *verify.Fault) {
	f.t.Helper()
	n, err := node.Open(f.last["n3"])
	if err != nil {
		f.refused++
		if _, damaged := errors.AsType[*node.DamagedError](err); !damaged || fault == nil {
			f.t.Errorf("%v: verify finds %v, the node does not start: %v", c, fault, err)
		}
	} else {
		f.served++
		f.mu.Lock()
		f.members["n3"].node = n
		f.mu.Unlock()
		f.WaitReady()
		got := f.readRooms("n3")
		for room, want := range f.rooms {
			if !slices.EqualFunc(got[room], want, sameMessage) {
				f.t.Errorf("%v: room %s has %d messages on n3, %d on n1, or they differ", c, room, len(got[room]), len(want))
			}
		}
		f.Stop("n3")
	}
	f.must(os.RemoveAll(filepath.Join(f.dir, "raft")))
	for path, b := range f.files {
		f.must(errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)))
	}
}

func sameMessage(a, b client.Message) bool {
	gap := a.Gap == nil && b.Gap == nil || a.Gap != nil && b.Gap != nil && *a.Gap == *b.Gap
	return gap && a.Room == b.Room && a.Seq == b.Seq && a.Time.Equal(b.Time) && a.Publisher == b.Publisher && bytes.Equal(a.Payload, b.Payload)
}

// readRooms reads what a node serves of the rooms.
func (f *flips) readRooms(name string) map[string][]client.Message {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	cl := f.Client("", name)
	defer cl.Close()
	all := map[string][]client.Message{}
	for _, room := range f.dataCluster.rooms {
		info, err := cl.Room(ctx, room)
		f.must(err)
		all[room], err = ReadRoom(ctx, cl, room, info.Last)
		f.must(err)
	}
	return all
}
