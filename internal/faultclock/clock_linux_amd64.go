package faultclock

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxOffset keeps the sum of offset and nanoseconds within 64 bits.
const maxOffset = math.MaxInt64 - time.Second

// Clock is the wall clock of one process.
type Clock struct {
	pid   int
	mem   *os.File // of the process that was attached to, never of another with its pid
	patch *patch

	mu sync.Mutex // held by Set and Close
}

// Attach takes a process's clock in hand, and changes nothing about its time. A
// process that is attached to already keeps its offset and its count.
func Attach(pid int) (*Clock, error) {
	c := &Clock{pid: pid}
	if err := c.attach(); err != nil {
		if c.mem != nil {
			c.mem.Close()
		}
		return nil, fmt.Errorf("attach to the clock of process %d: %w", pid, explained(err))
	}
	return c, nil
}

func (c *Clock) attach() (err error) {
	if c.mem, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", c.pid), os.O_RDWR, 0); err != nil {
		return err
	}
	vdso, stack, err := mappings(c.pid)
	if err != nil {
		return err
	}
	image := make([]byte, vdso.to-vdso.from)
	if _, err := c.mem.ReadAt(image, int64(vdso.from)); err != nil {
		return err
	}
	if c.patch, err = newPatch(image, vdso, stack); err != nil {
		return err
	}
	if err := c.install(image, vdso); err != nil {
		return err
	}
	return c.divert()
}

// install writes stub and counter, which nobody uses yet, unless they are there.
func (c *Clock) install(image []byte, vdso span) error {
	area := c.patch.in(image, vdso)
	if c.patch.present(area) {
		return nil
	}
	if !fits(area) {
		return errors.New("the vDSO has no room behind its code: this kernel is not supported")
	}
	switch count, err := c.read(c.patch.count); {
	case err != nil:
		return err
	case count != 0:
		return fmt.Errorf("the word at the end of the stack is in use (%#x): this kernel is not supported", count)
	}
	entry := image[c.patch.entry-vdso.from:][:entrySize]
	if err := c.write(c.patch.area+originalAt, entry); err != nil {
		return err
	}
	return c.write(c.patch.area+codeAt, c.patch.code)
}

// divert makes the function's entry jump to the stub.
func (c *Clock) divert() error {
	original, err := c.original()
	if err != nil {
		return err
	}
	return c.setEntry(c.patch.jump(original))
}

func (c *Clock) original() ([]byte, error) {
	word, err := c.read(c.patch.area + originalAt)
	return le64(word), err
}

// setEntry replaces the function's first instructions. No thread may be among
// them: it would go on in the middle of one.
func (c *Clock) setEntry(code []byte) error {
	entry := c.patch.entry
	if now, err := c.read(entry); err != nil || bytes.Equal(le64(now), code) {
		return err
	}
	return whileOutside(c.pid, span{entry, entry + jumpSize}, func() error { return c.write(entry, code) })
}

// Set makes the process's wall clock differ from the truth by offset, at once;
// 0 is the truth.
func (c *Clock) Set(offset time.Duration) error {
	if offset > maxOffset || offset < -maxOffset {
		return fmt.Errorf("skew the clock of process %d by %v: more than %v is not possible", c.pid, offset, maxOffset)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.set(offset); err != nil {
		return fmt.Errorf("skew the clock of process %d: %w", c.pid, explained(err))
	}
	return nil
}

// set writes the offset behind the current one and makes it the current one.
func (c *Clock) set(offset time.Duration) error {
	current, err := c.read(c.patch.area)
	if err != nil {
		return err
	}
	next := (current + 1) % offsets
	if err := c.write(c.patch.area+offsetsAt+8*next, le64(uint64(offset))); err != nil {
		return err
	}
	return c.write(c.patch.area, []byte{byte(next)})
}

// Count returns how often the process has read the clock and was told a wrong time.
func (c *Clock) Count() (uint64, error) {
	count, err := c.read(c.patch.count)
	if err != nil {
		return 0, fmt.Errorf("count the readings of the clock of process %d: %w", c.pid, explained(err))
	}
	return count, nil
}

// Close gives the process its own clock back. It is no error if it has ended.
func (c *Clock) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.mem.Close()
	if err := explained(c.restore()); err != nil && !errors.Is(err, ErrEnded) {
		return fmt.Errorf("give process %d its clock back: %w", c.pid, err)
	}
	return nil
}

func (c *Clock) restore() error {
	if err := c.set(0); err != nil { // for threads that are in the stub
		return err
	}
	original, err := c.original()
	if err != nil {
		return err
	}
	return c.setEntry(original)
}

func (c *Clock) read(at uint64) (uint64, error) {
	var word [8]byte
	_, err := c.mem.ReadAt(word[:], int64(at))
	return binary.LittleEndian.Uint64(word[:]), err
}

func (c *Clock) write(at uint64, p []byte) error {
	_, err := c.mem.WriteAt(p, int64(at))
	return err
}

// explained tells what to do about a system's error.
func explained(err error) error {
	for _, gone := range []error{os.ErrNotExist, os.ErrProcessDone, syscall.ESRCH, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w (%v)", ErrEnded, err)
		}
	}
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EIO) {
		return fmt.Errorf("%w (%v)", ErrPermission, err)
	}
	return err
}
