package chaos

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/chaos/history"
)

// publisher publishes messages of its own, each once, at a rate. What the SDK does
// with an ack that was lost is its affair: a message has one outcome.
type publisher struct {
	load    *load
	process history.Process
	rng     *rand.Rand
	every   time.Duration

	client *client.Client
	number uint64 // of publishes
	open   sync.WaitGroup
}

// Most publishes may take as long as any fault lasts. Some give up early, and leave
// behind what may or may not be in the log.
const (
	publishPatience = 60 * time.Second
	publishHurry    = 400 * time.Millisecond
	hurried         = 10 // one of so many
)

// run publishes until stop, and then waits for what is open.
func (p *publisher) run(ctx context.Context, stop <-chan struct{}) {
	defer p.open.Wait()
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.publish(ctx, p.load.rooms[p.rng.IntN(len(p.load.rooms))])
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (p *publisher) publish(ctx context.Context, room string) {
	p.number++
	id := history.ID(p.process, p.number)
	patience := publishPatience
	if p.rng.IntN(hurried) == 0 {
		patience = publishHurry
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	rec := p.load.rec
	rec.publishing(p.process, room, id)
	pending, err := p.client.PublishAsync(ctx, room, payloadOf(id, p.load.filler))
	if err != nil {
		cancel()
		rec.published(p.process, room, id, client.Receipt{}, err)
		return
	}
	p.open.Go(func() {
		defer cancel()
		receipt, err := pending.Wait(context.WithoutCancel(ctx)) // it ends when the publish's own context does
		rec.published(p.process, room, id, receipt, err)
	})
}

// payloadOf is an id with filler behind it.
func payloadOf(id string, filler int) []byte {
	return []byte(id + " " + strings.Repeat(".", filler))
}

// idOf is the id in a payload.
func idOf(payload []byte) string {
	id, _, _ := strings.Cut(string(payload), " ")
	return id
}
