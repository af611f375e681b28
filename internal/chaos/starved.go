package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

const (
	heartbeat = 20 * time.Millisecond
	starving  = 250 * time.Millisecond // a heartbeat so late is a sign of it

	glance = 250 * time.Millisecond
	hungry = 2 * glance / 5 // a thread of a node that has waited for a processor for so long of a glance is another
)

// watchMachine writes down when the machine starves the run, until ctx ends.
func (r *run) watchMachine(ctx context.Context) {
	last := time.Now()
	for wait(ctx, heartbeat) == nil {
		if late := time.Since(last) - heartbeat; late > starving {
			r.starved(history.Start, "late by "+late.Round(time.Millisecond).String())
			r.starved(history.Stop, "")
		}
		last = time.Now()
	}
}

// watchNodes writes down from when to when it starves a node, until ctx ends.
func (r *run) watchNodes(ctx context.Context) {
	var s starvation
	for wait(ctx, glance) == nil {
		longest := time.Duration(0)
		for _, n := range r.cluster.names {
			if pid, ok := r.cluster.procs.PID(n); ok {
				longest = max(longest, s.longest(pid))
			}
		}
		switch on := longest > hungry; {
		case on && !s.on:
			r.starved(history.Start, fmt.Sprintf("a thread waited for %v of %v", longest.Round(time.Millisecond), glance))
		case !on && s.on:
			r.starved(history.Stop, "")
		}
		s.on = longest > hungry
	}
}

func (r *run) starved(phase, detail string) {
	f := history.Fault{Phase: phase, Detail: detail}
	if phase == history.Stop {
		f.Count = 1
	}
	r.rec.nemesis(string(history.Starved), f)
}

// starvation knows how long threads have waited for a processor so far.
type starvation struct {
	on     bool
	waited map[string]time.Duration // by the thread's directory
}

// longest is how long a thread of the process has waited at most since the last call.
// It is 0 where the kernel does not tell.
func (s *starvation) longest(pid int) (longest time.Duration) {
	if s.waited == nil {
		s.waited = map[string]time.Duration{}
	}
	threads, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*"))
	for _, dir := range threads {
		b, err := os.ReadFile(filepath.Join(dir, "schedstat"))
		now, ok := waitedOf(string(b))
		if err != nil || !ok {
			continue
		}
		if before, known := s.waited[dir]; known {
			longest = max(longest, now-before)
		}
		s.waited[dir] = now
	}
	return longest
}

// waitedOf reads the second field of a schedstat file, ns that a thread was able to
// run and did not (Linux, Documentation/scheduler/sched-stats.rst).
func waitedOf(schedstat string) (time.Duration, bool) {
	fields := strings.Fields(schedstat)
	if len(fields) < 2 {
		return 0, false
	}
	ns, err := strconv.ParseInt(fields[1], 10, 64)
	return time.Duration(ns), err == nil
}
