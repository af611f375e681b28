package faultfs

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Op is a set of operations.
type Op uint

const (
	Reads    Op = 1 << iota // of bytes; what the page cache has is not asked for
	Writes                  // of bytes, and truncations
	Syncs                   // fsync and fdatasync of a file
	DirSyncs                // fsync of a directory
	Names                   // create, rename, remove, mkdir, rmdir
)

// UntilOff as a Fault's Stall lasts until the fault is taken off.
const UntilOff time.Duration = 1<<63 - 1

// Fault is what shall happen to operations. With Stall they wait; then they
// fail with Err, or go on if it is 0.
//
// A stalled operation cannot be interrupted: a process that is killed in one is
// gone only when the stall ends. A failed fsync drops what it should have made
// durable: it can still be read, but no later fsync makes it durable, as on
// Linux.
type Fault struct {
	Ops   Op
	Match func(path string) bool // of the path below the mount; nil: all. Must not block.
	Times int                    // how many operations at most; 0: any number. The kernel asks twice for bytes whose read failed.
	Stall time.Duration
	Err   syscall.Errno
}

// Injected is a Fault at work. Its methods may be called concurrently.
type Injected struct {
	Fault
	list  *faults
	count atomic.Int64
	off   chan struct{}
	once  sync.Once
}

// Count is how many operations it has met, those that stall now included.
func (i *Injected) Count() int { return int(i.count.Load()) }

// Off takes the fault away and lets stalled operations go on.
func (i *Injected) Off() {
	i.list.remove(i)
	i.once.Do(func() { close(i.off) })
}

// faults are the faults of an FS.
type faults struct {
	mu   sync.Mutex
	list []*Injected
}

func (f *faults) add(fault Fault) *Injected {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := &Injected{Fault: fault, list: f, off: make(chan struct{})}
	f.list = append(f.list, i)
	return i
}

func (f *faults) remove(i *Injected) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, func(other *Injected) bool { return other == i })
}

// clear takes all faults away.
func (f *faults) clear() {
	f.mu.Lock()
	list := slices.Clone(f.list)
	f.mu.Unlock()
	for _, i := range list {
		i.Off()
	}
}

// none tells that there are no faults.
func (f *faults) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list) == 0
}

// meet finds the faults that take effect on an operation, and counts them.
func (f *faults) meet(op Op, path string) (met []*Injected) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.list {
		if i.Ops&op == 0 || i.Match != nil && !i.Match(path) {
			continue
		}
		if n := i.count.Add(1); i.Times > 0 && n > int64(i.Times) {
			i.count.Add(-1)
			continue
		}
		met = append(met, i)
	}
	return met
}

// wait stalls an operation as long as the fault says, at most until cut is closed.
func (i *Injected) wait(cut <-chan struct{}) {
	if i.Stall == 0 {
		return
	}
	t := time.NewTimer(i.Stall)
	defer t.Stop()
	select {
	case <-t.C:
	case <-i.off:
	case <-cut:
	}
}
