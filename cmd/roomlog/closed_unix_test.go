//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestUntilClosed(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	ctx, stop := untilClosed(t.Context(), in)
	if _, err := in.WriteString("a line that is read later\n"); err != nil || ctx.Err() != nil {
		t.Errorf("a pipe that is open: %v, %v", err, ctx.Err())
	}
	stop() // returns though the pipe is open
	ctx, stop = untilClosed(t.Context(), in)
	defer stop()
	out.Close()
	<-ctx.Done()
}

func TestUntilClosedOfOtherOutputs(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, output := range []interface{ Write([]byte) (int, error) }{file, new(bytes.Buffer)} {
		if ctx, stop := untilClosed(t.Context(), output); ctx != t.Context() {
			t.Errorf("%T is watched", output)
			stop()
		}
	}
}
