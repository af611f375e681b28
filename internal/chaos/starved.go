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

	glance = 250 * time.Millisecond // between two looks at the nodes' threads
	hungry = 0.5                    // of that time: a thread that waited longer for a processor is another
)

// watchMachine writes down from when to when the machine starves the run or a node, until
// ctx ends.
func (r *run) watchMachine(ctx context.Context) {
	var s starvation
	defer func() { r.starved(&s, "") }()
	last := time.Now()
	looked := last
	for wait(ctx, heartbeat) == nil {
		now := time.Now()
		why := ""
		if late := now.Sub(last) - heartbeat; late > starving {
			why = fmt.Sprintf("the run was late by %v", late.Round(time.Millisecond))
		}
		last = now
		if since := now.Sub(looked); why != "" || since >= glance {
			if waited := r.longestWait(&s); waited.Seconds() > hungry*since.Seconds() {
				why = fmt.Sprintf("a thread of a node waited for %v of %v", waited.Round(time.Millisecond), since.Round(time.Millisecond))
			}
			looked = now
			r.starved(&s, why)
		}
	}
}

// longestWait is how long any thread of a node has waited since the last call.
func (r *run) longestWait(s *starvation) (longest time.Duration) {
	for _, n := range r.cluster.names {
		if pid, ok := r.cluster.procs.PID(n); ok {
			longest = max(longest, s.longest(pid))
		}
	}
	return longest
}

// starved writes down that it begins, or is over: why is "".
func (r *run) starved(s *starvation, why string) {
	switch {
	case why != "" && !s.on:
		r.rec.nemesis(string(history.Starved), history.Fault{Phase: history.Start, Detail: why})
	case why == "" && s.on:
		r.rec.nemesis(string(history.Starved), history.Fault{Phase: history.Stop, Count: 1})
	}
	s.on = why != ""
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
