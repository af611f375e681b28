// Package crashfs is a file system in memory that remembers every operation,
// and can show what a power cut may have left of them.
//
//	disk := crashfs.New()
//	...                                  // run the code under test on it
//	for crash := range disk.Crashes(crashfs.Explore{}) {
//		after := crash.FS()              // open it again and look
//	}
//
// A cut may come after any number of operations. What a Sync or a SyncDir
// covered is there. Of the rest anything may be missing, in any order:
//
//   - each sector (512 bytes) of a write is the old one or the new one, on its own;
//   - a file's new size is there or not, apart from its bytes; bytes of a
//     lengthened file that were lost are zeros; a shortening happens whole or not;
//   - each creation, renaming and removal of a name happened or did not. One
//     renaming is never half done, and a file never has two names.
//
// This is more than one real file system does: ext4, for one, keeps the order
// of operations on names, and syncs a new file's name with the file. A program
// that stands this does not depend on which file system it has.
//
// Two things are durable at once, to keep the package small: directories, as
// vfs.FS.MkdirAll promises, and whatever the file system started with.
//
// A process that is killed is another matter: nothing it did is lost, but what
// was not synced can still be lost later. [FS.Killed] gives such a file system.
package crashfs
