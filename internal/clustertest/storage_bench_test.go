package clustertest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/devcluster"
)

// The benchmarks of what lies on disk take b.N as the number of messages or
// rooms. docs/STORAGE.md has the figures and the commands.

// fill publishes n messages of size bytes over rooms and waits for the acks.
func (p *Processes) fill(c *client.Client, rooms, n, size int) {
	p.tb.Helper()
	names := make([]string, rooms)
	for i := range names {
		names[i] = fmt.Sprintf("room-%07d", i)
	}
	ctx := context.Background()
	payload := make([]byte, size)
	for i := range n {
		_, err := c.PublishAsync(ctx, names[i%rooms], payload)
		p.must(err)
	}
	p.must(c.Flush(ctx))
}

// heap is what a node's Go heap holds after a collection, in bytes.
func (p *Processes) heap(node string) float64 {
	p.tb.Helper()
	n, _ := p.Layout().Node(node)
	req, err := http.NewRequest(http.MethodGet, "http://"+n.HTTP+"/debug/pprof/heap?gc=1&debug=1", nil)
	p.must(err)
	req.Header.Set("Authorization", "Bearer "+p.Layout().Token)
	resp, err := http.DefaultClient.Do(req)
	p.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	p.must(err)
	_, rest, ok := strings.Cut(string(body), "# HeapAlloc = ")
	if !ok {
		p.tb.Fatalf("%s tells no HeapAlloc: %s", node, resp.Status)
	}
	v, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	p.must(err)
	return v
}

// written is what a node has sent to its disk, in bytes, by the kernel's count.
func (p *Processes) written(node string) float64 { return p.proc(node, "io", "write_bytes:") }

func (p *Processes) proc(node, file, key string) float64 {
	p.tb.Helper()
	pid, ok := p.PID(node)
	if !ok {
		p.tb.Fatalf("%s does not run", node)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	p.must(err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			v, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			p.must(err)
			return v
		}
	}
	p.tb.Fatalf("%s of %s has no %s", file, node, key)
	return 0
}

// restart ends n1, by kill -9 or cleanly, and returns how long it takes from its
// start until it serves with everything applied.
func (p *Processes) restart(kill bool) time.Duration {
	p.tb.Helper()
	if kill {
		p.must(p.Kill("n1"))
	} else {
		p.must(p.Terminate("n1"))
	}
	<-p.Ended("n1")
	start := time.Now()
	p.must(p.Start("n1"))
	p.Ready("n1")
	return time.Since(start)
}

// startLean runs a cluster that keeps little of the newest messages in memory, so
// that what a node holds is mostly its index.
func startLean(tb testing.TB) *Processes {
	return startProcesses(tb, devcluster.Options{Nodes: 3, Partitions: 16, Settings: map[string]string{"tail-bytes": "1MiB"}})
}

// BenchmarkRestart starts a node that has b.N messages of 128 B in 16 partitions
// and 1,000 rooms, after kill -9 and after a clean stop, and reports what it holds
// in memory beyond a node without messages; 16 MB of that is not the index but the
// newest messages. Run it with -benchtime 10000000x.
func BenchmarkRestart(b *testing.B) {
	p := startLean(b)
	p.restart(true)
	empty := p.heap("n1")
	p.fill(p.Client("bench"), 1000, b.N, 128)
	b.ResetTimer()
	killed := p.restart(true)
	grown := p.heap("n1") - empty
	stopped := p.restart(false)
	b.StopTimer()
	b.ReportMetric(killed.Seconds(), "s-after-kill")
	b.ReportMetric(stopped.Seconds(), "s-after-stop")
	b.ReportMetric(grown/1e6, "MB-beyond-empty")
}

// BenchmarkIdleRooms starts a node that knows b.N rooms of one message each and
// reports what it holds for each. Run it with -benchtime 1000000x.
func BenchmarkIdleRooms(b *testing.B) {
	p := startLean(b)
	p.restart(true)
	empty := p.heap("n1")
	p.fill(p.Client("bench"), b.N, b.N, 32)
	b.ResetTimer()
	killed := p.restart(true)
	grown := p.heap("n1") - empty
	stopped := p.restart(false)
	b.StopTimer()
	b.ReportMetric(killed.Seconds(), "s-after-kill")
	b.ReportMetric(stopped.Seconds(), "s-after-stop")
	b.ReportMetric(grown/float64(b.N), "B-per-room")
}

// BenchmarkCatchUp reads b.N messages of a busy room from their start, with the
// machine's page cache emptied before. Run it with -benchtime 2000000x.
func BenchmarkCatchUp(b *testing.B) {
	for _, size := range []int{128, 1024} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			p := StartProcesses(b, 1)
			c := p.Client("bench")
			p.fill(c, 1, b.N, size)
			info, err := c.Room(context.Background(), "room-0000000")
			p.must(err)
			syscall.Sync()
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
				b.Logf("the page cache is warm: %v", err)
			}
			reader := p.Client("reader")
			b.SetBytes(int64(size))
			cpu := p.cpu()
			b.ResetTimer()
			for m, err := range reader.Subscribe(context.Background(), info.Room) {
				if err != nil {
					b.Fatal(err)
				}
				if m.Seq == info.Last {
					break
				}
			}
			b.StopTimer()
			b.ReportMetric(float64((p.cpu()-cpu).Nanoseconds())/float64(b.N), "server-ns/msg")
		})
	}
}

// BenchmarkWritten reports what the three nodes' kernels write per byte of payload,
// on segments that are filled for the first time and on recycled ones. Run it
// with -benchtime 4000000x.
func BenchmarkWritten(b *testing.B) {
	p := startProcesses(b, devcluster.Options{Nodes: 3, Partitions: 1, Settings: map[string]string{
		"retention-bytes": "128MiB",
	}})
	nodes := []string{"n1", "n2", "n3"}
	c := p.Client("bench")
	const payload = 128
	perByte := func(messages int) float64 {
		before := 0.0
		for _, n := range nodes {
			before -= p.written(n)
		}
		p.fill(c, 1, messages, payload)
		for _, n := range nodes {
			before += p.written(n)
		}
		return before / float64(len(nodes)) / float64(messages*payload)
	}
	b.ResetTimer()
	first := perByte(64 << 20 / payload)
	p.fill(c, 1, 512<<20/payload, payload)
	recycled := perByte(b.N)
	b.StopTimer()
	b.ReportMetric(first, "written/payload-first")
	b.ReportMetric(recycled, "written/payload-recycled")
}
