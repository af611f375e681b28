package partition

import (
	"encoding/binary"
	"math/bits"
)

// bundle is some publishes of one Publisher on their way into an entry: with
// consecutive counters, to one room, under one name.
type bundle struct {
	from    *Publisher
	counter Counter // of the first
	count   int
	floor   Counter // the highest that was told
	name    []byte
	room    []byte
	records []byte // as they stand in a block whose first publisher it is
}

// appendBlockRecord appends a record of the block's first publisher.
func appendBlockRecord(dst, payload []byte) []byte { return appendText(append(dst, 0), payload) }

// blockRecordSize is how many bytes appendBlockRecord appends.
func blockRecordSize(payload []byte) int {
	return 1 + (bits.Len(uint(len(payload)|1))+6)/7 + len(payload)
}

// packer builds publish entries. It keeps its scratch memory between entries
// and belongs to one goroutine.
type packer struct {
	sessionOf map[*Publisher]int
	sessions  []sessionRef
	lowest    []Counter // per session the lowest counter in the entry
	counts    []int     // per session how many publishes are its own
	blockOf   map[string]int
	blocks    []packedBlock
	runs      []run
	links     []int // per bundle the next one of its block, -1 at the end
	places    []int // per bundle its name's place in the block's table
}

type packedBlock struct {
	first, last int // bundles
	count       int
	names       [][]byte
	size        int
}

// pack encodes bundles, which are in the order of arrival. The sessions in the
// entry stand in the order in which their publishers first appear.
func (p *packer) pack(now int64, items []item) (data []byte, publishers []*Publisher) {
	p.group(items)
	size := 64 + len(p.sessions)*26 + len(p.runs)*16
	for _, b := range p.blocks {
		size += b.size
	}
	dst := appendHead(make([]byte, 0, size), kindPublish, now)
	dst = binary.AppendUvarint(dst, uint64(len(p.sessions)))
	for _, s := range p.sessions {
		dst = append(dst, s.id[:]...)
		dst = binary.AppendUvarint(dst, uint64(s.floor))
	}
	dst = binary.AppendUvarint(dst, uint64(len(p.runs)))
	for _, r := range p.runs {
		dst = binary.AppendUvarint(dst, uint64(r.session))
		dst = binary.AppendUvarint(dst, uint64(r.block))
		dst = binary.AppendUvarint(dst, uint64(r.counter))
		dst = binary.AppendUvarint(dst, uint64(r.count))
	}
	dst = binary.AppendUvarint(dst, uint64(len(p.blocks)))
	for i := range p.blocks {
		dst = p.appendBlock(dst, &p.blocks[i], items)
	}
	publishers = make([]*Publisher, len(p.sessions))
	for pub, i := range p.sessionOf {
		publishers[i] = pub
	}
	return dst, publishers
}

// group finds the entry's sessions, blocks and runs.
func (p *packer) group(items []item) {
	if p.sessionOf == nil {
		p.sessionOf, p.blockOf = map[*Publisher]int{}, map[string]int{}
	}
	clear(p.sessionOf)
	clear(p.blockOf)
	p.sessions, p.blocks, p.runs = p.sessions[:0], p.blocks[:0], p.runs[:0]
	p.links, p.places, p.lowest, p.counts = p.links[:0], p.places[:0], p.lowest[:0], p.counts[:0]
	for i := range items {
		m := &items[i].bundle
		s, b := p.session(m), p.block(i, m)
		if n := len(p.runs); n > 0 && p.runs[n-1].session == s && p.runs[n-1].block == b &&
			p.runs[n-1].counter+Counter(p.runs[n-1].count) == m.counter {
			p.runs[n-1].count += m.count
		} else {
			p.runs = append(p.runs, run{s, b, m.counter, m.count})
		}
	}
	// The floor holds for the whole entry: it must not pass a retry that stands
	// before the message that told it.
	for i, counter := range p.lowest {
		p.sessions[i].floor = min(p.sessions[i].floor, counter)
	}
}

func (p *packer) session(m *bundle) int {
	s, ok := p.sessionOf[m.from]
	if !ok {
		s = len(p.sessions)
		p.sessionOf[m.from] = s
		p.sessions = append(p.sessions, sessionRef{id: m.from.session})
		p.lowest = append(p.lowest, m.counter)
		p.counts = append(p.counts, 0)
	}
	p.sessions[s].floor = max(p.sessions[s].floor, m.floor)
	p.lowest[s] = min(p.lowest[s], m.counter)
	p.counts[s] += m.count
	return s
}

// block finds the block of bundle i and links it in.
func (p *packer) block(i int, m *bundle) int {
	at, ok := p.blockOf[string(m.room)]
	if !ok {
		at = len(p.blocks)
		p.blockOf[string(m.room)] = at
		p.blocks = append(p.blocks, packedBlock{first: i, last: -1, size: len(m.room) + 32})
	}
	b := &p.blocks[at]
	p.links = append(p.links, -1)
	if b.last >= 0 {
		p.links[b.last] = i
	}
	b.last = i
	b.count += m.count
	place := b.place(m.name)
	b.size += len(m.records)
	if place >= 0x80 {
		b.size += 2 * m.count
	}
	p.places = append(p.places, place)
	return at
}

// forget lets go of the last entry's bundles and publishers.
func (p *packer) forget() {
	clear(p.sessionOf)
	clear(p.blockOf)
	clear(p.blocks)
}

// nameSearch bounds how far back in a block's table a name is looked for; with
// more publishers than that taking turns, a name may stand there twice.
const nameSearch = 16

// place returns a name's place in the block's table, after adding it if need be.
func (b *packedBlock) place(name []byte) int {
	for i := len(b.names) - 1; i >= max(0, len(b.names)-nameSearch); i-- {
		if string(b.names[i]) == string(name) {
			return i
		}
	}
	b.names = append(b.names, name)
	b.size += len(name) + 2
	return len(b.names) - 1
}

func (p *packer) appendBlock(dst []byte, b *packedBlock, items []item) []byte {
	dst = appendText(dst, items[b.first].room)
	// The block's length goes before it: leave room for three bytes (2 MiB) and
	// write the number padded to them, which a uvarint allows.
	at := len(dst)
	dst = append(dst, 0x80, 0x80, 0)
	dst = binary.AppendUvarint(dst, uint64(b.count))
	dst = binary.AppendUvarint(dst, uint64(len(b.names)))
	for _, name := range b.names {
		dst = appendText(dst, name)
	}
	for i := b.first; i >= 0; i = p.links[i] {
		dst = appendRecords(dst, items[i].records, p.places[i])
	}
	n := len(dst) - at - 3
	dst[at] |= byte(n & 0x7f)
	dst[at+1] |= byte(n >> 7 & 0x7f)
	dst[at+2] = byte(n >> 14)
	return dst
}

// appendRecords appends a bundle's records as those of the publisher at place.
func appendRecords(dst, records []byte, place int) []byte {
	if place == 0 {
		return append(dst, records...)
	}
	for len(records) > 0 {
		n, width := binary.Uvarint(records[1:])
		end := 1 + width + int(n)
		dst = binary.AppendUvarint(dst, uint64(place))
		dst = append(dst, records[1:end]...)
		records = records[end:]
	}
	return dst
}
