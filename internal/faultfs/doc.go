// Package faultfs is a file system for tests of real processes that knows what
// a power cut would leave. It is mounted with FUSE and holds everything in
// memory:
//
//	write, create, rename, …  what processes see
//	fsync, fdatasync of a file       its bytes and its size become durable
//	fsync of a directory             its names become durable: what was created,
//	                                 renamed and removed in it
//	Cut                              the power fails: everything answers EIO
//	Restore                          mounted anew with what was durable, and if
//	                                 asked with a seeded random part of the rest
//
// What is not synced may survive in part, as on a disk: each sector of a file by
// itself, in any version that it had since the last fsync; each operation on
// names by itself. A rename is one operation, and is durable once either of its
// directories is synced. Modes and times are not kept apart; they take effect
// at once. Locks (flock) are the kernel's and end with the mount.
//
// Beside that it makes faults, each of which counts how often it took effect:
// operations that stall or fail (Inject), a full disk (SetFree), an fsync that
// lies (SetLying), and bits that flip (Flip).
//
// # Caches
//
// A process that reads after Restore must not get what a cache still has from
// before the cut. The caches of the kernel belong to a mount and go with it, and
// Restore makes a new one. While mounted, names and attributes are not cached at
// all (timeouts of zero). Bytes of files are: a file mapped into memory must show
// what write has written, as bbolt needs it, and that works through the page
// cache alone, so files are not opened for direct I/O. Writes go through the
// cache at once (no write-back), so that nothing is written which this package
// has not seen. Opening a file empties its pages (no FOPEN_KEEP_CACHE), and Flip
// has the kernel drop the page that it changes.
//
// # Use
//
// Linux, root (CAP_SYS_ADMIN), /dev/fuse, sh and umount are needed. The process
// that mounts serves the requests, so it must not map a file of its own mount
// into memory, and must not start a process while it has such a file open: the
// runtime can then wait for an answer that it keeps itself from giving. Mounts
// of a process that dies without Close are taken away nonetheless.
package faultfs
