package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// formatVersion is that of the data directory as a whole. In format 1 the log was
// a bolt file per partition, without snapshots.
const formatVersion = 2

// dataDir is a node's folder:
//
//	LOCK         held while a process uses the folder
//	node.json    whose it is; checked at every start
//	reset.key    32 bytes, QUIC's stateless reset key
//	raft/        stable.db with all partitions' terms and votes, and a folder pNNNN
//	             of each partition: log/ snapshots/ rooms/ FENCED REBUILD
type dataDir struct {
	path string
	lock *os.File
}

// identity is what must not change between two starts in one folder.
type identity struct {
	Format     int               `json:"format"`
	Node       string            `json:"node"`
	Partitions int               `json:"partitions"`
	Members    map[string]string `json:"members"`
	Nonvoters  []string          `json:"nonvoters,omitempty"`
}

func openDataDir(path string, want identity) (*dataDir, error) {
	if err := os.MkdirAll(filepath.Join(path, "raft"), 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(lock.Name())
		lock.Close()
		return nil, fmt.Errorf("data directory %s is in use by process %s; stop it or set another folder with --data",
			path, strings.TrimSpace(string(pid)))
	}
	d := &dataDir{path: path, lock: lock}
	err = errors.Join(lock.Truncate(0), d.check(want))
	if err == nil {
		_, err = lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dataDir) close() error { return d.lock.Close() }

// check compares node.json with want, or writes it in a new folder.
func (d *dataDir) check(want identity) error {
	want.Format = formatVersion
	name := filepath.Join(d.path, "node.json")
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = json.MarshalIndent(want, "", "  "); err != nil {
			return err
		}
		return writeDurably(name, append(data, '\n'))
	} else if err != nil {
		return err
	}
	var have identity
	if err := json.Unmarshal(data, &have); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	switch {
	case have.Format != want.Format:
		return formatError(d.path, have.Format)
	case have.Node != want.Node:
		return fmt.Errorf("data directory %s belongs to node %q, this is node %q; set --data or --node right", d.path, have.Node, want.Node)
	case have.Partitions != want.Partitions:
		return fmt.Errorf("data directory %s has %d partitions, the configuration says %d; the number is fixed when the cluster is created",
			d.path, have.Partitions, want.Partitions)
	}
	haveNames, wantNames := slices.Sorted(maps.Keys(have.Members)), slices.Sorted(maps.Keys(want.Members))
	if !slices.Equal(haveNames, wantNames) {
		return fmt.Errorf("data directory %s is of a cluster of %s, the configuration says %s; members cannot be changed yet",
			d.path, strings.Join(haveNames, ", "), strings.Join(wantNames, ", "))
	}
	if !slices.Equal(have.Nonvoters, want.Nonvoters) {
		return fmt.Errorf("data directory %s is of a cluster with these nonvoters: %s; the configuration says: %s; they cannot be changed yet",
			d.path, listOrNone(have.Nonvoters), listOrNone(want.Nonvoters))
	}
	return nil
}

func listOrNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// formatError says what to do with a folder of another format. A format 1 node
// and this one do not talk to each other, so nothing can be rebuilt from there;
// and an empty folder on one node only would be a voter who has forgotten its vote.
func formatError(path string, format int) error {
	if format > formatVersion {
		return fmt.Errorf("data directory %s has format %d, this version reads and writes format %d: "+
			"run the version that wrote it, or a later one", path, format, formatVersion)
	}
	return fmt.Errorf("data directory %s has format %d, which a version before this one has written; "+
		"this version keeps its log in format %d and cannot convert it. "+
		"Run that version to read the messages; to begin anew with this one, stop all nodes and start each with an empty --data directory "+
		"(not one alone: it would have forgotten what it has voted and acknowledged)", path, format, formatVersion)
}

// resetKey returns the folder's stateless reset key, a new one at first.
func (d *dataDir) resetKey() (key [32]byte, err error) {
	name := filepath.Join(d.path, "reset.key")
	data, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rand.Read(key[:])
		return key, writeDurably(name, key[:])
	case err != nil:
		return key, err
	case len(data) != len(key):
		return key, fmt.Errorf("%s has %d bytes, not %d; remove it to get a new one", name, len(data), len(key))
	}
	return [32]byte(data), nil
}

func (d *dataDir) stable() string { return filepath.Join(d.path, "raft", "stable.db") }

func (d *dataDir) partition(id int) string {
	return filepath.Join(d.path, "raft", fmt.Sprintf("p%04d", id))
}

// writeDurably writes a file so that after a crash it is there whole or not at all.
func writeDurably(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
