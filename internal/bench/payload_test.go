package bench

import (
	"testing"
	"time"
)

func TestHeader(t *testing.T) {
	want := header{number: 1 << 40, due: time.Hour + 3, room: 7, mark: 9}
	b := make([]byte, MinPayload)
	want.put(b)
	if got, err := parseHeader(b); err != nil || got != want {
		t.Errorf("%+v came back as %+v, %v", want, got, err)
	}
	if _, err := parseHeader(b[:MinPayload-1]); err == nil {
		t.Error("half a header is taken")
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(make([]byte, MinPayload))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, MinPayload)
		h.put(again)
		if string(again) != string(b[:MinPayload]) {
			t.Errorf("%x became %x", b, again)
		}
	})
}
