package clustertest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
)

// The benchmarks run three processes with fsync, TLS everywhere, on the machine
// that the load shares. How fast messages are published and delivered is
// measured by "roomlog bench".

// BenchmarkFailover kills the leader of a room that gets 200 messages a second,
// b.N times, and reports how long publishes and deliveries pause. The subscriber
// is on another node. Run it with -benchtime 10x.
func BenchmarkFailover(b *testing.B) {
	p := StartProcesses(b, 16)
	pub := p.Publisher("p")
	pub.Stream(5*time.Millisecond, "room")
	defer pub.Halt()
	p.Flows(pub, 200)
	var published, delivered []time.Duration
	for range b.N {
		leader := p.Leader("room")
		away := "n1"
		if leader == away {
			away = "n2"
		}
		ctx, cancel := context.WithCancel(context.Background())
		gaps := make(chan time.Duration)
		heads := make(chan struct{}, 1)
		c := p.Client("", away)
		info, err := c.Room(ctx, "room")
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			longest, last := time.Duration(0), time.Time{}
			for _, err := range c.Subscribe(ctx, "room", client.After(info.Last)) {
				if err != nil {
					break
				}
				if now := time.Now(); last.IsZero() {
					last = now
					heads <- struct{}{}
				} else {
					longest = max(longest, now.Sub(last))
					last = now
				}
			}
			gaps <- longest
		}()
		<-heads
		pub.Quiet()
		p.crash(leader)
		p.Flows(pub, 200)
		published = append(published, pub.Quiet())
		cancel()
		delivered = append(delivered, <-gaps)
		c.Close()
		p.must(p.Start(leader))
		p.Ready()
		p.Flows(pub, 200)
	}
	report(b, published, "publish-")
	report(b, delivered, "delivery-")
	pub.Halt()
	p.must(pub.Wait())
	p.CheckRooms("room")
}

func report(b *testing.B, took []time.Duration, prefix string) {
	slices.Sort(took)
	ms := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	b.ReportMetric(ms(0.5), prefix+"p50-ms")
	b.ReportMetric(ms(0.99), prefix+"p99-ms")
	b.ReportMetric(ms(1), prefix+"max-ms")
}

// cpu is the CPU time, user and system, that the servers have used.
func (p *Processes) cpu() (total time.Duration) {
	for _, n := range p.Layout().Nodes {
		pid, ok := p.PID(n.Name)
		if !ok {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		p.must(err)
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, f := range fields[11:13] { // utime, stime, in ticks of 10 ms
			ticks, err := strconv.ParseInt(f, 10, 64)
			p.must(err)
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}
