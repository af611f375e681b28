package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func publishItem(counter Counter, payload string) item {
	return item{kind: kindPublish, message: message{counter: counter, name: []byte("n"), room: []byte("r"), payload: []byte(payload)}}
}

func TestQueueBound(t *testing.T) {
	const size = 100 + 2 // payload, name, room
	q := newQueue(3 * (size + itemCost))
	payload := strings.Repeat("x", 100)
	for i := range 3 {
		if err := q.push(publishItem(Counter(i), payload)); err != nil {
			t.Fatalf("push %d: %v", i, err)
		}
	}
	if err := q.push(item{kind: kindOpen}); err != ErrOverloaded {
		t.Errorf("one more: %v, want %v", err, ErrOverloaded)
	}
	if got := q.size(); got != q.max {
		t.Errorf("size %d, want %d", got, q.max)
	}
	if got := q.takeNow(size+entryCost, nil); len(got) != 1 {
		t.Fatalf("took %d", len(got))
	}
	if err := q.push(publishItem(9, payload+"x")); err != ErrOverloaded {
		t.Errorf("a byte more than there is room for: %v", err)
	}
	if err := q.push(publishItem(9, payload)); err != nil {
		t.Errorf("as much as there is room for: %v", err)
	}
	if n := len(q.takeNow(math.MaxInt, nil)); n != 3 || q.size() != 0 {
		t.Errorf("took %d, %d bytes are left", n, q.size())
	}
}

// TestQueueTakesOne: an item larger than the whole queue passes when it is
// alone, and is taken alone.
func TestQueueTakesOne(t *testing.T) {
	q := newQueue(1000)
	if err := q.push(publishItem(1, strings.Repeat("x", 5000))); err != nil {
		t.Fatal(err)
	}
	if err := q.push(publishItem(2, "")); err != ErrOverloaded {
		t.Errorf("behind it: %v", err)
	}
	if got, err := q.take(t.Context(), 10, nil); err != nil || len(got) != 1 {
		t.Errorf("took %d, %v", len(got), err)
	}
}

// TestQueueTake: three publishes, two opens, a publish; each take has one kind.
func TestQueueTake(t *testing.T) {
	const one = entryCost + 12
	for _, tt := range []struct {
		name string
		max  int
		want string // counters, a word a take
	}{
		{"nothing but the first", 0, "1 2 3 4 5 6"},
		{"a byte less than two", 2*one - 1, "1 2 3 45 6"},
		{"two", 2 * one, "12 3 45 6"},
		{"a byte less than three", 3*one - 1, "12 3 45 6"},
		{"three", 3 * one, "123 45 6"},
		{"all", math.MaxInt, "123 45 6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := newQueue(math.MaxInt64)
			for i := range 3 {
				q.push(publishItem(Counter(i+1), "0123456789"))
			}
			q.push(item{kind: kindOpen, message: message{counter: 4}})
			q.push(item{kind: kindOpen, message: message{counter: 5}})
			q.push(publishItem(6, "0123456789"))
			var got []string
			for range len(strings.Fields(tt.want)) {
				items, err := q.take(t.Context(), tt.max, nil)
				if err != nil {
					t.Fatal(err)
				}
				word := ""
				for _, it := range items {
					word += fmt.Sprint(it.counter)
				}
				got = append(got, word)
			}
			if strings.Join(got, " ") != tt.want || q.size() != 0 {
				t.Errorf("got %q, want %q; %d bytes are left", got, tt.want, q.size())
			}
		})
	}
}

func TestQueueWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1 << 20)
		var got []item
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = q.take(t.Context(), 1000, nil)
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("take did not wait for an item")
		default:
		}
		q.push(publishItem(7, "x"))
		<-done
		if err != nil || len(got) != 1 || got[0].counter != 7 {
			t.Errorf("took %+v, %v", got, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.take(ctx, 1000, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("at the end of ctx: %v", err)
		}
		q.push(publishItem(8, "x"))
		if got, err := q.take(ctx, 1000, nil); err != nil || len(got) != 1 {
			t.Errorf("what has come before the end of ctx: %+v, %v", got, err)
		}
	})
}

// TestQueueMore: what a take leaves behind is there for the next, without
// another push.
func TestQueueMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1 << 20)
		for i := range 5 {
			q.push(publishItem(Counter(i), "x"))
		}
		for range 5 {
			if got, err := q.take(t.Context(), 1, nil); err != nil || len(got) != 1 {
				t.Fatalf("took %+v, %v", got, err)
			}
		}
	})
}

func TestQueueClose(t *testing.T) {
	q := newQueue(1 << 20)
	q.push(publishItem(1, "x"))
	q.push(publishItem(2, "y"))
	if left := q.close(ErrUnavailable); len(left) != 2 || left[1].counter != 2 {
		t.Errorf("close left %+v", left)
	}
	if err := q.push(publishItem(3, "z")); err != ErrUnavailable {
		t.Errorf("push to a closed queue: %v", err)
	}
	if got := q.takeNow(1000, nil); len(got) != 0 || q.size() != 0 {
		t.Errorf("%d items, %d bytes are left", len(got), q.size())
	}
}

// TestQueueAny pushes and takes anything; the items come out as they went in,
// in order, and none changes after it was taken.
func TestQueueAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue(rapid.Int64Range(1, 600_000).Draw(t, "max"))
		var want, taken []item
		waiting := int64(0)
		pushed := Counter(0)
		var left int // of want, not yet taken
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				pushed++
				n := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 200_000)).Draw(t, "size")
				payload := bytes.Repeat([]byte{byte(pushed)}, n)
				it := item{kind: kindPublish, message: message{counter: pushed, name: []byte(fmt.Sprint("n", pushed)), room: []byte(fmt.Sprint("r", pushed)), payload: payload}}
				it.kind = rapid.SampledFrom([]entryKind{kindPublish, kindPublish, kindOpen, kindClose}).Draw(t, "kind")
				cost := int64(it.size()) + itemCost
				err := q.push(it)
				if fits := waiting+cost <= q.max || left == 0; fits != (err == nil) {
					t.Fatalf("push of %d bytes beside %d of %d: %v", cost, waiting, q.max, err)
				}
				if err == nil {
					want, waiting, left = append(want, it), waiting+cost, left+1
					it.payload = bytes.Clone(payload)
					want[len(want)-1] = it
					clear(payload) // it is the caller's again
				}
			},
			"take": func(t *rapid.T) {
				got := q.takeNow(rapid.IntRange(0, 300_000).Draw(t, "max"), nil)
				if left > 0 && len(got) == 0 {
					t.Fatal("took nothing")
				}
				for _, it := range got {
					waiting -= int64(it.size()) + itemCost
				}
				left -= len(got)
				taken = append(taken, got...)
			},
			"": func(t *rapid.T) {
				if q.size() != waiting {
					t.Fatalf("size %d, want %d", q.size(), waiting)
				}
				for i, it := range taken {
					w := want[i]
					if it.counter != w.counter || it.kind != w.kind || string(it.name) != string(w.name) || string(it.room) != string(w.room) || !bytes.Equal(it.payload, w.payload) {
						t.Fatalf("item %d came as %d", w.counter, it.counter)
					}
				}
			},
		})
	})
}

// TestQueueMemory: small items share their memory, and when all are taken a
// nearly full piece of it is not kept.
func TestQueueMemory(t *testing.T) {
	q := newQueue(1 << 30)
	if n := testing.AllocsPerRun(10, func() {
		for i := range 100 {
			q.push(publishItem(Counter(i), ""))
		}
		q.takeNow(math.MaxInt, nil)
	}); n > 2*100+12 { // publishItem makes two
		t.Errorf("%v allocations for 100 items", n-200)
	}
	q.push(publishItem(1, strings.Repeat("x", arenaSize-100)))
	if q.takeNow(math.MaxInt, nil); q.arena != nil || q.items != nil {
		t.Errorf("%d bytes are kept", cap(q.arena))
	}
}
