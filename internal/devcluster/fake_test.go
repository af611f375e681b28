package devcluster

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets the test binary stand in for roomlog: with "serve" as its first
// argument it is a node that only knows /readyz, with "keep" it runs a cluster
// until it is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			fakeNode(os.Args[3])
		case "keep":
			keepCluster(os.Args[2])
		}
	}
	os.Exit(m.Run())
}

// fakeNode behaves as FAKE_<node> in the environment says.
func fakeNode(config string) {
	var c struct{ Node, Listen, Peer, HTTP string }
	if err := readYAML(config, &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "this is", c.Node)
	behave := os.Getenv("FAKE_" + c.Node)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	switch behave {
	case "exit":
		fmt.Fprintln(os.Stderr, "no luck today")
		os.Exit(3)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	}
	http.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if behave == "unready" {
			http.Error(w, "no leader for partition 7", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Join(os.Environ(), "\n"))
	})
	if _, err := net.ListenPacket("udp", c.Listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := net.Listen("tcp", c.Peer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(c.HTTP, nil))
		os.Exit(1)
	}()
	<-stop
	fmt.Fprintln(os.Stderr, "stopped as told")
	os.Exit(0)
}

// keepCluster runs a cluster of one node in dir and says when it is ready.
func keepCluster(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	l, err := Prepare(Options{Dir: dir})
	fail(err)
	self, err := os.Executable()
	fail(err)
	c := New(Config{Layout: l, Binary: self})
	fail(c.StartAll())
	fmt.Println("started")
	select {}
}
