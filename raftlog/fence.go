package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// fenceFile marks a replica that must not run again. It holds the reason.
const (
	fenceFile  = "FENCED"
	maxReason  = 4 << 10
	noReadable = "the reason cannot be read"
)

// Fence stops raft on this node for good, and leaves a marker for which Open
// refuses the replica: its state is not to be trusted. Proposals fail with
// ErrClosed from then on; everything that only reads goes on. Raft is stopped
// even if the marker could not be written, which is the error. It waits for the
// StateMachine, so it must not be called from there, nor from LeaderChanged.
func (g *Group) Fence(reason string) error {
	g.restarting.Lock()
	defer g.restarting.Unlock()
	if g.ctx.Err() != nil {
		return ErrClosed
	}
	if g.fenced.Load() != nil {
		return nil
	}
	reason = cutReason(reason)
	g.fenced.Store(&reason)
	err := vfs.WriteFile(g.cfg.FS, filepath.Join(g.cfg.Dir, fenceFile), func(w io.Writer) error {
		_, err := io.WriteString(w, reason+"\n")
		return err
	})
	if err = errors.Join(err, g.stop()); err != nil {
		err = fmt.Errorf("fence group %d: %w", g.cfg.ID, err)
	}
	g.forgetLeader()
	return err
}

func cutReason(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	for len(s) > maxReason {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// forgetLeader says that no leader is known. No role is followed any more.
func (g *Group) forgetLeader() {
	old := g.leader.Load()
	if old.node == "" {
		return
	}
	g.leader.Store(&leadership{term: old.term})
	if g.cfg.LeaderChanged != nil {
		g.cfg.LeaderChanged("", old.term)
	}
}

func (g *Group) fencedFor() string {
	if reason := g.fenced.Load(); reason != nil {
		return *reason
	}
	return ""
}

// checkFence returns a *FencedError if the replica in dir was fenced.
func checkFence(fsys vfs.FS, dir string) error {
	path := filepath.Join(dir, fenceFile)
	reason, err := vfs.ReadFile(fsys, path, 2*maxReason)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &FencedError{Path: path, Reason: noReadable}
	}
	return &FencedError{Path: path, Reason: strings.TrimSpace(string(reason))}
}
