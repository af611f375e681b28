package segment

import (
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	raftwal "github.com/hashicorp/raft-wal"
	raftbench "github.com/hashicorp/raft/bench"
)

// benchSegment is the size of a segment in benchmarks, small enough for some to be
// finished in a run. raft-wal's has the same.
const benchSegment = 16 << 20

// stores are the log stores that are compared, on the disk of the folder for
// temporary files.
var stores = []struct {
	name string
	open func(b *testing.B) raft.LogStore
}{
	{"segment", func(b *testing.B) raft.LogStore { return openBench(b) }},
	{"boltdb", func(b *testing.B) raft.LogStore {
		s, err := raftboltdb.NewBoltStore(filepath.Join(b.TempDir(), "raft.db"))
		return opened(b, s, s, err)
	}},
	{"wal", func(b *testing.B) raft.LogStore {
		quiet := hclog.New(&hclog.LoggerOptions{Output: io.Discard})
		s, err := raftwal.Open(b.TempDir(), raftwal.WithSegmentSize(benchSegment), raftwal.WithLogger(quiet))
		return opened(b, s, s, err)
	}},
}

func opened(b *testing.B, s raft.LogStore, c io.Closer, err error) raft.LogStore {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return s
}

func openBench(b *testing.B) *Log {
	b.Helper()
	l, err := Open(Options{Dir: b.TempDir(), Group: 1, SegmentBytes: benchSegment})
	opened(b, l, l, err)
	return l
}

// batches makes the entries of one write; each call numbers them anew.
func batches(n, size int) func(first uint64) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		logs[i] = &raft.Log{Term: 1, Type: raft.LogCommand, Data: entry(uint64(i), 1, size).Data}
	}
	return func(first uint64) []*raft.Log {
		for i := range logs {
			logs[i].Index = first + uint64(i)
		}
		return logs
	}
}

// BenchmarkStoreLogs writes batches, each with whatever the store needs to make them
// durable. The new files are as a young log has them; in the others, which a log has
// that drops its oldest entries, nothing but records changes.
func BenchmarkStoreLogs(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		for _, size := range []int{256, 1 << 10} {
			for _, s := range stores {
				b.Run(fmt.Sprintf("entries=%d/bytes=%d/store=%s", n, size, s.name), func(b *testing.B) {
					benchStore(b, s.open(b), n, size, 1, func(uint64) {})
				})
			}
			b.Run(fmt.Sprintf("entries=%d/bytes=%d/store=segment-recycled", n, size), func(b *testing.B) {
				l := openBench(b)
				next, first := batches(64, 16<<10), uint64(1)
				for range 3*benchSegment/(1<<20) + 1 {
					if err := l.StoreLogs(next(first)); err != nil {
						b.Fatal(err)
					}
					first += 64
				}
				drop := func(index uint64) {
					if err := l.DropThrough(index); err != nil {
						b.Fatal(err)
					}
				}
				drop(first)
				benchStore(b, l, n, size, first, drop)
			})
		}
	}
}

func benchStore(b *testing.B, s raft.LogStore, n, size int, first uint64, after func(index uint64)) {
	next := batches(n, size)
	b.SetBytes(int64(n * size))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.StoreLogs(next(first)); err != nil {
			b.Fatal(err)
		}
		first += uint64(n)
		after(first - 1)
	}
}

// BenchmarkRead reads a log in order, all of it.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{256, 16 << 10} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			l := openBench(b)
			next, first := batches(64, size), uint64(1)
			for total := 0; total < 3*benchSegment; total += 64 * size {
				if err := l.StoreLogs(next(first)); err != nil {
					b.Fatal(err)
				}
				first += 64
			}
			b.SetBytes(int64(first-1) * int64(size))
			b.ReportAllocs()
			for b.Loop() {
				read := 0
				err := l.Read(1, first-1, func(e *raft.Log) bool {
					read += len(e.Data)
					return true
				})
				if err != nil || read != int(first-1)*size {
					b.Fatal(read, err)
				}
			}
		})
	}
}

// fromOne shifts indexes by one: the library's StoreLog benchmark begins at 0, which
// Raft never does, and which this log and raft-wal refuse.
type fromOne struct{ raft.LogStore }

func (s fromOne) StoreLog(e *raft.Log) error {
	shifted := *e
	shifted.Index++
	return s.LogStore.StoreLog(&shifted)
}

// BenchmarkLibrary runs the benchmarks that hashicorp/raft has for its stores. Its
// DeleteRange is left out: it stores entries with gaps between them, and deletes from
// the front, neither of which a Raft log ever asks of its store.
func BenchmarkLibrary(b *testing.B) {
	for _, s := range stores {
		for _, bench := range []struct {
			name string
			run  func(*testing.B, raft.LogStore)
		}{
			{"FirstIndex", raftbench.FirstIndex},
			{"LastIndex", raftbench.LastIndex},
			{"GetLog", raftbench.GetLog},
			{"StoreLog", raftbench.StoreLog},
			{"StoreLogs", raftbench.StoreLogs},
		} {
			b.Run(bench.name+"/store="+s.name, func(b *testing.B) {
				store := s.open(b)
				if bench.name == "StoreLog" {
					store = fromOne{store}
				}
				bench.run(b, store)
			})
		}
	}
}
