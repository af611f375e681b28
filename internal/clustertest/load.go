package clustertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
)

// Publisher is an SDK client that publishes messages of its own, each once, and
// keeps what became of them in a History.
type Publisher struct {
	Name    string
	Client  *client.Client
	History *History
	Size    int // bytes of filler in each message of a Stream

	sent     int // by one caller at a time
	underway sync.WaitGroup

	mu     sync.Mutex
	acked  int
	failed error
	quiet  time.Duration // longest time between two acks
	last   time.Time     // of the last ack

	stop, stopped chan struct{}
}

// Send publishes the next message, with size bytes of filler.
func (p *Publisher) Send(room string, size int) error {
	p.sent++
	id := fmt.Sprintf("%s-%d-", p.Name, p.sent)
	payload := id + strings.Repeat(id, size/len(id)+1)[:size]
	p.History.Tried(p.Name, room, payload)
	pending, err := p.Client.PublishAsync(context.Background(), room, []byte(payload))
	if err != nil {
		return err
	}
	p.underway.Go(func() {
		r, err := pending.Wait(context.Background())
		if err == nil {
			err = p.History.Acked(r, payload)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.failed = errors.Join(p.failed, err)
			return
		}
		p.acked++
		now := time.Now()
		if !p.last.IsZero() {
			p.quiet = max(p.quiet, now.Sub(p.last))
		}
		p.last = now
	})
	return nil
}

// Progress returns how many messages were acked so far, and the first failures.
func (p *Publisher) Progress() (acked int, failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked, p.failed
}

// Quiet returns the longest time between two acks since the last call.
func (p *Publisher) Quiet() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	quiet := p.quiet
	p.quiet = 0
	return quiet
}

// Wait returns when everything sent has an outcome, with an error unless all
// of it was acked.
func (p *Publisher) Wait() error {
	p.underway.Wait()
	acked, failed := p.Progress()
	if failed == nil && acked != p.sent {
		failed = fmt.Errorf("%d of %d acked", acked, p.sent)
	}
	return failed
}

// Stream publishes to the rooms in turn, one message every so often, until Halt.
func (p *Publisher) Stream(every time.Duration, rooms ...string) {
	p.stop, p.stopped = make(chan struct{}), make(chan struct{})
	stop, stopped := p.stop, p.stopped
	go func() {
		defer close(stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if err := p.Send(rooms[i%len(rooms)], p.Size); err != nil {
				p.mu.Lock()
				p.failed = errors.Join(p.failed, err)
				p.mu.Unlock()
				return
			}
		}
	}()
}

// Halt ends a Stream, if one runs.
func (p *Publisher) Halt() {
	if p.stop != nil {
		close(p.stop)
		<-p.stopped
		p.stop = nil
	}
}
