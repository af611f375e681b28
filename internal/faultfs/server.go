//go:build linux

package faultfs

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server answers the kernel for one mount of an FS.
type server struct {
	fuse.RawFileSystem // ENOSYS for what is not here
	fs                 *FS

	// Guarded by fs.mu: what the kernel has a number for.
	known   map[uint64]*node
	lookups map[uint64]uint64

	dirs struct {
		sync.Mutex
		last uint64
		open map[uint64][]fuse.DirEntry // by handle, as it was when reading began
	}
}

func newServer(f *FS) *server {
	s := &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: f,
		known: map[uint64]*node{fuse.FUSE_ROOT_ID: f.tree.root}, lookups: map[uint64]uint64{},
	}
	s.dirs.open = map[uint64][]fuse.DirEntry{}
	return s
}

func (s *server) String() string { return "faultfs" }

// begin finds the nodes and lets faults have their way. If status is OK the
// caller holds fs.mu and must unlock it. name is the one that the operation is
// about within the first node, if any.
func (s *server) begin(op Op, name string, ids ...uint64) (nodes [2]*node, status fuse.Status) {
	f := s.fs
	f.mu.Lock()
	for i, id := range ids {
		if nodes[i] = s.known[id]; nodes[i] == nil {
			f.mu.Unlock()
			return nodes, fuse.Status(syscall.ESTALE)
		}
	}
	if op != 0 && !f.isCut && !f.faults.none() {
		if errno := f.suffer(op, nodes[0], name); errno != 0 {
			f.mu.Unlock()
			return nodes, fuse.Status(errno)
		}
	}
	if f.isCut {
		f.mu.Unlock()
		return nodes, fuse.EIO
	}
	return nodes, fuse.OK
}

// suffer applies faults to an operation. It needs mu, and lets it go while it stalls.
func (f *FS) suffer(op Op, n *node, name string) syscall.Errno {
	path := n.path()
	if name != "" {
		path += "/" + name
		if n.parent == nil {
			path = name
		}
	}
	for _, i := range f.faults.meet(op, path) {
		if i.Stall > 0 {
			cut := f.cutNow
			f.mu.Unlock()
			i.wait(cut)
			f.mu.Lock()
		}
		if i.Err != 0 {
			if op == Syncs && !f.isCut {
				n.file.forget()
			}
			return i.Err
		}
	}
	return 0
}

func (s *server) end() { s.fs.mu.Unlock() }

// entry hands a node to the kernel, which keeps its number until it forgets it.
func (s *server) entry(n *node, out *fuse.EntryOut) {
	s.known[n.id] = n
	s.lookups[n.id]++
	out.NodeId = n.id
	out.Generation = 1
	attributes(n, &out.Attr) // with timeouts of 0
}

func attributes(n *node, out *fuse.Attr) {
	out.Ino = n.id
	out.Mode = n.mode
	out.Nlink = 1
	if !n.linked {
		out.Nlink = 0
	}
	out.Blksize = blockSize
	out.SetTimes(nil, &n.mtime, &n.mtime)
	out.Uid, out.Gid = owner.Uid, owner.Gid
	if n.file != nil {
		out.Size = uint64(n.file.now.size)
		out.Blocks = uint64(len(n.file.now.blocks)) * (blockSize / 512)
	}
}

func (s *server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	nodes, status := s.begin(0, "", in.NodeId)
	if !status.Ok() {
		return status
	}
	defer s.end()
	child := nodes[0].names[name]
	if child == nil {
		return fuse.ENOENT
	}
	s.entry(child, out)
	return fuse.OK
}

func (s *server) Forget(id, n uint64) {
	s.fs.mu.Lock()
	defer s.fs.mu.Unlock()
	if s.lookups[id] -= min(n, s.lookups[id]); s.lookups[id] == 0 && id != fuse.FUSE_ROOT_ID {
		delete(s.lookups, id)
		delete(s.known, id)
	}
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	nodes, status := s.begin(0, "", in.NodeId)
	if !status.Ok() {
		return status
	}
	defer s.end()
	attributes(nodes[0], &out.Attr)
	return fuse.OK
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	size, truncates := in.GetSize()
	op := Op(0)
	if truncates {
		op = Writes
	}
	nodes, status := s.begin(op, "", in.NodeId)
	if !status.Ok() {
		return status
	}
	defer s.end()
	n := nodes[0]
	if truncates {
		if n.isDir() {
			return fuse.EISDIR
		}
		s.fs.tree.truncate(n, int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&0o7777
	}
	if mtime, ok := in.GetMTime(); ok {
		n.mtime = mtime
	}
	attributes(n, &out.Attr)
	return fuse.OK
}

func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

func (s *server) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	_, status := s.begin(0, "")
	if !status.Ok() {
		return status
	}
	defer s.end()
	t := s.fs.tree
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks = uint64(max(t.capacity, t.used)) / blockSize
	out.Bfree = uint64(s.fs.free()) / blockSize
	out.Bavail = out.Bfree
	out.Files, out.Ffree = 1<<20, 1<<20
	return fuse.OK
}

var owner = fuse.CurrentOwner()
