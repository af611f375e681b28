// Command demo shows the main job of roomlog, end to end: three nodes take real
// chat, a leader is killed half-way while publishes to it are on their way, and
// in the end nothing is missing, doubled or out of order.
//
//	make demo
//
// It exits with an error unless that is so and the three replicas agree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
)

// atMost is how long the whole demo may take.
const atMost = 85 * time.Second

func main() {
	binary := flag.String("binary", filepath.Join("bin", "roomlog"), "the roomlog binary")
	file := flag.String("trace", filepath.Join("testdata", "traces", "irc-ubuntu.jsonl.gz"), "the chat to replay")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	if err := run(ctx, *binary, *file); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("not done within %v: %w", atMost, err)
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// say tells what happens, with the time since the beginning.
type say func(format string, args ...any)

func newSay() say {
	began := time.Now()
	return func(format string, args ...any) {
		fmt.Printf("%6.2f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}

func run(ctx context.Context, binary, file string) error {
	chat, err := readChat(file)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "roomlog-demo-")
	if err != nil {
		return err
	}
	layout, err := devcluster.Prepare(devcluster.Options{Dir: dir, BasePort: devcluster.FreePorts})
	if err != nil {
		return err
	}
	cluster := devcluster.New(devcluster.Config{Layout: layout, Binary: binary})
	d := newDemo(newSay(), cluster, chat)
	err = d.run(ctx)
	err = errors.Join(err, cluster.Close())
	d.say("the cluster is stopped")
	fmt.Printf(`
data     %s
profile  %s

To look round, start the cluster again:
  %s dev --data %s
and in another terminal:
  export ROOMLOG_PROFILE=%s
  %[3]s room list
  %[3]s partition list
  %[3]s subscribe %[6]s --count 10
`, dir, layout.Profile, binary, dir, layout.Profile, chat.busiestRoom())
	return err
}
