package partition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/vfs"
)

// roomFiles are the index files of a replica's chunks, and the records that were
// read last. One that is missing or damaged is made again in the background.
// Safe for concurrent use.
type roomFiles struct {
	fs    vfs.FS
	dir   string
	group uint32
	log   *slog.Logger
	// remake writes the file of the chunk (from, to] anew.
	remake func(ctx context.Context, from, to raftlog.Index) error

	ctx   context.Context
	tasks *sync.WaitGroup

	mu    sync.Mutex
	cache map[recordKey]*record
	order []recordKey // oldest first
	bytes int
	mends map[raftlog.Index]*mend
	one   sync.Mutex // a remake at a time
}

type recordKey struct {
	to     raftlog.Index
	offset uint32
}

// mend is a file being made again.
type mend struct {
	done  chan struct{}
	err   error // set before done is closed
	began time.Time
}

const (
	recordCache = 4 << 20 // bytes
	// mendAgain is for how long a file that could not be made again is not
	// tried once more.
	mendAgain = 30 * time.Second
)

func (f *roomFiles) path(to raftlog.Index) string {
	return filepath.Join(f.dir, fmt.Sprintf("%020d.rooms", uint64(to)))
}

func (f *roomFiles) write(to raftlog.Index, write func(io.Writer) error) error {
	if err := f.fs.MkdirAll(f.dir); err != nil {
		return err
	}
	if err := vfs.WriteFile(f.fs, f.path(to), write); err != nil {
		return err
	}
	f.forget(to)
	return nil
}

// forget drops what is cached of a file.
func (f *roomFiles) forget(to raftlog.Index) {
	f.mu.Lock()
	defer f.mu.Unlock()
	order := f.order[:0]
	for _, key := range f.order {
		if key.to == to {
			f.bytes -= f.cache[key].size()
			delete(f.cache, key)
		} else {
			order = append(order, key)
		}
	}
	f.order = order
}

// find reads what loc's file says of room into loc.course. If the file has to be
// made again, it returns a channel that is closed when it has been.
func (f *roomFiles) find(loc *location, room string) (wait <-chan struct{}, err error) {
	key := recordKey{loc.to, loc.offset}
	f.mu.Lock()
	r := f.cache[key]
	f.mu.Unlock()
	if r == nil {
		if r, err = f.read(loc, room); err != nil {
			if !errors.Is(err, errRoomFile) && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			return f.mend(loc.from, loc.to, err)
		}
		f.keep(key, r)
	}
	loc.places, loc.drops = r.places, r.drops
	return nil, nil
}

func (f *roomFiles) read(loc *location, room string) (*record, error) {
	file, err := f.fs.Open(f.path(loc.to))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readRecord(file, loc.offset, room)
}

func (f *roomFiles) keep(key recordKey, r *record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cache[key] != nil {
		return
	}
	f.cache[key], f.order, f.bytes = r, append(f.order, key), f.bytes+r.size()
	for f.bytes > recordCache && len(f.order) > 1 {
		f.bytes -= f.cache[f.order[0]].size()
		delete(f.cache, f.order[0])
		f.order = f.order[1:]
	}
}

// mend has the file of the chunk (from, to] made again, because of why. It fails
// if that has failed a moment ago.
func (f *roomFiles) mend(from, to raftlog.Index, why error) (wait <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.mends[to]; m != nil {
		select {
		case <-m.done:
			if m.err != nil && time.Since(m.began) < mendAgain {
				return nil, fmt.Errorf("room index of entries %d to %d: %w", from+1, to, m.err)
			}
		default:
			return m.done, nil
		}
	}
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	f.log.Warn("a room index is made again from the log", "from", from+1, "to", to, "err", why)
	m := &mend{done: make(chan struct{}), began: time.Now()}
	f.mends[to] = m
	f.tasks.Go(func() {
		f.one.Lock()
		defer f.one.Unlock()
		defer close(m.done)
		if m.err = f.remake(f.ctx, from, to); m.err != nil && f.ctx.Err() == nil {
			f.log.Error("a room index could not be made again", "from", from+1, "to", to, "err", m.err)
		}
	})
	return m.done, nil
}

// forgive forgets which files could not be made again: what was in the way may be gone.
func (f *roomFiles) forgive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for to, m := range f.mends {
		select {
		case <-m.done:
			delete(f.mends, to)
		default:
		}
	}
}

// stop waits for nothing, but no mend begins afterwards, ctx having ended.
func (f *roomFiles) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
}

// check looks whether the file of the chunk (from, to] is there and whole, as far
// as its ends tell.
func (f *roomFiles) check(from, to raftlog.Index) error {
	file, err := f.fs.Open(f.path(to))
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return err
	}
	return checkRoomFile(file, size, f.group, from, to)
}

// trim removes the files of the chunks up to floor, and what a crash left behind.
func (f *roomFiles) trim(floor raftlog.Index) error {
	f.forgive()
	names, err := f.fs.List(f.dir)
	if err != nil {
		return err
	}
	removed := false
	for _, name := range names {
		var to uint64
		n, _ := fmt.Sscanf(name, "%020d.rooms", &to)
		if n == 1 && filepath.Base(f.path(raftlog.Index(to))) == name && raftlog.Index(to) <= floor {
			f.forget(raftlog.Index(to))
			err = errors.Join(err, f.fs.Remove(filepath.Join(f.dir, name)))
			removed = true
		}
	}
	if removed {
		err = errors.Join(err, f.fs.SyncDir(f.dir))
	}
	return err
}
