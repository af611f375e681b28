package faultclock

import (
	"bytes"
	"encoding/binary"
	"unsafe"
)

// What stands in the stub for addresses, and behind it.
const (
	offsetsMark = 0x1122334455667788
	countMark   = 0x2233445566778899
	endMark     = 0x21656e64_646e6521

	maxStub = 256 // bytes
)

// stub is never called here: it is to be copied. See stub_linux_amd64.s.
//
//lint:ignore U1000 stubCode returns its address
func stub()

// stubCode returns where stub begins.
func stubCode() *byte

// stubFor returns the stub's code for offsets and a counter at these addresses.
func stubFor(offsets, count uint64) []byte {
	code := unsafe.Slice(stubCode(), maxStub)
	code = bytes.Clone(code[:bytes.Index(code, le64(endMark))])
	fill(code, offsetsMark, offsets)
	fill(code, countMark, count)
	return code
}

func fill(code []byte, mark, address uint64) {
	copy(code[bytes.Index(code, le64(mark)):], le64(address))
}

func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
