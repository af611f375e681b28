package node

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestSpace(t *testing.T) {
	const mib = 1 << 20
	var log bytes.Buffer
	free, failing := int64(1000*mib), error(nil)
	s := newSpace("d", 160*mib, func(dir string) (int64, error) {
		if dir != "d" {
			t.Errorf("asked about %q", dir)
		}
		return free, failing
	}, slog.New(slog.NewTextHandler(&log, nil)))
	for i, step := range []struct {
		what  string
		free  int64
		err   error
		full  bool
		lines string // words of what is logged
	}{
		{"plenty", 1000 * mib, nil, false, ""},
		{"a quarter above the reserve", 200 * mib, nil, false, ""},
		{"just below", 200*mib - 1, nil, true, "level=ERROR nearly full"},
		{"still so", 1 * mib, nil, true, ""},
		{"at the limit again", 200 * mib, nil, true, ""},
		{"not known", 900 * mib, errors.New("statfs is broken"), true, "level=ERROR statfs is broken"},
		{"still not", 900 * mib, errors.New("statfs is broken"), true, ""},
		{"above", 210 * mib, nil, false, "level=INFO has room again"},
		{"below again", 100 * mib, nil, true, "level=ERROR nearly full"},
	} {
		log.Reset()
		free, failing = step.free, step.err
		s.look()
		if s.nearlyFull() != step.full {
			t.Errorf("step %d (%s): full is %v", i, step.what, s.nearlyFull())
		}
		if lines := strings.Count(log.String(), "\n"); lines > 1 || (lines == 0) != (step.lines == "") {
			t.Errorf("step %d (%s): logged %q", i, step.what, &log)
		}
		for word := range strings.FieldsSeq(step.lines) {
			if !strings.Contains(log.String(), word) {
				t.Errorf("step %d (%s): logged %q, want %q in it", i, step.what, &log, word)
			}
		}
	}
	for _, tt := range []struct {
		free, bytes int64
		ok          bool
	}{{161 * mib, 1 * mib, true}, {161*mib - 1, 1 * mib, false}, {160 * mib, 0, true}, {0, 1, false}} {
		free = tt.free
		err := s.take(tt.bytes)
		if (err == nil) != tt.ok || err != nil && (!errors.Is(err, errNoSpace) || !strings.Contains(err.Error(), "disk is nearly full")) {
			t.Errorf("%d of %d bytes: %v", tt.bytes, tt.free, err)
		}
	}
	free = 3 * mib
	s.look()
	if got := value(t, s.collectors()[0]); got != 3*mib {
		t.Errorf("free gauge %v", got)
	}
	if got := value(t, s.collectors()[1]); got != 1 {
		t.Errorf("full gauge %v", got)
	}
}

func TestSpaceWithoutReserve(t *testing.T) {
	s := newSpace("d", 0, func(string) (int64, error) { return 0, nil }, slog.New(slog.DiscardHandler))
	if err := s.take(1 << 30); err != nil || s.nearlyFull() {
		t.Errorf("take: %v, full %v", err, s.nearlyFull())
	}
}

func TestFreeBytes(t *testing.T) {
	free, err := freeBytes(t.TempDir())
	if err != nil || free <= 0 {
		t.Errorf("%d bytes, %v", free, err)
	}
	if _, err := freeBytes("/nowhere/at/all"); err == nil {
		t.Error("no error for a folder that is not there")
	}
}
