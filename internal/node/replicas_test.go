package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/roomlog/roomlog/raftlog"
)

func TestWhatFailed(t *testing.T) {
	damage := fmt.Errorf("partition 1: %w", &raftlog.DamageError{Path: "f.seg", Offset: 4096, Reason: "bad CRC"})
	fenced := fmt.Errorf("partition 3: %w", &raftlog.FencedError{Path: "FENCED", Reason: "odd"})
	inUse := errors.New("partition 2: in use")
	three := &Node{cfg: Config{Name: "n1", Members: map[string]string{"n1": "", "n2": "", "n3": ""}}}
	for _, tt := range []struct {
		name    string
		errs    []error
		rebuild string // "": the error is no damage
		words   string
	}{
		{"nothing", []error{nil, nil}, "", ""},
		{"damage", []error{nil, damage}, "1", "f.seg 4096 bad CRC"},
		{"damage and a fence", []error{nil, damage, nil, fenced}, "1,3", "f.seg FENCED odd"},
		{"something else too: rebuilding would not help", []error{nil, damage, inUse}, "", "in use f.seg"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := three.whatFailed(tt.errs)
			if (err == nil) != (tt.words == "") {
				t.Fatalf("error %v", err)
			}
			for word := range strings.FieldsSeq(tt.words) {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error %v, want %q in it", err, word)
				}
			}
			damaged, ok := errors.AsType[*DamagedError](err)
			if ok != (tt.rebuild != "") || ok && (damaged.Rebuild() != tt.rebuild || (damaged.Voters != 3 || !damaged.Rebuilds)) {
				t.Errorf("damaged %+v, want rebuild %q", damaged, tt.rebuild)
			}
		})
	}
}

func TestCanRebuild(t *testing.T) {
	for _, tt := range []struct {
		name, node, voters string
		want               bool
	}{
		{"alone", "n1", "n1", false},
		{"one of two", "n1", "n1 n2", false},
		{"one of three", "n1", "n1 n2 n3", true},
		{"one of four", "n1", "n1 n2 n3 n4", true},
		{"without a vote, beside the only voter", "n2", "n1", true},
		{"without a vote, beside two", "n3", "n1 n2", true},
	} {
		if got := CanRebuild(tt.node, strings.Fields(tt.voters)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestEachCallsAll(t *testing.T) {
	var mu sync.Mutex
	var got []int
	each(100, func(i int) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, i)
	})
	slices.Sort(got)
	if len(got) != 100 || got[0] != 0 || got[99] != 99 || len(slices.Compact(got)) != 100 {
		t.Errorf("called for %v", got)
	}
}
