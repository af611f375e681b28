package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/trace"
	"github.com/roomlog/roomlog/transport/wire"
)

const (
	inFlight = 2048            // publishes that may wait for their acks
	downTime = 3 * time.Second // of the killed node
)

// chat is the whole trace.
type chat struct {
	messages []trace.Message
	count    map[string]int // messages by room
	rooms    []string       // in the order of their names
}

func readChat(file string) (*chat, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := trace.NewReader(file, f)
	if err != nil {
		return nil, err
	}
	c := &chat{count: make(map[string]int)}
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if c.count[m.Room] == 0 {
			c.rooms = append(c.rooms, m.Room)
		}
		c.count[m.Room]++
		c.messages = append(c.messages, m)
	}
	if len(c.messages) == 0 {
		return nil, fmt.Errorf("%s holds no messages", file)
	}
	slices.Sort(c.rooms)
	return c, nil
}

func (c *chat) busiestRoom() string {
	return slices.MaxFunc(c.rooms, func(a, b string) int { return c.count[a] - c.count[b] })
}

// busiestPartition is the one with the most messages.
func (c *chat) busiestPartition(partitions int) int {
	sum := make([]int, partitions)
	for room, n := range c.count {
		sum[wire.PartitionOf(room, partitions)] += n
	}
	return slices.Index(sum, slices.Max(sum))
}

// demo is one run.
type demo struct {
	say      say
	layout   *devcluster.Layout
	cluster  *devcluster.Cluster
	replicas *replicas
	chat     *chat
	ledger   *ledger

	acks    []silence // from publish to ack, by partition
	arrived []silence // from publish to delivery, by partition
	heard   []silence // the same, by the node on which a room is followed
	heardAt map[string]*silence

	kill kill
}

func newDemo(say say, cluster *devcluster.Cluster, chat *chat) *demo {
	l := cluster.Layout()
	return &demo{
		say: say, layout: l, cluster: cluster, chat: chat,
		replicas: newReplicas(l),
		ledger:   newLedger(l.Partitions),
		acks:     make([]silence, l.Partitions),
		arrived:  make([]silence, l.Partitions),
		heard:    make([]silence, len(l.Nodes)),
		heardAt:  make(map[string]*silence),
	}
}

// kill is what there was when the leader was killed.
type kill struct {
	node       string
	at         time.Time
	led        map[int]bool // partitions that the node led
	unanswered int          // publishes in flight to them
}

func (d *demo) run(ctx context.Context) error {
	d.say("three nodes of %d partitions are starting in %s", d.layout.Partitions, d.layout.Dir)
	if err := d.cluster.StartAll(); err != nil {
		return err
	}
	if err := d.cluster.WaitReady(ctx); err != nil {
		return err
	}
	d.say("all three serve")

	// Subscribers end with reading, which outlives the replay.
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	subscribers, err := d.follow(reading)
	defer func() {
		stopReading()
		for _, s := range subscribers {
			s.close()
		}
	}()
	if err != nil {
		return err
	}
	d.say("%d rooms are followed, a third of them on each node", len(d.chat.rooms))

	publisher, err := d.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer publisher.Close()
	// Whatever happens, the table tells how far it came.
	replayed := d.replay(ctx, publisher)
	if err := d.waitDelivered(ctx, publisher); err != nil {
		d.say("%v", err)
	}
	return errors.Join(replayed, d.report(d.replicas.await(ctx)))
}

// dial connects with node first as the first choice.
func (d *demo) dial(ctx context.Context, first int) (*client.Client, error) {
	pem, err := os.ReadFile(d.layout.CA)
	if err != nil {
		return nil, err
	}
	roots, err := certs.Pool(pem)
	if err != nil {
		return nil, err
	}
	servers := d.layout.Servers()
	servers = append(servers[first:], servers[:first]...)
	c, err := client.Dial(ctx, servers, client.WithTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}),
		client.WithToken(d.layout.Token))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", servers[0], err)
	}
	return c, nil
}

// subscriber follows a share of the rooms on one connection.
type subscriber struct {
	client  *client.Client
	readers sync.WaitGroup
}

// close waits for the readers, whose context has been ended, and disconnects.
func (s *subscriber) close() {
	s.readers.Wait()
	s.client.Close()
}

// follow subscribes to all rooms, spread over the nodes.
func (d *demo) follow(ctx context.Context) ([]*subscriber, error) {
	var all []*subscriber
	for i := range d.layout.Nodes {
		c, err := d.dial(ctx, i)
		if err != nil {
			return all, err
		}
		all = append(all, &subscriber{client: c})
	}
	for i, room := range d.chat.rooms {
		s := all[i%len(all)]
		heard := &d.heard[i%len(all)]
		d.heardAt[room] = heard
		s.readers.Go(func() {
			if err := d.read(ctx, s.client, room, heard); err != nil && ctx.Err() == nil {
				d.say("the subscription of %s has ended: %v", room, err)
			}
		})
	}
	return all, nil
}

func (d *demo) read(ctx context.Context, c *client.Client, room string, heard *silence) error {
	arrived := &d.arrived[d.partition(room)]
	for m, err := range c.Subscribe(ctx, room) {
		if err != nil {
			return err
		}
		if m.Gap != nil {
			d.ledger.gap(room, m.Gap.From, m.Gap.To)
			continue
		}
		arrived.end()
		heard.end()
		d.ledger.deliver(room, m.Seq, m.Publisher, m.Payload)
	}
	return nil
}

// replay publishes the chat as fast as can be, and half-way has a leader killed
// and later brought back. It returns when all is acked and the node is back.
func (d *demo) replay(ctx context.Context, c *client.Client) error {
	busiest := d.chat.busiestPartition(d.layout.Partitions)
	d.say("the replay of %d messages begins; partition %d will be the busiest", len(d.chat.messages), busiest)
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer func() {
		cancel()
		helpers.Wait()
	}()
	fault := make(chan error, 1)
	slots := make(chan struct{}, inFlight)
	failed := make(chan error, 1)
	began := time.Now()
	for i, m := range d.chat.messages {
		if i == len(d.chat.messages)/2 {
			helpers.Go(func() { fault <- d.killLeader(ctx, busiest) })
		}
		select {
		case slots <- struct{}{}:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		partition := d.partition(m.Room)
		for _, s := range []*silence{&d.acks[partition], &d.arrived[partition], d.heardAt[m.Room]} {
			s.begin()
		}
		place := d.ledger.publish(m.Room, m.Author, m.Payload)
		p, err := c.PublishAsync(ctx, m.Room, m.Payload, client.As(m.Author))
		if err != nil {
			return fmt.Errorf("publish line %d: %w", m.Line, err)
		}
		helpers.Go(func() {
			r, err := p.Wait(ctx)
			<-slots
			if err != nil {
				select {
				case failed <- fmt.Errorf("publish line %d: %w", m.Line, err):
				default:
				}
				return
			}
			d.acks[partition].end()
			d.ledger.ack(m.Room, place, r.Seq)
		})
	}
	if err := c.Flush(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	took := time.Since(began)
	d.say("all is acked: %.0f messages a second, the pause included", float64(len(d.chat.messages))/took.Seconds())
	return <-fault
}

// killLeader kills the leader of a partition and brings it back.
func (d *demo) killLeader(ctx context.Context, partition int) error {
	leaders, err := d.replicas.leaders(ctx)
	if err != nil {
		return err
	}
	k := kill{node: leaders[partition], led: make(map[int]bool)}
	if k.node == "" {
		return fmt.Errorf("partition %d has no leader to kill", partition)
	}
	for number, leader := range leaders {
		if leader == k.node {
			k.led[number] = true
		}
	}
	pid, _ := d.cluster.PID(k.node)
	k.unanswered = d.awaitInFlight(ctx, k.led)
	k.at = time.Now()
	if err := d.cluster.Kill(k.node); err != nil {
		return err
	}
	d.kill = k
	d.say("half-way: kill -9 of %s (process %d), which leads %d partitions; %d publishes to them were without an ack",
		k.node, pid, len(k.led), k.unanswered)

	down := time.NewTimer(downTime)
	defer down.Stop()
	select {
	case <-down.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := d.cluster.Start(k.node); err != nil {
		return err
	}
	if err := d.cluster.WaitReady(ctx, k.node); err != nil {
		return err
	}
	d.say("%s is back and has caught up", k.node)
	return nil
}

// awaitInFlight waits, but not for long, for a moment when publishes to the
// given partitions are on their way, and counts them.
func (d *demo) awaitInFlight(ctx context.Context, partitions map[int]bool) int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if n := d.ledger.unanswered(partitions); n > 0 || ctx.Err() != nil {
			return n
		}
		<-tick.C
	}
}

// waitDelivered returns once every subscriber has what its room holds.
func (d *demo) waitDelivered(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, room := range d.chat.rooms {
		info, err := c.Room(ctx, room)
		if err != nil {
			return fmt.Errorf("ask for %s: %w", room, err)
		}
		d.ledger.setHead(room, info.Last)
		for !d.ledger.complete(room, info.Last) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("the subscriber of %s waits for messages up to %d: %w", room, info.Last, ctx.Err())
			}
		}
	}
	d.say("all is delivered")
	return nil
}

// report prints the table and tells what is wrong, if anything is.
func (d *demo) report(disagree error) error {
	v := d.ledger.verdict()
	publishPause, deliveryPause := time.Duration(0), d.heard[d.place(d.kill.node)].after(d.kill.at)
	for p := range d.kill.led {
		publishPause = max(publishPause, d.acks[p].after(d.kill.at))
		deliveryPause = max(deliveryPause, d.arrived[p].after(d.kill.at))
	}
	agree := "yes"
	if disagree != nil {
		agree = "no"
	}
	fmt.Println()
	for _, row := range []struct {
		name  string
		value any
	}{
		{"messages", v.Messages},
		{"acks", v.Acks},
		{"delivered", v.Delivered},
		{"missing", v.Missing},
		{"duplicate", v.Duplicate},
		{"reordered", v.Reordered},
		{"gaps", v.Gaps},
		{"in flight at the kill", d.kill.unanswered},
		{"publish pause (ms)", publishPause.Milliseconds()},
		{"delivery pause (ms)", deliveryPause.Milliseconds()},
		{"replicas agree", agree},
	} {
		fmt.Printf("  %-22s %8v\n", row.name, row.value)
	}
	fmt.Println()
	var errs []error
	if !v.good() {
		errs = append(errs, errors.New("the log is not what was published"))
	}
	if d.kill.unanswered == 0 {
		errs = append(errs, errors.New("no publish was in flight when the leader was killed: this run proves nothing"))
	}
	if disagree != nil {
		errs = append(errs, fmt.Errorf("the replicas do not agree: %w", disagree))
	}
	return errors.Join(errs...)
}

func (d *demo) partition(room string) int { return wire.PartitionOf(room, d.layout.Partitions) }

func (d *demo) place(node string) int {
	return max(0, slices.IndexFunc(d.layout.Nodes, func(n devcluster.Node) bool { return n.Name == node }))
}
