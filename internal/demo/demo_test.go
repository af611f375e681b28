package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

// played is a ledger after n messages of one room that got the given seqs and
// were delivered as the given texts say: "2" is the second message, "gap 2-3" a
// gap, "2:x" another payload at seq 2.
func played(t *testing.T, acked []uint64, head uint64, delivered ...string) verdict {
	t.Helper()
	l := newLedger(4)
	text := func(place int) string { return fmt.Sprintf("message %d", place) }
	for i, seq := range acked {
		place := l.publish("r", "ann", []byte(text(i+1)))
		if seq > 0 {
			l.ack("r", place, seq)
		}
	}
	for _, d := range delivered {
		var from, to uint64
		if n, _ := fmt.Sscanf(d, "gap %d-%d", &from, &to); n == 2 {
			l.gap("r", from, to)
			continue
		}
		var seq uint64
		if _, err := fmt.Sscan(strings.TrimSuffix(d, ":x"), &seq); err != nil {
			t.Fatal(err)
		}
		payload := text(int(seq))
		if strings.HasSuffix(d, ":x") {
			payload = "another"
		}
		l.deliver("r", seq, "ann", []byte(payload))
	}
	l.setHead("r", head)
	return l.verdict()
}

func TestVerdict(t *testing.T) {
	three := []uint64{1, 2, 3}
	for _, tt := range []struct {
		name      string
		acked     []uint64
		head      uint64
		delivered []string
		want      verdict
		good      bool
	}{
		{"all well", three, 3, []string{"1", "2", "3"}, verdict{Messages: 3, Acks: 3, Delivered: 3}, true},
		{"one not delivered", three, 3, []string{"1", "3"}, verdict{Messages: 3, Acks: 3, Delivered: 2, Missing: 1}, false},
		{"a gap for acked ones", three, 3, []string{"gap 1-2", "3"},
			verdict{Messages: 3, Acks: 3, Delivered: 1, Missing: 2, Gaps: 2}, false},
		{"another payload", three, 3, []string{"1", "2:x", "3"}, verdict{Messages: 3, Acks: 3, Delivered: 3, Missing: 1}, false},
		{"one twice", three, 3, []string{"1", "2", "2", "3"}, verdict{Messages: 3, Acks: 3, Delivered: 4, Duplicate: 1}, false},
		{"a second copy in the log", three, 4, []string{"1", "2", "3", "4"},
			verdict{Messages: 3, Acks: 3, Delivered: 4, Duplicate: 1}, false},
		{"a second copy in the middle", []uint64{1, 3, 4}, 4, []string{"1", "2", "3", "4"},
			verdict{Messages: 3, Acks: 3, Delivered: 4, Duplicate: 1, Missing: 2}, false},
		{"delivered backwards", three, 3, []string{"1", "3", "2"}, verdict{Messages: 3, Acks: 3, Delivered: 3, Reordered: 1}, false},
		{"acked backwards", []uint64{1, 3, 2}, 3, []string{"1", "2", "3"},
			verdict{Messages: 3, Acks: 3, Delivered: 3, Reordered: 1, Missing: 2}, false},
		{"one seq for two", []uint64{1, 2, 2}, 2, []string{"1", "2"},
			verdict{Messages: 3, Acks: 3, Delivered: 2, Missing: 2}, false},
		{"one without an ack", []uint64{1, 2, 0}, 2, []string{"1", "2"}, verdict{Messages: 3, Acks: 2, Delivered: 2}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := played(t, tt.acked, tt.head, tt.delivered...)
			if got != tt.want || got.good() != tt.good {
				t.Errorf("verdict %+v, good %v, want %+v", got, got.good(), tt.want)
			}
		})
	}
}

func TestAnotherAuthorIsAnotherMessage(t *testing.T) {
	l := newLedger(4)
	l.ack("r", l.publish("r", "ann", []byte("x")), 1)
	l.deliver("r", 1, "bob", []byte("x"))
	if v := l.verdict(); v.Missing != 1 {
		t.Errorf("verdict %+v", v)
	}
}

func TestUnanswered(t *testing.T) {
	l := newLedger(4)
	first := l.publish("r", "", nil)
	l.publish("r", "", nil)
	p := wire.PartitionOf("r", 4)
	if n := l.unanswered(map[int]bool{p: true}); n != 2 {
		t.Errorf("%d in flight, want 2", n)
	}
	l.ack("r", first, 1)
	if n := l.unanswered(map[int]bool{p: true, (p + 1) % 4: true}); n != 1 {
		t.Errorf("%d in flight, want 1", n)
	}
	if n := l.unanswered(map[int]bool{(p + 1) % 4: true}); n != 0 {
		t.Errorf("%d in flight to another partition, want 0", n)
	}
}

func TestComplete(t *testing.T) {
	l := newLedger(4)
	if !l.complete("r", 0) || l.complete("r", 1) {
		t.Error("an empty room")
	}
	l.deliver("r", 2, "", nil)
	if !l.complete("r", 2) || l.complete("r", 3) {
		t.Error("after a delivery")
	}
	l.gap("r", 3, 5)
	if !l.complete("r", 5) || l.complete("r", 6) {
		t.Error("after a gap")
	}
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s silence
		wait := func(d time.Duration) { <-time.After(d) }
		s.begin()
		wait(50 * time.Millisecond)
		s.end() // 50 ms, over before the moment
		wait(time.Second)
		moment := time.Now().Add(10 * time.Millisecond)
		s.begin() // idle time does not count
		s.begin()
		wait(20 * time.Millisecond)
		s.end()
		wait(30 * time.Millisecond)
		s.end()
		s.end() // a second copy
		wait(time.Second)
		s.begin() // never ends
		if got := s.after(moment); got != 30*time.Millisecond {
			t.Errorf("the longest silence is %v, want 30ms", got)
		}
		if got := s.after(time.Time{}); got != 50*time.Millisecond {
			t.Errorf("the longest silence of all is %v, want 50ms", got)
		}
	})
}

// fakeNodes are three HTTP servers that answer /v1/partitions.
func fakeNodes(t *testing.T, answer func(node string) []admin.PartitionStatus) *replicas {
	t.Helper()
	l := &devcluster.Layout{Token: "secret", Partitions: 2}
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" || r.URL.Path != "/v1/partitions" {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			json.NewEncoder(w).Encode(answer(name))
		}))
		t.Cleanup(srv.Close)
		l.Nodes = append(l.Nodes, devcluster.Node{Name: name, HTTP: strings.TrimPrefix(srv.URL, "http://")})
	}
	return newReplicas(l)
}

func held(partition int, applied uint64, hash string) admin.PartitionStatus {
	return admin.PartitionStatus{Partition: partition, Applied: applied, Hash: hash}
}

func TestAgree(t *testing.T) {
	same := []admin.PartitionStatus{held(0, 7, "aa"), held(1, 9, "bb")}
	for _, tt := range []struct {
		name string
		n3   []admin.PartitionStatus
		want string
	}{
		{"all the same", same, ""},
		{"in another order", []admin.PartitionStatus{same[1], same[0]}, ""},
		{"another hash", []admin.PartitionStatus{held(0, 7, "aa"), held(1, 9, "cc")}, "partition 1: n1 has hash bb at 9, n3 has hash cc at 9"},
		{"behind", []admin.PartitionStatus{held(0, 6, "aa"), held(1, 9, "bb")}, "partition 0"},
		{"a partition missing", same[:1], "n3 holds 1 of 2 partitions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := fakeNodes(t, func(node string) []admin.PartitionStatus {
				if node == "n3" {
					return tt.n3
				}
				return same
			})
			err := r.agree(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("no hash", func(t *testing.T) {
		r := fakeNodes(t, func(string) []admin.PartitionStatus { return []admin.PartitionStatus{held(0, 7, ""), held(1, 9, "")} })
		if err := r.agree(t.Context()); err == nil {
			t.Error("replicas without a hash agree")
		}
	})
}

func TestAwaitAgreement(t *testing.T) {
	var asked atomic.Int64
	r := fakeNodes(t, func(node string) []admin.PartitionStatus {
		if node == "n2" && asked.Add(1) < 3 {
			return []admin.PartitionStatus{held(0, 6, "aa"), held(1, 9, "bb")}
		}
		return []admin.PartitionStatus{held(0, 7, "aa"), held(1, 9, "bb")}
	})
	if err := r.await(t.Context()); err != nil {
		t.Error(err)
	}
	never := fakeNodes(t, func(node string) []admin.PartitionStatus {
		return []admin.PartitionStatus{held(0, 7, node), held(1, 9, "bb")}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := never.await(ctx); err == nil || !strings.Contains(err.Error(), "partition 0") {
		t.Errorf("error %v", err)
	}
}

func TestLeaders(t *testing.T) {
	r := fakeNodes(t, func(node string) []admin.PartitionStatus {
		leader, term := "n1", uint64(3) // n3 has not heard of the newer one
		if node != "n3" {
			leader, term = "n2", 4
		}
		return []admin.PartitionStatus{{Partition: 0, Leader: leader, Term: term}, {Partition: 1}}
	})
	leaders, err := r.leaders(t.Context())
	if err != nil || len(leaders) != 1 || leaders[0] != "n2" {
		t.Errorf("leaders %v, %v", leaders, err)
	}
	r.layout.Token = "wrong"
	if _, err := r.leaders(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("error %v", err)
	}
}

func TestReadChat(t *testing.T) {
	c, err := readChat(filepath.Join("..", "..", "testdata", "traces", "irc-ubuntu.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.messages) != 61621 || len(c.rooms) != 48 || c.busiestRoom() != "ubuntu/2008-04-30-train-a" {
		t.Errorf("%d messages, %d rooms, the busiest %s", len(c.messages), len(c.rooms), c.busiestRoom())
	}
	busiest, sum := c.busiestPartition(16), make(map[int]int)
	for _, m := range c.messages {
		sum[wire.PartitionOf(m.Room, 16)]++
	}
	for p, n := range sum {
		if n > sum[busiest] {
			t.Errorf("partition %d has %d messages, %d has %d", busiest, sum[busiest], p, n)
		}
	}
}
