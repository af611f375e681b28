package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
)

// boltValue finds the one value of a StableStore's file, whose bytes are data,
// and where in data it begins. It does not use bolt, because bolt trusts what
// lies in its pages: with one bit changed it may read an older value that has
// not been overwritten yet, see no value at all, or end the process. And of two
// meta pages it takes the older one if the newer one is damaged, without a word:
// the last vote would be rolled back.
//
// It can be strict, for there is one writer and one shape (bbolt v1.4.3, file
// format 2, numbers in the machine's byte order, P the page size):
//
//	page 0, 1   meta: 16 bytes of page header, then magic, version, P, flags u32,
//	            root page, sequence, freelist page, pages in use, transaction u64,
//	            FNV-1a of the 56 bytes before. Transaction n writes page n mod 2
//	root page   a leaf with the buckets "conf" and "logs"; "logs" is empty
//	conf        a leaf with the one value, in a page of its own or in the root's
//	freelist    the numbers of all pages not named here
//
//	page header  number u64, kind, elements u16, pages that it goes on over u32
//	leaf         page header, per element 16 bytes: kind, distance to its key,
//	             length of key, of value u32; then the keys and values, close together
//	bucket       as an element's value: root page, sequence u64; if the root page
//	             is 0 its leaf follows
//
// Every field is checked, every page must have exactly one use, and both meta
// pages must be whole and one transaction apart. A crash leaves both whole: what
// bolt writes of one fits in a disk sector, and the other was synced before.
func boltValue(path string, data []byte, key string) (value []byte, offset int64, err error) {
	f := &boltFile{path: path, data: data, used: map[uint64]bool{}}
	m, err := f.newestMeta()
	if err != nil {
		return nil, 0, err
	}
	if f.pages = m.pages; f.pages > uint64(len(data)/f.pageSize) {
		return nil, 0, f.damage(0, "the file has %d bytes and should have %d pages", len(data), f.pages)
	}
	root, err := f.leafPage(m.root)
	if err != nil {
		return nil, 0, err
	}
	if len(root) != 2 || root[0].key != "conf" || root[1].key != "logs" || root[0].kind != boltBucket || root[1].kind != boltBucket {
		return nil, 0, f.damage(f.at(m.root), "not the buckets of a stable store")
	}
	conf, err := f.bucket(root[0])
	if err != nil {
		return nil, 0, err
	}
	logs, err := f.bucket(root[1])
	if err != nil {
		return nil, 0, err
	}
	if len(conf) != 1 || conf[0].key != key || conf[0].kind != 0 || len(logs) > 0 {
		return nil, 0, f.damage(f.at(m.root), "not the contents of a stable store")
	}
	if err := f.freePages(m.freelist); err != nil {
		return nil, 0, err
	}
	if uint64(len(f.used)) != f.pages-2 {
		return nil, 0, f.damage(0, "only %d of %d pages are used or free", len(f.used), f.pages-2)
	}
	return data[conf[0].from:conf[0].to], int64(conf[0].from), nil
}

const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	boltHeader   = 16 // of a page, an element, a bucket
	boltMetaSize = 64
	boltLeaf     = 0x02
	boltMetaKind = 0x04
	boltFreelist = 0x10
	boltBucket   = 1 // an element's kind
)

type boltFile struct {
	path     string
	data     []byte
	pageSize int
	pages    uint64          // in use or free
	used     map[uint64]bool // by number, beside the meta pages
}

// boltElement is a key of a leaf, and where its value lies.
type boltElement struct {
	kind     uint32
	key      string
	from, to int
}

type boltMeta struct{ root, sequence, freelist, pages, transaction uint64 }

func (f *boltFile) damage(at int, format string, args ...any) error {
	return &DamageError{Path: f.path, Offset: int64(at), Reason: fmt.Sprintf(format, args...)}
}

func (f *boltFile) u16(at int) uint16    { return binary.NativeEndian.Uint16(f.data[at:]) }
func (f *boltFile) u32(at int) uint32    { return binary.NativeEndian.Uint32(f.data[at:]) }
func (f *boltFile) u64(at int) uint64    { return binary.NativeEndian.Uint64(f.data[at:]) }
func (f *boltFile) at(number uint64) int { return int(number) * f.pageSize }

func (f *boltFile) newestMeta() (boltMeta, error) {
	first, err := f.meta(0)
	if err != nil {
		return first, err
	}
	second, err := f.meta(f.pageSize)
	if err != nil {
		return second, err
	}
	switch {
	case first.transaction%2 != 0 || second.transaction%2 != 1:
		return first, f.damage(0, "the meta pages are of transactions %d and %d", first.transaction, second.transaction)
	case first.transaction == second.transaction+1:
		return first, nil
	case second.transaction == first.transaction+1:
		return second, nil
	}
	return first, f.damage(0, "a meta page is lost: transactions %d and %d", first.transaction, second.transaction)
}

// meta reads the meta page at an offset, and the page size from the first.
func (f *boltFile) meta(page int) (boltMeta, error) {
	at := page + boltHeader
	if len(f.data) < at+boltMetaSize {
		return boltMeta{}, f.damage(page, "the file is too short for a meta page")
	}
	sum := fnv.New64a()
	sum.Write(f.data[at : at+boltMetaSize-8])
	if f.u32(at) != boltMagic || f.u32(at+4) != boltVersion || f.u64(at+boltMetaSize-8) != sum.Sum64() {
		return boltMeta{}, f.damage(page, "the meta page is not what was written")
	}
	size := int(f.u32(at + 8))
	if size == 0 || f.u64(page) != uint64(page/size) || f.u16(page+8) != boltMetaKind || f.u16(page+10) != 0 || f.u32(page+12) != 0 {
		return boltMeta{}, f.damage(page, "not the head of a meta page")
	}
	if size < 1024 || bits.OnesCount(uint(size)) != 1 || page != 0 && size != page {
		return boltMeta{}, f.damage(page, "a page size of %d bytes", size)
	}
	f.pageSize = size
	return boltMeta{root: f.u64(at + 16), sequence: f.u64(at + 24), freelist: f.u64(at + 32), pages: f.u64(at + 40), transaction: f.u64(at + 48)}, nil
}

// page takes a page with all that it goes on over, and returns where it lies.
func (f *boltFile) page(number uint64, kind uint16) (from, to int, err error) {
	if number < 2 || number >= f.pages {
		return 0, 0, f.damage(0, "there is no page %d", number)
	}
	from = f.at(number)
	more := uint64(f.u32(from + 12))
	if f.u64(from) != number || f.u16(from+8) != kind || more >= f.pages-number {
		return 0, 0, f.damage(from, "not the head of page %d", number)
	}
	for n := number; n <= number+more; n++ {
		if err := f.use(n, from); err != nil {
			return 0, 0, err
		}
	}
	return from, f.at(number + more + 1), nil
}

func (f *boltFile) use(number uint64, at int) error {
	if number < 2 || number >= f.pages || f.used[number] {
		return f.damage(at, "page %d has two uses or is none", number)
	}
	f.used[number] = true
	return nil
}

func (f *boltFile) leafPage(number uint64) ([]boltElement, error) {
	from, to, err := f.page(number, boltLeaf)
	if err != nil {
		return nil, err
	}
	elements, _, err := f.elements(from, to)
	return elements, err
}

// elements reads the elements of the leaf between two offsets, and where they end.
func (f *boltFile) elements(from, to int) (elements []boltElement, end int, err error) {
	count := int(f.u16(from + 10))
	end = from + boltHeader*(1+count)
	if end > to {
		return nil, 0, f.damage(from, "a leaf of %d elements", count)
	}
	for i := range count {
		at := from + boltHeader*(1+i)
		distance, key, value := int(f.u32(at+4)), int(f.u32(at+8)), int(f.u32(at+12))
		if at+distance != end || key > to-end || value > to-end-key {
			return nil, 0, f.damage(at, "an element that does not lie behind the one before")
		}
		e := boltElement{kind: f.u32(at), key: string(f.data[end : end+key]), from: end + key, to: end + key + value}
		elements, end = append(elements, e), e.to
	}
	return elements, end, nil
}

func (f *boltFile) bucket(e boltElement) ([]boltElement, error) {
	size := e.to - e.from
	if size < boltHeader || f.u64(e.from+8) != 0 {
		return nil, f.damage(e.from, "not the head of a bucket")
	}
	if root := f.u64(e.from); root != 0 {
		if size != boltHeader {
			return nil, f.damage(e.from, "a bucket with %d bytes too many", size-boltHeader)
		}
		return f.leafPage(root)
	}
	inside := e.from + boltHeader
	if size < 2*boltHeader || f.u16(inside+8) != boltLeaf || f.u32(inside+12) != 0 {
		return nil, f.damage(inside, "not the head of a bucket's leaf")
	}
	elements, end, err := f.elements(inside, e.to)
	if err == nil && end != e.to {
		err = f.damage(inside, "a bucket with %d bytes too many", e.to-end)
	}
	return elements, err
}

func (f *boltFile) freePages(number uint64) error {
	from, to, err := f.page(number, boltFreelist)
	if err != nil {
		return err
	}
	count := int(f.u16(from + 10))
	if boltHeader+8*count > to-from {
		return f.damage(from, "a list of %d free pages", count)
	}
	for i := range count {
		at := from + boltHeader + 8*i
		if err := f.use(f.u64(at), at); err != nil {
			return err
		}
	}
	return nil
}
