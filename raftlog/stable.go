package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// StableStore keeps term and vote of all groups of a node in one file. Each
// value carries a CRC32C over its group, its name and itself, because bolt's
// leaf pages have none and a flipped vote would be two leaders in one term.
//
//	key    group, 4 bytes big endian; name
//	value  value; CRC32C of key and value, 4 bytes little endian
//
// The first write that fails is latched, as in logStore. Raft itself then ends
// the process, as soon as it has a term to write.
//
// Safe for concurrent use.
type StableStore struct {
	disk *raftboltdb.BoltStore
	path string

	mu     sync.Mutex
	failed error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenStable opens or creates the store at path. One process may have it open.
func OpenStable(path string) (*StableStore, error) {
	disk, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	return &StableStore{disk: disk, path: path}, nil
}

// Close closes the file.
func (s *StableStore) Close() error { return s.disk.Close() }

// group is the raft.StableStore of one group.
func (s *StableStore) group(id uint32) groupStable {
	return groupStable{store: s, prefix: binary.BigEndian.AppendUint32(nil, id)}
}

type groupStable struct {
	store  *StableStore
	prefix []byte
}

func (g groupStable) key(name []byte) []byte {
	return append(append(make([]byte, 0, 4+len(name)), g.prefix...), name...)
}

func (g groupStable) Set(name, value []byte) error {
	key := g.key(name)
	sealed := append(make([]byte, 0, len(value)+4), value...)
	sealed = binary.LittleEndian.AppendUint32(sealed, checksum(key, value))
	return g.store.set(key, sealed)
}

func (s *StableStore) set(key, sealed []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if err := s.disk.Set(key, sealed); err != nil {
		s.failed = fmt.Errorf("write %s: %w", s.path, err)
	}
	return s.failed
}

// Get returns raft-boltdb's "not found" for a value never set: raft compares
// the text.
func (g groupStable) Get(name []byte) ([]byte, error) {
	key := g.key(name)
	sealed, err := g.store.disk.Get(key)
	if err != nil {
		return nil, err
	}
	n := len(sealed) - 4
	if n < 0 || binary.LittleEndian.Uint32(sealed[n:]) != checksum(key, sealed[:n]) {
		return nil, fmt.Errorf("%s: value %q of group %d is damaged", g.store.path, name, binary.BigEndian.Uint32(g.prefix))
	}
	return sealed[:n], nil
}

func (g groupStable) SetUint64(name []byte, value uint64) error {
	return g.Set(name, binary.BigEndian.AppendUint64(nil, value))
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

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}
