package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// push pushes a publish that does not run on from the one before.
func push(q *queue, counter Counter, payload string) error {
	return q.push(publishItem(&Publisher{}, counter), []byte(payload))
}

func publishItem(from *Publisher, counter Counter) item {
	return item{kind: kindPublish, bundle: bundle{from: from, counter: counter, name: []byte("n"), room: []byte("r")}}
}

func TestQueueBound(t *testing.T) {
	const size = 100 + 4 // payload with its head, name, room
	q := newQueue(3 * (size + itemCost))
	payload := strings.Repeat("x", 100)
	for i := range 3 {
		if err := push(q, Counter(i), payload); err != nil {
			t.Fatalf("push %d: %v", i, err)
		}
	}
	if err := q.push(item{kind: kindOpen}, nil); err != ErrOverloaded {
		t.Errorf("one more: %v, want %v", err, ErrOverloaded)
	}
	if got := q.size(); got != q.max {
		t.Errorf("size %d, want %d", got, q.max)
	}
	if got := q.takeNow(size+entryCost, nil); len(got) != 1 {
		t.Fatalf("took %d", len(got))
	}
	if err := push(q, 9, payload+"x"); err != ErrOverloaded {
		t.Errorf("a byte more than there is room for: %v", err)
	}
	if err := push(q, 9, payload); err != nil {
		t.Errorf("as much as there is room for: %v", err)
	}
	if n := len(q.takeNow(math.MaxInt, nil)); n != 3 || q.size() != 0 {
		t.Errorf("took %d, %d bytes are left", n, q.size())
	}
}

// TestQueueTimes: an item came when it was pushed or, behind others, when there was
// a take before that left some: never later than it did.
func TestQueueTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1 << 20)
		began := time.Since(epoch)
		came := func(items []item) (all []time.Duration) {
			for _, it := range items {
				all = append(all, (it.came - began).Round(time.Second))
			}
			return all
		}
		at := func(second int, counter Counter) {
			time.Sleep(time.Duration(second)*time.Second - (time.Since(epoch) - began))
			push(q, counter, "x")
		}
		at(1, 1)
		at(2, 2)
		at(3, 3)
		time.Sleep(time.Second)
		if got := came(q.takeNow(1, nil)); !slices.Equal(got, []time.Duration{time.Second}) {
			t.Errorf("the first came at %v", got)
		}
		at(6, 4)
		if got := came(q.takeNow(math.MaxInt, nil)); !slices.Equal(got, []time.Duration{time.Second, time.Second, 4 * time.Second}) {
			t.Errorf("the others came at %v", got)
		}
		at(9, 5)
		if got := came(q.takeNow(math.MaxInt, nil)); !slices.Equal(got, []time.Duration{9 * time.Second}) {
			t.Errorf("into the empty queue one came at %v", got)
		}
	})
}

// TestQueueBundles: what runs on is one item, which costs what its bytes do.
func TestQueueBundles(t *testing.T) {
	anna, ben := &Publisher{}, &Publisher{}
	publish := func(q *queue, from *Publisher, counter Counter, room, name, payload string) error {
		return q.push(item{kind: kindPublish, bundle: bundle{from: from, counter: counter, floor: counter, room: []byte(room), name: []byte(name)}}, []byte(payload))
	}
	half := strings.Repeat("x", maxBundle/2)
	for _, tt := range []struct {
		name string
		push func(*queue)
		want string
	}{
		{"the next counter", func(q *queue) { publish(q, anna, 8, "r", "n", "") }, "7+2"},
		{"the same counter", func(q *queue) { publish(q, anna, 7, "r", "n", "") }, "7+1 7+1"},
		{"a counter is left out", func(q *queue) { publish(q, anna, 9, "r", "n", "") }, "7+1 9+1"},
		{"another room", func(q *queue) { publish(q, anna, 8, "q", "n", "") }, "7+1 8+1"},
		{"another name", func(q *queue) { publish(q, anna, 8, "r", "m", "") }, "7+1 8+1"},
		{"another publisher", func(q *queue) { publish(q, ben, 8, "r", "n", "") }, "7+1 8+1"},
		{"an open between", func(q *queue) {
			q.push(item{kind: kindOpen, bundle: bundle{from: anna}}, nil)
			publish(q, anna, 8, "r", "n", "")
		}, "7+1 0+0 8+1"},
		{"large ones", func(q *queue) {
			for c := Counter(8); c < 12; c++ {
				publish(q, anna, c, "r", "n", half)
			}
		}, "7+2 9+1 10+1 11+1"},
		{"so many", func(q *queue) {
			for c := range Counter(maxBundle) {
				publish(q, anna, 8+c, "r", "n", "")
			}
		}, "7+8192 8199+8192 16391+1"},
		{"taken between", func(q *queue) {
			q.takeNow(math.MaxInt, nil)
			publish(q, anna, 8, "r", "n", "")
		}, "8+1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := newQueue(math.MaxInt64)
			publish(q, anna, 7, "r", "n", "")
			before := q.size()
			tt.push(q)
			text, cost := "", int64(0)
			for _, it := range q.items {
				text += fmt.Sprintf(" %d+%d", it.counter, it.count)
				cost += it.cost()
				if it.kind == kindPublish && it.floor != it.counter+Counter(it.count)-1 {
					t.Errorf("floor %d of %d+%d", it.floor, it.counter, it.count)
				}
			}
			if text[1:] != tt.want || q.size() != cost || before != itemCost+4 {
				t.Errorf("queued%s, want %s; %d bytes, want %d", text, tt.want, q.size(), cost)
			}
		})
	}
	t.Run("no room for one more", func(t *testing.T) {
		q := newQueue(itemCost + 2 + 2 + 3)
		if err := publish(q, anna, 1, "r", "n", ""); err != nil {
			t.Fatal(err)
		}
		if err := publish(q, anna, 2, "r", "n", "xx"); err != ErrOverloaded {
			t.Errorf("a byte too many: %v", err)
		}
		if err := publish(q, anna, 2, "r", "n", "x"); err != nil || q.size() != q.max {
			t.Errorf("as much as there is room for: %v, %d of %d", err, q.size(), q.max)
		}
	})
}

// TestQueueTakesOne: an item larger than the whole queue passes when it is
// alone, and is taken alone.
func TestQueueTakesOne(t *testing.T) {
	q := newQueue(1000)
	if err := push(q, 1, strings.Repeat("x", 5000)); err != nil {
		t.Fatal(err)
	}
	if err := push(q, 2, ""); err != ErrOverloaded {
		t.Errorf("behind it: %v", err)
	}
	if got, err := q.take(t.Context(), 10, nil); err != nil || len(got) != 1 {
		t.Errorf("took %d, %v", len(got), err)
	}
}

// TestQueueTake: three publishes, two opens, a publish; each take has one kind.
func TestQueueTake(t *testing.T) {
	const one = entryCost + 14
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
				push(q, Counter(i+1), "0123456789")
			}
			q.push(item{kind: kindOpen, bundle: bundle{counter: 4}}, nil)
			q.push(item{kind: kindOpen, bundle: bundle{counter: 5}}, nil)
			push(q, 6, "0123456789")
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
		push(q, 7, "x")
		<-done
		if err != nil || len(got) != 1 || got[0].counter != 7 {
			t.Errorf("took %+v, %v", got, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.take(ctx, 1000, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("at the end of ctx: %v", err)
		}
		push(q, 8, "x")
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
			push(q, Counter(i), "x")
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
	push(q, 1, "x")
	push(q, 2, "y")
	if left := q.close(ErrUnavailable); len(left) != 2 || left[1].counter != 2 {
		t.Errorf("close left %+v", left)
	}
	if err := push(q, 3, "z"); err != ErrUnavailable {
		t.Errorf("push to a closed queue: %v", err)
	}
	if got := q.takeNow(1000, nil); len(got) != 0 || q.size() != 0 {
		t.Errorf("%d items, %d bytes are left", len(got), q.size())
	}
}

// TestQueueAny pushes and takes anything; the publishes come out as they went in,
// in order, and none changes after it was taken.
func TestQueueAny(t *testing.T) {
	type publish struct {
		from    *Publisher
		counter Counter
		name    string
		room    string
		payload string
	}
	publishers := []*Publisher{{}, {}, {}}
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue(rapid.Int64Range(1, 600_000).Draw(t, "max"))
		var want []publish
		var taken []item
		next := map[*Publisher]Counter{}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				from := rapid.SampledFrom(publishers).Draw(t, "from")
				p := publish{from, next[from], rapid.SampledFrom([]string{"", "n"}).Draw(t, "name"), rapid.SampledFrom([]string{"r", "room"}).Draw(t, "room"), ""}
				n := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 200_000)).Draw(t, "size")
				payload := bytes.Repeat([]byte{byte(len(want))}, n)
				p.payload = string(payload)
				if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
					q.push(item{kind: kindOpen, bundle: bundle{from: from}}, nil)
					return
				}
				empty, before := len(q.items) == 0, q.size()
				it := item{kind: kindPublish, bundle: bundle{from: from, counter: p.counter, name: []byte(p.name), room: []byte(p.room)}}
				err := q.push(it, payload)
				it.records = make([]byte, blockRecordSize(payload))
				switch after := q.size(); {
				case err == nil && after > q.max && !empty, err == nil && (after > before+it.cost() || after < before+int64(len(it.records))):
					t.Fatalf("%d of %d bytes, %d before a push of %d", after, q.max, before, n)
				case err != nil && (empty || before+it.cost() <= q.max):
					t.Fatalf("push of %d bytes beside %d of %d: %v", it.cost(), before, q.max, err)
				case err == nil:
					want = append(want, p)
					next[from]++
				}
				clear(payload) // it is the caller's again
			},
			"take": func(t *rapid.T) {
				most := rapid.IntRange(0, 300_000).Draw(t, "max")
				empty := len(q.items) == 0
				got := q.takeNow(most, nil)
				if !empty && len(got) == 0 {
					t.Fatal("took nothing")
				}
				size := 0
				for _, it := range got {
					size += it.size() + entryCost
				}
				if len(got) > 1 && size > most {
					t.Fatalf("took %d bytes, not at most %d", size, most)
				}
				taken = append(taken, got...)
			},
			"": func(t *rapid.T) {
				if (q.size() == 0) != (len(q.items) == 0) {
					t.Fatalf("%d bytes for %d items", q.size(), len(q.items))
				}
				i := 0
				for _, it := range taken {
					records := it.records
					for k := range it.count {
						var payload []byte
						payload, records = nextPayload(records)
						w := want[i]
						if got := (publish{it.from, it.counter + Counter(k), string(it.name), string(it.room), string(payload)}); got != w {
							t.Fatalf("publish %d came as %d of room %s", w.counter, got.counter, got.room)
						}
						i++
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
	pub, other := &Publisher{}, &Publisher{}
	items := make([]item, 0, 200)
	it, its := publishItem(pub, 0), publishItem(other, 0)
	if n := testing.AllocsPerRun(10, func() {
		for i := range 100 {
			it.counter, its.counter = Counter(i), Counter(i)
			q.push(it, []byte("x"))
			q.push(its, []byte("y"))
		}
		items = q.takeNow(math.MaxInt, items[:0])
	}); n > 1 {
		t.Errorf("%v allocations for 200 publishes", n)
	}
	push(q, 1, strings.Repeat("x", arenaSize-100))
	if q.takeNow(math.MaxInt, nil); q.arena != nil || q.items != nil {
		t.Errorf("%d bytes are kept", cap(q.arena))
	}
	for i := range maxSpare + 1 {
		push(q, Counter(2*i), "")
	}
	if q.takeNow(math.MaxInt, nil); q.spare != nil {
		t.Errorf("room for %d items is kept", cap(q.spare))
	}
}
