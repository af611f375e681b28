package wire

import (
	"fmt"
	"testing"
)

// loop is a stream without end.
type loop struct {
	frame []byte
	at    int
}

func (l *loop) Read(b []byte) (n int, err error) {
	for n < len(b) {
		c := copy(b[n:], l.frame[l.at:])
		n, l.at = n+c, (l.at+c)%len(l.frame)
	}
	return n, nil
}

// TestNoAllocations: on the way of a message nothing is allocated anew.
func TestNoAllocations(t *testing.T) {
	payload := make([]byte, 256)
	publish := AppendPublish(nil, 1000, 3, "anna", "match/2024/final", payload)
	room := []byte("a room with a name of more than thirty-two bytes")
	acks := &Acks{Partition: 3, Time: 1, Runs: []AckRun{{1, 1, 1}, {2, 2, 2}}}
	acksBody := acks.appendBody(nil)
	var records []rec
	for range 50 {
		records = append(records, rec{0, string(payload)})
	}
	deliver := &Deliver{First: 1, Skip: 1, Dropped: []uint32{5, 7}, Block: makeBlock([]string{"anna", "ben", "eve"}, records...)}
	deliverBody := deliver.appendBody(nil)

	var buf []byte
	var gotAcks Acks
	var gotDeliver Deliver
	seen := 0
	count := func(Record) bool { seen++; return true }
	in := NewReader(&loop{frame: publish}, MaxPublishFrame)
	check := func(name string, f func() error) {
		t.Helper()
		var err error
		if n := testing.AllocsPerRun(100, func() { err = f() }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, %v, want none", name, n, err)
		}
	}
	check("AppendPublish", func() error {
		buf = AppendPublish(buf[:0], 1000, 3, "anna", "match/2024/final", payload)
		return nil
	})
	check("Reader.Next and ParsePublish", func() error {
		for range 1000 {
			_, body, err := in.Next()
			if err != nil {
				return err
			}
			if m, err := ParsePublish(body); err != nil || len(m.Payload) != len(payload) {
				return fmt.Errorf("%+v: %w", m, err)
			}
		}
		return nil
	})
	check("CheckRoom", func() error { return CheckRoom(room) })
	check("CheckName", func() error { return CheckName(room[:30]) })
	check("PartitionOf", func() error { PartitionOf(room, 16); return nil })
	check("Append Acks", func() error { buf = Append(buf[:0], acks); return nil })
	check("ParseAcks", func() error { return ParseAcks(acksBody, &gotAcks) })
	check("AppendDeliverHead", func() error { buf = AppendDeliverHead(buf[:0], deliver); return nil })
	check("ParseDeliver and Records", func() error {
		if err := ParseDeliver(deliverBody, &gotDeliver); err != nil {
			return err
		}
		return gotDeliver.Records(count)
	})
	if seen == 0 || len(gotAcks.Runs) != 2 {
		t.Errorf("%d records, %d runs", seen, len(gotAcks.Runs))
	}
}

var sizes = []int{64, 1 << 10, 16 << 10}

func BenchmarkAppendPublish(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			payload := make([]byte, size)
			var buf []byte
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendPublish(buf[:0], 1000, 3, "anna", "lobby", payload)
			}
		})
	}
}

// BenchmarkReadPublish takes publishes from a stream, checks and places them.
func BenchmarkReadPublish(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			in := NewReader(&loop{frame: AppendPublish(nil, 1000, 3, "anna", "lobby", make([]byte, size))}, MaxPublishFrame)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				_, body, err := in.Next()
				if err != nil {
					b.Fatal(err)
				}
				m, err := ParsePublish(body)
				if err != nil || CheckRoom(m.Room) != nil || PartitionOf(m.Room, 16) > 15 {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRecords reads a block of 64 messages of 8 publishers.
func BenchmarkRecords(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			var names []string
			var records []rec
			for i := range 64 {
				if i < 8 {
					names = append(names, fmt.Sprintf("publisher-%d", i))
				}
				records = append(records, rec{uint64(i % 8), string(make([]byte, size))})
			}
			d := Deliver{First: 1, Block: makeBlock(names, records...)}
			sum := 0
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Records(func(r Record) bool { sum += len(r.Payload); return true }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
