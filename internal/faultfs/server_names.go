//go:build linux

package faultfs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func errno(e syscall.Errno) fuse.Status { return fuse.Status(e) }

// snapshot lists a directory; the handle reads it in pieces.
func snapshot(n *node) []fuse.DirEntry {
	list := make([]fuse.DirEntry, 0, len(n.names))
	for name, child := range n.names {
		list = append(list, fuse.DirEntry{Name: name, Ino: child.id, Mode: child.mode})
	}
	return list
}

func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.dirs.Lock()
	defer s.dirs.Unlock()
	s.dirs.last++
	out.Fh = s.dirs.last
	return fuse.OK
}

func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.dirs.Lock()
	list, begun := s.dirs.open[in.Fh]
	s.dirs.Unlock()
	if in.Offset == 0 || !begun {
		nodes, status := s.begin(0, "", in.NodeId)
		if !status.Ok() {
			return status
		}
		list = snapshot(nodes[0])
		s.end()
		s.dirs.Lock()
		s.dirs.open[in.Fh] = list
		s.dirs.Unlock()
	}
	for i := in.Offset; i < uint64(len(list)); i++ {
		e := list[i]
		e.Off = i + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (s *server) ReleaseDir(in *fuse.ReleaseIn) {
	s.dirs.Lock()
	defer s.dirs.Unlock()
	delete(s.dirs.open, in.Fh)
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, syscall.S_IFDIR|in.Mode&0o7777, out)
}

func (s *server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.EPERM
	}
	return s.make(in.NodeId, name, in.Mode, out)
}

// Create makes a file that does not exist: the kernel has looked, and mounts
// have no other clients.
func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return s.make(in.NodeId, name, syscall.S_IFREG|in.Mode&0o7777, &out.EntryOut)
}

func (s *server) make(dir uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	nodes, status := s.begin(Names, name, dir)
	if !status.Ok() {
		return status
	}
	defer s.end()
	n, e := s.fs.tree.create(nodes[0], name, mode)
	if e == 0 {
		s.entry(n, out)
	}
	return errno(e)
}

func (s *server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, false)
}

func (s *server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, true)
}

func (s *server) remove(dir uint64, name string, wantDir bool) fuse.Status {
	nodes, status := s.begin(Names, name, dir)
	if !status.Ok() {
		return status
	}
	defer s.end()
	return errno(s.fs.tree.remove(nodes[0], name, wantDir))
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	const noReplace = 1
	if in.Flags&^noReplace != 0 {
		return fuse.EINVAL
	}
	nodes, status := s.begin(Names, from, in.NodeId, in.Newdir)
	if !status.Ok() {
		return status
	}
	defer s.end()
	return errno(s.fs.tree.rename(nodes[0], from, nodes[1], to, in.Flags&noReplace == 0))
}
