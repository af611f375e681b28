package client

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/roomlog/roomlog/transport/wire"
)

// The figures include the fake server, which lives in the same process.
func BenchmarkPublishAsync(b *testing.B) {
	for _, size := range []int{128, 4 << 10} {
		for _, ended := range []bool{false, true} {
			b.Run(fmt.Sprintf("payload=%d/ctx=%v", size, ended), func(b *testing.B) {
				f := startFake(b, 1, 1)
				f.parts[0].discard = true
				c := f.dial(b)
				ctx := context.Background()
				if ended {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					defer cancel()
				}
				payload := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.PublishAsync(ctx, "lobby", payload); err != nil {
						b.Fatal(err)
					}
				}
				if err := c.Flush(within(b)); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkPublish has one message on its way at a time.
func BenchmarkPublish(b *testing.B) {
	f := startFake(b, 1, 1)
	f.parts[0].discard = true
	c := f.dial(b)
	payload := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Publish(context.Background(), "lobby", payload); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLane is the SDK's own part, without any network: into the lane, out
// as frames, and the acks of 64 at a time back in.
func BenchmarkLane(b *testing.B) {
	c := &Client{out: newOutstanding()}
	if err := c.cfg.check([]string{"a:1"}); err != nil {
		b.Fatal(err)
	}
	l := newLane(c, 0)
	c.lanes = make([]atomic.Pointer[lane], 1)
	c.lanes[0].Store(l)
	cn := &conn{limits: wire.Limits{Window: wire.MaxWindow}}
	cn.alive.init()
	s := newPubStream(cn, nil)
	bound, err := s.bind(l)
	if err != nil {
		b.Fatal(err)
	}
	l.opened, l.stream, l.binding = true, s, bound
	bound.session, bound.attach = l.session, 1
	ctx := context.Background()
	payload := make([]byte, 128)
	acks := wire.Acks{Runs: []wire.AckRun{{Counter: 1, Count: 64, Seq: 1}}}
	var buf []byte
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := c.PublishAsync(ctx, "lobby", payload); err != nil {
			b.Fatal(err)
		}
		if n%64 == 63 {
			for s.pop() != nil {
			}
			buf, _ = l.fill(buf[:0], s, 1<<20)
			l.onAcks(bound, &acks)
			acks.Runs[0].Counter += 64
		}
	}
}
