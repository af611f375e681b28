package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/wire"
)

// A node whose files are damaged does not start, names all partitions concerned,
// and comes back when they are rebuilt; also when what they share is damaged.
func TestDamagedNodeIsRebuilt(t *testing.T) {
	t.Parallel()
	var rebuild []int
	var last node.Config // n3's
	c := Start(t, 3, 3, func(cfg *node.Config) {
		if cfg.Rebuild = nil; cfg.Name == "n3" {
			cfg.Rebuild = rebuild
			last = *cfg
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	rooms := map[int]string{}
	for i := 0; len(rooms) < 3; i++ {
		room := fmt.Sprintf("room%d", i)
		rooms[wire.PartitionOf(room, 3)] = room
	}
	publish := func() {
		t.Helper()
		cl := c.Client("p", "n1")
		defer cl.Close()
		for _, room := range rooms {
			if _, err := cl.Publish(ctx, room, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	same := func() {
		t.Helper()
		c.WaitReady()
		c.Until("n3 agrees with n1", func() bool {
			for id := range 3 {
				one, three := c.Node("n1").Partitions()[id], c.Node("n3").Partitions()[id]
				if three.Rebuilding || three.Hash != one.Hash {
					return false
				}
			}
			return true
		})
	}
	open := func(want string) {
		t.Helper()
		_, err := node.Open(last)
		if damaged, ok := errors.AsType[*node.DamagedError](err); !ok || damaged.Rebuild() != want {
			t.Fatalf("opened with %v, want damage and --rebuild %s", err, want)
		}
	}
	publish()
	same()

	raft := filepath.Join(c.dir, "n3", "raft")
	c.Stop("n3")
	for _, id := range []int{0, 2} {
		flip(t, filepath.Join(raft, fmt.Sprintf("p%04d/log/%020d.seg", id, 1)), 4096+20)
	}
	publish() // it will have missed this
	open("0,2")
	rebuild = []int{0, 2}
	c.Run("n3")
	same()

	c.Stop("n3")
	flip(t, filepath.Join(raft, "stable.db"), 8) // in bolt's first meta page
	open("all")
	rebuild = []int{0, 1}
	open("all")
	rebuild = []int{0, 1, 2}
	c.Run("n3")
	same()
	if _, err := os.Stat(filepath.Join(raft, "stable.db.damaged")); err != nil {
		t.Errorf("the damaged file was not kept: %v", err)
	}
	rebuild = nil
	c.Stop("n3")
	c.Run("n3")
	publish()
	same()
}

// flip changes a bit of a file.
func flip(t *testing.T, name string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}
