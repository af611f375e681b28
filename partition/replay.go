package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/roomlog/roomlog/raftlog"
)

// Replay makes from a snapshot and the log what a replica made from the log
// alone: the index files of the chunks and the snapshots. It needs no Partition;
// everything can be checked by it offline. It is not safe for concurrent use.
type Replay struct {
	group   uint32
	machine *Machine
}

// NewReplay begins behind the snapshot at index or, if that is nil, at the
// log's beginning. group is the partition's number.
func NewReplay(group uint32, index raftlog.Index, snapshot io.Reader) (*Replay, error) {
	r := &Replay{group: group, machine: NewMachine()}
	if snapshot == nil {
		return r, nil
	}
	var err error
	r.machine, err = readSnapshot(index, snapshot)
	return r, err
}

// Index is that of the newest entry applied.
func (r *Replay) Index() raftlog.Index { return r.machine.index }

// Apply takes the next entry. It tells whether the entry closed a chunk: then
// what belongs to the checkpoint can be written and checked until the next Apply.
func (r *Replay) Apply(e raftlog.Entry) (checkpoint bool, err error) {
	if r.machine.view != nil {
		if err := r.machine.settle(r.group); err != nil {
			return false, err
		}
	}
	if e.Index <= r.machine.index {
		return false, fmt.Errorf("entry %d comes behind entry %d", e.Index, r.machine.index)
	}
	out, err := r.machine.Apply(e.Index, e.Data)
	if errors.Is(err, errEntryVersion) {
		return false, err
	}
	return out.Checkpoint, nil
}

// Chunk takes entries up to the next checkpoint, and none behind it.
func (r *Replay) Chunk(entries iter.Seq2[raftlog.Entry, error]) (checkpoint raftlog.Index, err error) {
	for e, err := range entries {
		if err != nil {
			return 0, err
		}
		done, err := r.Apply(e)
		if err != nil {
			return 0, err
		}
		if done {
			return e.Index, nil
		}
	}
	return 0, fmt.Errorf("behind entry %d there is no checkpoint", r.machine.index)
}

// Hash is the rolling hash after the newest entry applied.
func (r *Replay) Hash() uint64 { return r.machine.hash }

// Rooms is how many rooms there are.
func (r *Replay) Rooms() int { return r.machine.table.len() }

// Messages is how many messages the chunks above the floor have.
func (r *Replay) Messages() uint64 {
	n := r.machine.chunks.open.messages
	for _, c := range r.machine.chunks.closed {
		n += c.messages
	}
	return n
}

// WriteRooms writes the index file of the chunk that has just been closed.
func (r *Replay) WriteRooms(w io.Writer) error {
	return r.machine.view.writeRooms(r.machine, noLock{}, r.group, w, onward)
}

// WriteSnapshot writes the snapshot at the checkpoint.
func (r *Replay) WriteSnapshot(w io.Writer) error {
	if err := r.WriteRooms(io.Discard); err != nil { // tells the offsets
		return err
	}
	return r.machine.view.writeSnapshot(r.machine, noLock{}, w, onward)
}

// DifferenceError: stored bytes are not those that the log makes.
type DifferenceError struct{ Offset int64 }

func (e *DifferenceError) Error() string {
	return fmt.Sprintf("from byte %d on it is not what the log makes", e.Offset)
}

// CheckRooms compares an index file with what WriteRooms writes. It fails with
// *DifferenceError if they differ.
func (r *Replay) CheckRooms(file io.Reader) error { return compare(file, r.WriteRooms) }

// CheckSnapshot compares a snapshot with what WriteSnapshot writes. It fails
// with *DifferenceError if they differ.
func (r *Replay) CheckSnapshot(body io.Reader) error { return compare(body, r.WriteSnapshot) }

// VerifySnapshot checks that the snapshot at index, or the empty state if from is
// nil, and the entries behind it up to the next checkpoint make the snapshot
// there, byte for byte.
func VerifySnapshot(group uint32, index raftlog.Index, from io.Reader, entries iter.Seq2[raftlog.Entry, error], next io.Reader) error {
	r, err := NewReplay(group, index, from)
	if err == nil {
		_, err = r.Chunk(entries)
	}
	if err == nil {
		err = r.CheckSnapshot(next)
	}
	return err
}

// VerifyChunk checks the index file of a chunk in the same way.
func VerifyChunk(group uint32, index raftlog.Index, from io.Reader, entries iter.Seq2[raftlog.Entry, error], rooms io.Reader) error {
	r, err := NewReplay(group, index, from)
	if err == nil {
		_, err = r.Chunk(entries)
	}
	if err == nil {
		err = r.CheckRooms(rooms)
	}
	return err
}

// compare fails unless write writes what stored holds.
func compare(stored io.Reader, write func(io.Writer) error) error {
	c := &comparer{stored: stored}
	if err := write(c); err != nil {
		return err
	}
	switch _, err := io.ReadFull(stored, make([]byte, 1)); err {
	case io.EOF:
		return nil
	case nil:
		return &DifferenceError{c.at}
	default:
		return err
	}
}

type comparer struct {
	stored io.Reader
	at     int64
	buf    []byte
}

func (c *comparer) Write(p []byte) (int, error) {
	if len(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	n, err := io.ReadFull(c.stored, c.buf[:len(p)])
	if same := c.buf[:n]; !bytes.Equal(same, p[:n]) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		for i := range same {
			if same[i] != p[i] {
				n = i
				break
			}
		}
		return n, &DifferenceError{c.at + int64(n)}
	}
	c.at += int64(n)
	return n, err
}

// settle settles the view of a machine that nobody shares and whose index file
// nobody needs.
func (m *Machine) settle(group uint32) error {
	if err := m.view.writeRooms(m, noLock{}, group, io.Discard, onward); err != nil {
		return err
	}
	return m.view.settle(m, noLock{}, onward)
}

// entriesOf yields the entries from index from up to to, as far as there are any.
func entriesOf(log entryReader, from, to raftlog.Index) iter.Seq2[raftlog.Entry, error] {
	return func(yield func(raftlog.Entry, error) bool) {
		for from <= to {
			entries, next, err := log.Read(from, 1<<20)
			if err == nil && next == from {
				err = errAhead
			}
			if err != nil {
				yield(raftlog.Entry{}, err)
				return
			}
			for _, e := range entries {
				if e.Index > to || !yield(e, nil) {
					return
				}
			}
			from = next
		}
	}
}
