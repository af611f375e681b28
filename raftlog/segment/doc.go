// Package segment keeps a Raft log in files of fixed size, written once and
// synced once per StoreLogs.
//
// What a caller may rely on:
//
//   - Entries whose StoreLogs returned are there after a crash, byte for byte, and
//     nothing that was cut, dropped or of a file's earlier life comes back.
//   - Of a StoreLogs that did not return, a crash leaves the first entries or none.
//   - Bytes that are not what was written are a *DamageError, at Open, at a
//     read, or from Verify; they are never handed out.
//   - After a failed write or sync nothing is written any more.
//
// One goroutine at a time writes (StoreLogs, DeleteRange, Reset, Close); readers
// and DropThrough may run beside it.
//
// # Files
//
// A log is a folder. Integers are little endian, checksums are CRC32C.
//
//	NUMBER.seg   a segment; 20 digits, the index of its first entry
//	NUMBER.idx   where the entries of a sealed segment lie
//	NUMBER.free  a dropped segment, to be used again
//	CLEAN        how the log ended when it was last closed
//	INTENT       a cut or a reset that is under way
//
// A segment begins with a page of 4096 bytes, and records follow:
//
//	 0  magic     "RLSG"
//	 4  version   u16, 1
//	 6  flags     u16, bit 0: the file had an earlier life
//	 8  group     u32
//	12  chain     u32, checksum of the record before the first; 0 if there is none
//	16  salt      u64, random
//	24  first     u64, index of the first entry
//	32  term      u64, of the entry before the first: the boundary record
//	40  checksum  u32, of bytes 0 to 39
//	44  zeros
//
// A record is padded with zeros to a multiple of 8 bytes:
//
//	 0  length    u32, of extensions and data
//	 4  checksum  u32, of the salt, bytes 0 to 3, and all from byte 8 on
//	 8  chain     u32, checksum of the record before, also across segments
//	12  batch     u32, how many records of its StoreLogs stand before it
//	16  index     u64
//	24  term      u64
//	32  appended  i64, ns since 1970 UTC; the least value for a zero time
//	40  type      u8, Raft's
//	41  guard     u24, low bits of the checksum of the salt and the head, without
//	              bytes 4 to 7 and 41 to 43
//	44  ext       u32, length of the extensions
//	48  extensions, data
//
// The salt keeps records of a file's earlier life from ever being read; the
// chain keeps a segment from being exchanged for an older copy of itself.
//
// An index file:
//
//	 0  magic     "RLSX"
//	 4  version   u16, 1; u16 zero
//	 8  group     u32
//	12  count     u32, of records
//	16  first     u64
//	24  salt      u64, its segment's
//	32  term      u64, of the last record
//	40  end       u64, offset behind the last record
//	48  chain     u32, checksum of the last record; u32 zero
//	56  offsets   u32 each
//	 …  checksum  u32, of all before
//
// CLEAN and INTENT:
//
//	 0  magic     "RLSC" or "RLSI"
//	 4  version   u16, 1
//	 6  kind      u16; INTENT: 1 cut, 2 reset
//	 8  group     u32
//	12  chain     u32; CLEAN: checksum of the last record
//	16  index     u64; CLEAN: of the last entry; cut: the first to go; reset: the snapshot's
//	24  number    u64; CLEAN: offset behind the last record; reset: the snapshot's term
//	32  checksum  u32
//
// # Crashes
//
// A segment is zero-filled ahead, so that a record changes bytes and not the
// file's size; a large StoreLogs that goes beyond what is filled makes the file
// longer by itself. Zeros and size need no sync of their own: the sync of the
// record that made them necessary covers both, and zeros are no record.
//
//	crash while…             what Open finds, and does
//	appending                a first bad record in the last segment: it and what lies behind are cut.
//	                         Sectors of one write reach the disk in any order, so good records of the
//	                         same StoreLogs may lie behind it. One of a later StoreLogs cannot: its write
//	                         began when the bad one was synced. That is damage.
//	making a segment         header synced under another name, renamed, directory synced, and only then
//	                         written to: the file is whole or not there
//	sealing                  the index file is written when the next segment is there; if it is missing
//	                         or bad it is made again. An index file without a next segment is damage: a
//	                         segment was lost
//	cutting a suffix         INTENT is durable before anything is changed and goes last; Open does the
//	                         cut again
//	resetting                the same
//	dropping                 oldest first, the directory synced after each: a shorter log
//	using a file again       a new header with a new salt is synced before the file gets its new name
//	closing                  CLEAN is there whole or not. It goes, durably, before the first write; a log
//	                         that does not end as CLEAN says is damage
package segment
