package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// StableStore keeps term and vote of all groups of a node in one file, a bolt
// database with a single value. What is lost there or rolled back could be two
// leaders in one term, so a changed bit is found, wherever it is: by boltValue
// in the database's pages, by checksums in the value. One in a group's section is
// damage to that group, any other to all. Groups that write at the same time
// share a transaction: a node's death makes all of them vote at once. Raft sets the
// two halves of a vote, its term first, one after the other; they are written as one.
//
// The value, little endian:
//
//	magic "RLST", format u16 (1), zero u16, number of groups u32
//	per group, by its number: number u32, length of its section u32
//	CRC32C of the above
//	sections: names in order, each with
//	    length of name u16, length of value u32, name, value
//	    and at the end CRC32C of the group's number and the names
//
// The first write that fails is latched, as in a log: nothing is written or read
// any more, for what was to be written may be on the disk or not. Raft itself
// then ends the process, as soon as it has a term to write.
//
// Safe for concurrent use, but a group's values are one goroutine's at a time: a
// value can be read when it is not yet durable.
type StableStore struct {
	path string
	disk *raftboltdb.BoltStore

	writing sync.Mutex // held by who writes to the disk

	mu     sync.Mutex
	groups map[uint32]stableGroup
	next   *stableWrite // takes up what is changed until it begins; nil: nothing has been
	failed error
}

// stableGroup is what a group has stored, or the section that is damaged.
type stableGroup struct {
	values  map[string][]byte
	half    []byte // of a vote that has been set only so far: its term
	section []byte
	damage  error
}

// stableWrite is a transaction. Who begins it writes; the others wait for done.
type stableWrite struct {
	done chan struct{}
	err  error // once done
}

const (
	stableKey    = "groups"
	stableMagic  = "RLST"
	stableFormat = 1
	stableHead   = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenStable opens or creates the store at path. One process may have it open.
func OpenStable(path string) (*StableStore, error) {
	s, err := openStable(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func openStable(path string) (*StableStore, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		err = createStable(path)
		if err != nil {
			return nil, err
		}
	}
	groups, err := readStable(path)
	if err != nil {
		return nil, err
	}
	disk, err := openBoltStore(path)
	if err != nil {
		return nil, err
	}
	return &StableStore{path: path, disk: disk, groups: groups}, nil
}

// createStable makes an empty store aside: at path there is none or a whole one.
func createStable(path string) error {
	aside := path + ".tmp"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	disk, err := openBoltStore(aside)
	if err != nil {
		return err
	}
	if err := errors.Join(disk.Set([]byte(stableKey), encodeStable(nil)), disk.Close()); err != nil {
		return err
	}
	if err := vfs.OS.Rename(aside, path); err != nil {
		return err
	}
	return vfs.OS.SyncDir(filepath.Dir(path))
}

func openBoltStore(path string) (_ *raftboltdb.BoltStore, err error) {
	defer recoverDamage(path, &err)()
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(false)})
	return store, boltError(err)
}

func boltOptions(readOnly bool) *bbolt.Options {
	return &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly}
}

func boltError(err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return errors.New("another process has it open")
	}
	return err
}

// readStable reads a store that nobody writes to. Bolt's own check comes last:
// it runs in a goroutine of its own, where nothing can recover what it trips over.
func readStable(path string) (map[uint32]stableGroup, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	value, offset, err := boltValue(path, data, stableKey)
	if err != nil {
		return nil, err
	}
	groups, err := decodeStable(path, offset, value)
	if err != nil {
		return nil, err
	}
	return groups, checkBolt(path, value)
}

func checkBolt(path string, value []byte) (err error) {
	defer recoverDamage(path, &err)()
	db, err := bbolt.Open(path, 0o600, boltOptions(true))
	if err != nil {
		return boltError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = &DamageError{Path: path, Reason: err.Error()}
			}
		}
		if first == nil && !bytes.Equal(tx.Bucket([]byte("conf")).Get([]byte(stableKey)), value) {
			first = &DamageError{Path: path, Reason: "bolt finds another value than lies there"}
		}
		return first
	})
}

// recoverDamage makes an error of what bolt does in a damaged file: it panics, or
// reads memory behind the file's end. The function that it returns is deferred.
func recoverDamage(path string, err *error) func() {
	faults := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(faults)
		switch p := recover().(type) {
		case nil:
		case runtime.Error, string, error:
			*err = errors.Join(*err, &DamageError{Path: path, Reason: fmt.Sprintf("bolt: %v", p)})
		default:
			panic(p)
		}
	}
}

// VerifyStable checks the file of a store that nobody has open, every group's
// part of it, and returns the groups that it holds. The first fault found is a
// *DamageError.
func VerifyStable(path string) (groups []uint32, err error) {
	held, err := readStable(path)
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", path, err)
	}
	for _, id := range slices.Sorted(maps.Keys(held)) {
		if err := held[id].damage; err != nil {
			return nil, err
		}
		groups = append(groups, id)
	}
	return groups, nil
}

// Close closes the file.
func (s *StableStore) Close() error { return s.disk.Close() }

// change has f change the groups, and returns when that is on the disk. Who comes
// while a write is under way shares the next one.
func (s *StableStore) change(f func() error) error {
	s.mu.Lock()
	err := s.failed
	if err == nil {
		err = f()
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	w, first := s.next, s.next == nil
	if first {
		w = &stableWrite{done: make(chan struct{})}
		s.next = w
	}
	s.mu.Unlock()
	if first {
		w.err = s.write()
		close(w.done)
	}
	<-w.done
	return w.err
}

// write writes what all groups have stored, when no other write is under way.
func (s *StableStore) write() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	s.next = nil
	value, failed := encodeStable(s.groups), s.failed
	s.mu.Unlock()
	if failed != nil {
		return failed
	}
	err := s.put(value)
	if err != nil {
		err = fmt.Errorf("write %s: %w", s.path, err)
		s.mu.Lock()
		s.failed = err
		s.mu.Unlock()
	}
	return err
}

func (s *StableStore) put(value []byte) (err error) {
	defer recoverDamage(s.path, &err)()
	return s.disk.Set([]byte(stableKey), value)
}

// group is the raft.StableStore of one group.
func (s *StableStore) group(id uint32) groupStable { return groupStable{s, id} }

type groupStable struct {
	store *StableStore
	id    uint32
}

// values returns the group's values. It needs store.mu.
func (g groupStable) values() (map[string][]byte, error) {
	held := g.store.groups[g.id]
	return held.values, errors.Join(g.store.failed, held.damage)
}

// exists tells whether the group has stored anything. One with entries or
// snapshots has: without it, it could vote again where it has voted.
func (g groupStable) exists() (bool, error) {
	g.store.mu.Lock()
	defer g.store.mu.Unlock()
	values, err := g.values()
	return len(values) > 0, err
}

// Get returns "not found" for a value never set: raft compares the text.
func (g groupStable) Get(name []byte) ([]byte, error) {
	g.store.mu.Lock()
	defer g.store.mu.Unlock()
	values, err := g.values()
	if err != nil {
		return nil, err
	}
	value, ok := values[string(name)]
	if half := g.store.groups[g.id].half; half != nil && string(name) == string(keyVoteTerm) {
		value, ok = half, true
	}
	if !ok {
		return nil, raftboltdb.ErrKeyNotFound
	}
	return append([]byte{}, value...), nil
}

func (g groupStable) GetUint64(name []byte) (uint64, error) {
	value, err := g.Get(name)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s: value %q has %d bytes, not 8", g.store.path, name, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func (g groupStable) Set(name, value []byte) error {
	if string(name) == string(keyVoteTerm) {
		return g.beginVote(value)
	}
	return g.store.change(func() error {
		values, err := g.values()
		if err != nil {
			return err
		}
		if values == nil {
			values = map[string][]byte{}
		}
		values[string(name)] = bytes.Clone(value)
		held := stableGroup{values: values, half: g.store.groups[g.id].half}
		if held.half != nil && string(name) == string(keyVote) {
			values[string(keyVoteTerm)], held.half = held.half, nil
		}
		g.store.groups[g.id] = held
		return nil
	})
}

// beginVote keeps the term of a vote until it is known whose it is. Nothing has been
// promised to anybody before that. Written alone it would claim a vote in that term for
// whom the replica has voted for earlier.
func (g groupStable) beginVote(term []byte) error {
	g.store.mu.Lock()
	defer g.store.mu.Unlock()
	values, err := g.values()
	if err == nil {
		g.store.groups[g.id] = stableGroup{values: values, half: bytes.Clone(term)}
	}
	return err
}

func (g groupStable) SetUint64(name []byte, value uint64) error {
	return g.Set(name, binary.BigEndian.AppendUint64(nil, value))
}

// replace makes values all that the group has stored, damaged or not; nil is nothing.
func (g groupStable) replace(values map[string][]byte) error {
	return g.store.change(func() error {
		delete(g.store.groups, g.id)
		if values != nil {
			g.store.groups[g.id] = stableGroup{values: values}
		}
		return nil
	})
}

func encodeStable(groups map[uint32]stableGroup) []byte {
	le := binary.LittleEndian
	value := le.AppendUint16([]byte(stableMagic), stableFormat)
	value = le.AppendUint16(value, 0)
	value = le.AppendUint32(value, uint32(len(groups)))
	var sections []byte
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		begin := len(sections)
		if g := groups[id]; g.damage != nil {
			sections = append(sections, g.section...)
		} else {
			sections = appendSection(sections, id, g.values)
		}
		value = le.AppendUint32(value, id)
		value = le.AppendUint32(value, uint32(len(sections)-begin))
	}
	value = le.AppendUint32(value, crc32.Checksum(value, castagnoli))
	return append(value, sections...)
}

func appendSection(b []byte, id uint32, values map[string][]byte) []byte {
	begin := len(b)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(values[name])))
		b = append(append(b, name...), values[name]...)
	}
	return binary.LittleEndian.AppendUint32(b, sectionSum(id, b[begin:]))
}

func sectionSum(id uint32, names []byte) uint32 {
	return crc32.Update(crc32.Checksum(binary.LittleEndian.AppendUint32(nil, id), castagnoli), castagnoli, names)
}

// decodeStable takes a value apart that lies at an offset of the file. A damaged
// section is no error: the other groups can go on.
func decodeStable(path string, offset int64, value []byte) (map[uint32]stableGroup, error) {
	damage := func(at int, reason string) error {
		return &DamageError{Path: path, Offset: offset + int64(at), Reason: reason}
	}
	le := binary.LittleEndian
	if len(value) < stableHead+4 || string(value[:4]) != stableMagic {
		return nil, damage(0, "not the value of a stable store")
	}
	count := uint64(le.Uint32(value[8:]))
	if count > uint64(len(value)-stableHead-4)/8 {
		return nil, damage(8, "more groups than there is room for")
	}
	at := stableHead + 8*int(count) // of the first section, but for the checksum
	if le.Uint32(value[at:]) != crc32.Checksum(value[:at], castagnoli) {
		return nil, damage(0, "the list of groups is not what was written")
	}
	if format := le.Uint16(value[4:]); format != stableFormat {
		return nil, fmt.Errorf("format %d is not known", format)
	}
	at += 4
	groups := make(map[uint32]stableGroup, count)
	for i := range int(count) {
		id, size := le.Uint32(value[stableHead+8*i:]), int(le.Uint32(value[stableHead+8*i+4:]))
		if size > len(value)-at {
			return nil, damage(at, "the value is too short")
		}
		g := stableGroup{values: sectionValues(id, value[at:at+size])}
		if g.values == nil {
			g.damage = damage(at, fmt.Sprintf("term and vote of group %d are not what was written", id))
			g.section = bytes.Clone(value[at : at+size])
		}
		groups[id] = g
		at += size
	}
	if at != len(value) {
		return nil, damage(at, "the value is too long")
	}
	return groups, nil
}

// sectionValues returns nil if the section is damaged.
func sectionValues(id uint32, section []byte) map[string][]byte {
	end := len(section) - 4
	if end < 0 || binary.LittleEndian.Uint32(section[end:]) != sectionSum(id, section[:end]) {
		return nil
	}
	values := map[string][]byte{}
	for rest := section[:end]; len(rest) > 0; {
		if len(rest) < 6 {
			return nil
		}
		name, value := int(binary.LittleEndian.Uint16(rest)), int(binary.LittleEndian.Uint32(rest[2:]))
		if rest = rest[6:]; name > len(rest) || value > len(rest)-name {
			return nil
		}
		values[string(rest[:name])] = bytes.Clone(rest[name : name+value])
		rest = rest[name+value:]
	}
	return values
}
