package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// blockingWriter takes nothing until it is released.
type blockingWriter struct {
	release chan struct{}
	writes  [][]byte
}

func (w *blockingWriter) Write(b []byte) (int, error) {
	<-w.release
	w.writes = append(w.writes, bytes.Clone(b))
	return len(b), nil
}

func TestOutboxWritesAllThatHasComeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockingWriter{release: make(chan struct{})}
		o := newOutbox(w, func(err error) { t.Error(err) })
		o.put(&wire.Pong{Nonce: 1})
		synctest.Wait() // the first write is under way
		o.put(&wire.Pong{Nonce: 2})
		o.put(&wire.Pong{Nonce: 3})
		close(w.release)
		o.close()
		if len(w.writes) != 2 {
			t.Fatalf("%d writes, want 2", len(w.writes))
		}
		in := wire.NewReader(bytes.NewReader(bytes.Join(w.writes, nil)), wire.MaxSmallFrame)
		for want := uint64(1); want <= 3; want++ {
			typ, body, err := in.Next()
			if err != nil {
				t.Fatal(err)
			}
			if nonce, err := wire.ParsePing(typ, body); nonce != want || err != nil {
				t.Errorf("pong %d, %v, want %d", nonce, err, want)
			}
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockingWriter{release: make(chan struct{})}
		var failed []error
		o := newOutbox(w, func(err error) { failed = append(failed, err) })
		for range 3 * maxUnread / wire.PingSize {
			o.put(&wire.Pong{})
		}
		var refusal *refusedError
		if len(failed) != 1 || !errors.As(failed[0], &refusal) || refusal.code != wire.CodeSlowConsumer {
			t.Errorf("failed with %v, want one slow consumer", failed)
		}
		if len(o.buf) > maxUnread+1024 {
			t.Errorf("%d bytes are held, want about %d at most", len(o.buf), maxUnread)
		}
		close(w.release)
		o.close()
	})
}

func TestOutboxEndsWithItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		r.Close()
		o := newOutbox(w, func(err error) { t.Error(err) })
		o.put(&wire.Pong{})
		synctest.Wait()     // the write has failed
		o.put(&wire.Pong{}) // harmless
		if len(o.buf) > 0 || o.writing {
			t.Errorf("%d bytes are held for a stream that is gone", len(o.buf))
		}
		o.close()
	})
}

func TestCodeOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want wire.Code
	}{
		{partition.ErrNotLeader, wire.CodeNotLeader},
		{errNoReplica, wire.CodeNotLeader},
		{partition.ErrOverloaded, wire.CodeOverloaded},
		{partition.ErrWindow, wire.CodeOverloaded},
		{partition.ErrUnavailable, wire.CodeUnavailable},
		{errors.Join(partition.ErrOutcomeUnknown, errors.New("leadership was lost")), wire.CodeUnknownOutcome},
		{partition.ErrSessionExpired, wire.CodeSessionExpired},
		{partition.ErrTooManySessions, wire.CodeTooManySessions},
		{partition.ErrConflict, wire.CodeConflict},
		{&partition.OutOfOrderError{Got: 3, Want: 2}, wire.CodeOutOfOrder},
		{&partition.BeyondHeadError{}, wire.CodeBeyondHead},
		{badRoomError{errors.New("empty")}, wire.CodeBadRoom},
		{errTooLarge, wire.CodeTooLarge},
		{fmt.Errorf("something else"), wire.CodeInternal},
	} {
		if got := codeOf(tt.err); got != tt.want {
			t.Errorf("codeOf(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}

// sent returns the frames that have been put into its outbox.
func sent(o *outbox) (frames []wire.Type, acks []wire.Acks, refused []wire.Refused) {
	in := wire.NewReader(bytes.NewReader(o.buf), wire.MaxSmallFrame)
	for {
		typ, body, err := in.Next()
		if err != nil {
			return frames, acks, refused
		}
		frames = append(frames, typ)
		switch typ {
		case wire.TypeAcks:
			var a wire.Acks
			if err := wire.ParseAcks(body, &a); err != nil {
				panic(err)
			}
			acks = append(acks, a)
		case wire.TypeRefused:
			r, err := wire.ParseRefused(body)
			if err != nil {
				panic(err)
			}
			refused = append(refused, r)
		}
	}
}

// One frame carries all acks of a time; retries stand apart with the time they got.
func TestAnswersGroupAcks(t *testing.T) {
	o := newOutbox(nil, nil)
	o.writing = true // what is put stays
	a := &answers{partition: 3, attach: 2, out: o}
	a.Acked([]partition.Answer{
		{Counter: 4, Count: 1, Seq: 9, Time: 5, Duplicate: true},
		{Counter: 5, Count: 10, Seq: 10, Time: 7},
		{Counter: 15, Count: 1, Seq: 2, Time: 7},
		{Counter: 16, Count: 1, Seq: 3, Time: 7, Duplicate: true},
	})
	_, acks, _ := sent(o)
	if len(acks) != 3 || !acks[2].Duplicate || !acks[0].Duplicate || acks[0].Time != 5 || acks[1].Duplicate || acks[1].Time != 7 {
		t.Fatalf("acks = %+v", acks)
	}
	if want := []wire.AckRun{{Counter: 5, Count: 10, Seq: 10}, {Counter: 15, Count: 1, Seq: 2}}; len(acks[1].Runs) != 2 ||
		acks[1].Runs[0] != want[0] || acks[1].Runs[1] != want[1] || acks[1].Partition != 3 {
		t.Errorf("acks = %+v, want runs %v of partition 3", acks[1], want)
	}
}

// However many rooms take turns, no frame is larger than a client must accept.
func TestAnswersSplitAcks(t *testing.T) {
	o := newOutbox(nil, nil)
	o.writing = true // what is put stays
	a := &answers{partition: 4095, out: o}
	all := make([]partition.Answer, wire.MaxWindow)
	for i := range all {
		all[i] = partition.Answer{Counter: math.MaxUint64 - partition.Counter(2*i), Count: 1, Seq: math.MaxUint64, Time: 1}
	}
	a.Acked(all)
	_, acks, _ := sent(o)
	runs := 0
	for _, f := range acks {
		runs += len(f.Runs)
	}
	if runs != len(all) {
		t.Errorf("%d runs arrived, want %d", runs, len(all))
	}
}

func TestAnswersRefuse(t *testing.T) {
	o := newOutbox(nil, nil)
	o.writing = true // what is put stays
	a := &answers{partition: 3, attach: 2, out: o}
	a.Refused(partition.Refusal{
		Counter: 8, Err: &partition.OutOfOrderError{Got: 8, Want: 6}, Maybe: true, RetryAfter: 20 * time.Millisecond,
	})
	_, _, refused := sent(o)
	if len(refused) != 1 || refused[0].Counter != 8 || refused[0].Attach != 2 || refused[0].Code != wire.CodeOutOfOrder || refused[0].Want != 6 ||
		!refused[0].Maybe || refused[0].RetryAfter != 20 || refused[0].Reason == "" {
		t.Errorf("refused = %+v", refused)
	}
}
