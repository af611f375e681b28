//go:build linux

package faultfs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Open of a file needs no handle. The answer has no flags: the kernel caches the
// file's bytes while it is open, and drops what it had from before.
func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	op := Op(0)
	if in.Flags&syscall.O_TRUNC != 0 {
		op = Writes
	}
	nodes, status := s.begin(op, "", in.NodeId)
	if !status.Ok() {
		return status
	}
	defer s.end()
	if op != 0 {
		s.fs.tree.truncate(nodes[0], 0)
	}
	return fuse.OK
}

func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	nodes, status := s.begin(Reads, "", in.NodeId)
	if !status.Ok() {
		return nil, status
	}
	defer s.end()
	s.fs.stats.Reads++
	n := nodes[0].file.now.read(buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	nodes, status := s.begin(Writes, "", in.NodeId)
	if !status.Ok() {
		return 0, status
	}
	defer s.end()
	s.fs.stats.Writes++
	e := s.fs.tree.write(nodes[0], data, int64(in.Offset))
	if e != 0 {
		s.fs.stats.Full++
		return 0, errno(e)
	}
	return uint32(len(data)), fuse.OK
}

// Flush comes with each close.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (s *server) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	nodes, status := s.begin(Syncs, "", in.NodeId)
	if !status.Ok() {
		return status
	}
	defer s.end()
	f := s.fs
	f.stats.Syncs++
	if f.lying {
		f.stats.Lied++
		return fuse.OK
	}
	nodes[0].file.sync()
	if f.opts.NamesWithFile {
		f.tree.syncNames()
	}
	return fuse.OK
}

func (s *server) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	nodes, status := s.begin(DirSyncs, "", in.NodeId)
	if !status.Ok() {
		return status
	}
	defer s.end()
	f := s.fs
	f.stats.DirSyncs++
	if f.lying {
		f.stats.Lied++
		return fuse.OK
	}
	f.tree.syncDir(nodes[0])
	return fuse.OK
}
