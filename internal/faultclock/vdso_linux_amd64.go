package faultclock

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// clockGettime is the vDSO's function that Go's runtime calls.
const clockGettime = "__vdso_clock_gettime"

// span is a mapping of a process's memory.
type span struct{ from, to uint64 }

// mappings returns where a process has its vDSO and its first thread's stack.
func mappings(pid int) (vdso, stack span, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return vdso, stack, err
	}
	if len(maps) == 0 {
		return vdso, stack, fmt.Errorf("%w, or it is a thread of the kernel", ErrEnded)
	}
	vdso, ok := mapping(string(maps), "[vdso]")
	if !ok {
		return vdso, stack, errors.New("the process has no vDSO: boot the kernel without vdso=0")
	}
	if stack, ok = mapping(string(maps), "[stack]"); !ok {
		return vdso, stack, errors.New("the process has no stack mapped: it replaced its memory map and cannot be attached to")
	}
	return vdso, stack, nil
}

// mapping finds a mapping by its name in what /proc/PID/maps says:
//
//	7ffd98c59000-7ffd98c7a000 rw-p 00000000 00:00 0       [stack]
func mapping(maps, name string) (s span, ok bool) {
	for line := range strings.Lines(maps) {
		if !strings.HasSuffix(line, " "+name+"\n") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x ", &s.from, &s.to); err == nil && s.from < s.to {
			return s, true
		}
	}
	return span{}, false
}

// entryIn returns at which byte of a vDSO its clock_gettime begins.
func entryIn(image []byte) (int, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("the vDSO is no ELF file: %w", err)
	}
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return 0, fmt.Errorf("the process is of %v, %v: %w", f.Machine, f.Class, ErrUnsupported)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("the vDSO's symbols: %w", err)
	}
	for _, s := range symbols {
		if s.Name == clockGettime && s.Size >= entrySize && s.Value <= uint64(len(image)-entrySize) {
			return int(s.Value), nil
		}
	}
	return 0, fmt.Errorf("the vDSO has no %s: this kernel is not supported", clockGettime)
}

// The patch lies at the end of the vDSO's pages:
//
//	current   8 bytes      the first one tells which of the offsets holds
//	offsets   8 × 8 bytes  ns, what is added to the time
//	original  8 bytes      what was at the function's entry before the jump
//	code                   the stub
//
// The kernel may write 8 bytes in parts, and a thread under load has read such a
// mixture. So a new offset is written to another place than that of the current
// one, and holds with a write of one byte. A mixture is read then only by a
// thread that pauses between reading current and the offset, for just as long as
// all the others take to be written.
type patch struct {
	entry uint64 // address of the function
	area  uint64 // of the patch
	count uint64 // of the counter
	code  []byte
}

const (
	offsets    = 8
	offsetsAt  = 8
	originalAt = offsetsAt + 8*offsets
	codeAt     = originalAt + 8

	jumpSize  = 5 // bytes of a jump: e9, and how far from behind it, 32 bits
	entrySize = 8 // bytes that are written at the entry
)

// newPatch plans the patch of a vDSO. The counter has to lie where the process
// may write. Every process has 8 such bytes which nobody uses: Linux leaves a
// word free at the very end of the first stack, above the program's name.
func newPatch(image []byte, vdso, stack span) (*patch, error) {
	entry, err := entryIn(image)
	if err != nil {
		return nil, err
	}
	p := &patch{entry: vdso.from + uint64(entry), count: stack.to - 8}
	size := codeAt + len(stubFor(0, 0))
	p.area = (vdso.to - uint64(size)) &^ 15
	p.code = stubFor(p.area, p.count)
	return p, nil
}

// in returns the area's bytes in an image of the vDSO.
func (p *patch) in(image []byte, vdso span) []byte { return image[p.area-vdso.from:] }

// present tells whether the area holds this patch already.
func (p *patch) present(area []byte) bool { return bytes.HasPrefix(area[codeAt:], p.code) }

// fits tells whether nothing is where the patch shall be.
func fits(area []byte) bool { return len(bytes.Trim(area, "\x00")) == 0 }

// jump is what the entry holds while the patch works, rest its bytes behind.
func (p *patch) jump(original []byte) []byte {
	distance := p.area + codeAt - (p.entry + jumpSize)
	to := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(distance))
	return append(to, original[jumpSize:]...)
}
