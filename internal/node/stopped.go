package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/roomlog/roomlog/raftlog"
)

// Stopped is the data directory of a node that does not run, and that cannot be
// started until Close. Nothing in it is changed; it may be on a disk that is
// mounted for reading alone.
type Stopped struct {
	Dir        string
	Node       string
	Partitions int
	Members    []string // names, sorted
	Voters     []string // those of them that have a vote

	lock *os.File // nil if there is none to hold: a copy without it
}

// ErrNoData: no node has ever kept its data there.
var ErrNoData = errors.New("no node's data directory")

// OpenStopped fails if the node runs (while it does, its files change), with
// ErrNoData, or with a *raftlog.DamageError if node.json is not what a node writes.
func OpenStopped(path string) (*Stopped, error) {
	s := &Stopped{Dir: path}
	if err := s.take(); err != nil {
		return nil, err
	}
	if err := s.identify(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close lets the node start again.
func (s *Stopped) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

func (s *Stopped) take() (err error) {
	s.lock, err = os.Open(filepath.Join(s.Dir, "LOCK"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(s.lock, 32))
		s.Close()
		return fmt.Errorf("data directory %s is in use by process %s; stop the node first", s.Dir, strings.TrimSpace(string(pid)))
	}
	return nil
}

// identify reads node.json strictly: it has no checksum.
func (s *Stopped) identify() error {
	name := filepath.Join(s.Dir, "node.json")
	data, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(s.Dir, "raft")); err != nil {
			return fmt.Errorf("%s: %w", s.Dir, ErrNoData)
		}
		return &raftlog.DamageError{Path: name, Reason: "the file is missing"}
	case err != nil:
		return err
	}
	var have identity
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&have); err != nil {
		return &raftlog.DamageError{Path: name, Offset: d.InputOffset(), Reason: err.Error()}
	}
	if have.Format != formatVersion {
		return formatError(s.Dir, have.Format)
	}
	s.Node, s.Partitions, s.Members = have.Node, have.Partitions, slices.Sorted(maps.Keys(have.Members))
	s.Voters = votersOf(have.Members, have.Nonvoters)
	if s.Partitions < 1 || !slices.Contains(s.Members, s.Node) {
		return &raftlog.DamageError{Path: name, Reason: fmt.Sprintf("%d partitions on node %q of %q cannot be", s.Partitions, s.Node, s.Members)}
	}
	return nil
}

// CheckKey checks what can be checked of a stateless reset key. A node that has
// never come up has none.
func (s *Stopped) CheckKey() error {
	name := filepath.Join(s.Dir, "reset.key")
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() != 32:
		return &raftlog.DamageError{Path: name, Offset: min(info.Size(), 32), Reason: fmt.Sprintf("it has %d bytes, not 32", info.Size())}
	}
	return nil
}

// Stable is the file with the partitions' terms and votes.
func (s *Stopped) Stable() string { return (&dataDir{path: s.Dir}).stable() }

// Partition is the folder of a partition.
func (s *Stopped) Partition(id int) string { return (&dataDir{path: s.Dir}).partition(id) }
