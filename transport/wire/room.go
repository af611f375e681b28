package wire

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// CheckRoom tells what is wrong with a room name: it must be 1 to 255 bytes of
// UTF-8 without control characters.
func CheckRoom[S string | []byte](room S) error {
	switch {
	case len(room) == 0:
		return fmt.Errorf("room name is empty, it needs 1 to %d bytes", MaxRoom)
	case len(room) > MaxRoom:
		return fmt.Errorf("room name has %d bytes, at most %d are allowed", len(room), MaxRoom)
	}
	return checkText("room name", room)
}

// CheckName tells what is wrong with a publisher name: at most 64 bytes of
// UTF-8 without control characters; it may be empty.
func CheckName[S string | []byte](name S) error {
	if len(name) > MaxName {
		return fmt.Errorf("publisher name has %d bytes, at most %d are allowed", len(name), MaxName)
	}
	return checkText("publisher name", name)
}

// checkText looks at ASCII, which most names are, without taking a copy.
func checkText[S string | []byte](what string, text S) error {
	for i := range len(text) {
		switch c := text[i]; {
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("%s %q holds a control character at byte %d", what, string(text), i)
		case c >= utf8.RuneSelf:
			return checkUnicode(what, string(text))
		}
	}
	return nil
}

func checkUnicode(what, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s %q is not valid UTF-8", what, text)
	}
	for i, r := range text {
		if unicode.IsControl(r) {
			return fmt.Errorf("%s %q holds a control character at byte %d", what, text, i)
		}
	}
	return nil
}

// PartitionOf maps a room onto one of n partitions, 0 to n-1. It is FNV-1a
// over the name's bytes, 64 bits wide, then the 64-bit finalizer of MurmurHash3
// (FNV's low bits alone are uneven), modulo n. It never changes: a room's
// messages lie where it points.
func PartitionOf[S string | []byte](room S, n int) int {
	h := uint64(0xcbf29ce484222325)
	for i := range len(room) {
		h = (h ^ uint64(room[i])) * 0x100000001b3
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return int(h % uint64(n))
}
