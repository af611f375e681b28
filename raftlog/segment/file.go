package segment

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

const (
	suffixSegment = ".seg"
	suffixIndex   = ".idx"
	suffixFree    = ".free"
	suffixNew     = ".new" // a file being made; Open removes it

	// A file is made longer for about fillWrites writes at a time, within bounds.
	fillWrites = 16
	minFill    = 128 << 10
	maxFill    = 1 << 20
)

// file is a segment and what is known of it. The Log's mutex guards last and
// offsets; the others do not change once the file is part of a Log.
type file struct {
	header
	name string
	seed uint32
	last place    // of the records; that before the first if there are none
	size int64    // of the file; belongs to the writer
	at   []uint32 // offsets of the records; nil when sealed: they are in the index file

	mu   sync.RWMutex // held while bytes are read, and to let go of the file
	f    vfs.File
	gone bool
}

func newFile(name string, f vfs.File, h header, size int64) *file {
	s := &file{header: h, name: name, seed: seedOf(h.salt), f: f, size: size, at: []uint32{}}
	s.last = place{index: h.first - 1, term: h.term, chain: h.chain, end: pageSize}
	return s
}

func (s *file) empty() bool { return s.last.index < s.first }

// readAt reads len(b) bytes of the segment. It is errGone if the segment was dropped.
func (s *file) readAt(b []byte, at int64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gone {
		return errGone
	}
	n, err := s.f.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return s.damage(at+int64(n), "the file is too short")
	}
	return fmt.Errorf("read %s: %w", s.name, err)
}

var errGone = errors.New("segment: the segment was dropped")

func (s *file) damage(at int64, reason string) error {
	return &DamageError{Path: s.name, Offset: at, Reason: reason}
}

// letGo waits for readers and leaves the open file to the caller; nil if it was
// let go before.
func (s *file) letGo() vfs.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	s.gone = true
	return s.f
}

func (o *Options) path(first uint64, suffix string) string {
	return filepath.Join(o.Dir, fmt.Sprintf("%020d%s", first, suffix))
}

// numberOf reads a file's number from its name.
func numberOf(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// openFile opens a segment that exists and checks its header.
func (o *Options) openFile(first uint64) (_ *file, err error) {
	name := o.path(first, suffixSegment)
	f, err := o.FS.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	page := make([]byte, min(size, pageSize))
	if _, err := f.ReadAt(page, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	h, err := decodeHeader(page)
	switch {
	case err != nil:
		return nil, &DamageError{Path: name, Reason: err.Error()}
	case len(page) < pageSize:
		return nil, &DamageError{Path: name, Offset: size, Reason: "the file ends within its header"}
	case h.group != o.Group:
		return nil, &DamageError{Path: name, Offset: 8, Reason: fmt.Sprintf("it belongs to group %d, not %d", h.group, o.Group)}
	case h.first != first || first == 0:
		return nil, &DamageError{Path: name, Offset: 24, Reason: fmt.Sprintf("its first entry is %d, not that of its name", h.first)}
	}
	return newFile(name, f, h, size), nil
}

func newSalt() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return le.Uint64(b[:])
}

// freeFile is a dropped segment that waits to be used again.
type freeFile struct {
	name string
	f    vfs.File
	size int64
	seed uint32 // of its records
}

// makeFile makes the segment that follows on p, from free if that is not nil. It
// is durable and empty on return.
func (o *Options) makeFile(p place, free *freeFile) (_ *file, err error) {
	h := header{group: o.Group, chain: p.chain, first: p.index + 1, term: p.term, salt: newSalt()}
	name := o.path(h.first, suffixSegment)
	if free == nil {
		free = &freeFile{name: o.path(h.first, suffixNew), size: pageSize}
		if free.f, err = o.FS.Create(free.name); err != nil {
			return nil, err
		}
	} else {
		h.recycled = true
		for seedOf(h.salt) == free.seed && !seededStaleRecords { // or the old records could be read
			h.salt = newSalt()
		}
	}
	if _, err = free.f.WriteAt(h.page(), 0); err == nil {
		err = free.f.Sync() // of the header, before the file has its name
	}
	if h.recycled {
		vfs.Uncache(free.f, pageSize, free.size)
	}
	if err == nil {
		err = o.FS.Rename(free.name, name)
	}
	if err == nil {
		err = o.FS.SyncDir(o.Dir) // of a new segment, before records go into it
	}
	if err != nil {
		free.f.Close()
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return newFile(name, free.f, h, max(free.size, pageSize)), nil
}

// writeIndex writes the index file of a sealed segment. Its name is not synced: one
// that a crash has lost is made again.
func (o *Options) writeIndex(s *file, offsets []uint32) (err error) {
	x := index{group: o.Group, first: s.first, salt: s.salt, last: s.last, offsets: offsets}
	name := o.path(s.first, suffixIndex)
	f, err := o.FS.Create(name + suffixNew)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(x.encode(), 0); err == nil {
		err = f.Sync() // of an index: Verify takes half of one for damage
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return o.FS.Rename(name+suffixNew, name)
}

// readIndex reads the index file of s.
func (o *Options) readIndex(s *file) (index, error) {
	name := o.path(s.first, suffixIndex)
	b, err := vfs.ReadFile(o.FS, name, maxOffset)
	if err != nil {
		return index{}, err
	}
	x, err := decodeIndex(b)
	switch {
	case err != nil:
		return x, &DamageError{Path: name, Reason: err.Error()}
	case x.group != s.group || x.first != s.first || x.salt != s.salt:
		return x, &DamageError{Path: name, Reason: "it belongs to another segment"}
	}
	return x, nil
}

// offsetsOf reads the offset of record n of a sealed segment that ends at last,
// and that behind it.
func (o *Options) offsetsOf(s *file, n uint64, last place) (at, end int64, err error) {
	f, err := o.FS.Open(o.path(s.first, suffixIndex))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	b := make([]byte, 8)
	lastOne := s.first+n == last.index
	if lastOne {
		b = b[:4]
	}
	path, place := o.path(s.first, suffixIndex), int64(indexHead+4*n)
	switch _, err := f.ReadAt(b, place); {
	case errors.Is(err, io.EOF):
		return 0, 0, &DamageError{Path: path, Offset: place, Reason: "the file is too short"}
	case err != nil:
		return 0, 0, fmt.Errorf("read %s: %w", path, err)
	}
	at, end = int64(le.Uint32(b)), last.end
	if !lastOne {
		end = int64(le.Uint32(b[4:]))
	}
	if at < pageSize || end < at+headSize || end > last.end {
		return 0, 0, &DamageError{Path: path, Offset: place, Reason: "the offset makes no sense"}
	}
	return at, end, nil
}

func (o *Options) readMark(name, magic string) (m mark, ok bool, err error) {
	path := filepath.Join(o.Dir, name)
	b, err := vfs.ReadFile(o.FS, path, pageSize)
	switch {
	case isNotExist(err):
		return m, false, nil
	case err != nil:
		return m, false, err
	}
	if m, err = decodeMark(b, magic); err != nil {
		return m, false, &DamageError{Path: path, Reason: err.Error()}
	}
	if m.group != o.Group {
		return m, false, &DamageError{Path: path, Offset: 8, Reason: fmt.Sprintf("it belongs to group %d, not %d", m.group, o.Group)}
	}
	return m, true, nil
}

func (o *Options) writeMark(name string, m mark) error {
	m.group = o.Group
	return vfs.WriteFile(o.FS, filepath.Join(o.Dir, name), func(w io.Writer) error {
		_, err := w.Write(m.encode())
		return err
	})
}

// remove removes a file that may be gone already; the directory is still to be synced.
func (o *Options) remove(path string) error {
	if err := o.FS.Remove(path); err != nil && !isNotExist(err) {
		return err
	}
	return nil
}
