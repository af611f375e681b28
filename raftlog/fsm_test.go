package raftlog

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// lazyMachine restores from the first byte.
type lazyMachine struct{ restored []Index }

func (m *lazyMachine) Apply(entries []Entry) []any { return make([]any, len(entries)) }
func (m *lazyMachine) Restore(index Index, r io.Reader) error {
	m.restored = append(m.restored, index)
	_, err := io.ReadFull(r, make([]byte, 1))
	return err
}

func TestFSMRestore(t *testing.T) {
	m := &lazyMachine{}
	var told error
	f := &fsm{machine: m, group: 7, failed: func(err error) { told = err }, watch: &stopwatch{}, committed: func() uint64 { return 0 }}
	f.applied.Store(4000)
	stream := snapshotBytes(t, testHead(), []byte("some state"))
	restore := func(b []byte) error { return f.Restore(io.NopCloser(bytes.NewReader(b))) }

	// The machine does not read far enough to notice.
	if err := restore(changed(stream, len(stream)-20)); err == nil || told != err || f.applied.Load() != 4000 {
		t.Errorf("damage gives %v, told was %v, applied is %d", err, told, f.applied.Load())
	}
	if err := restore(stream); err != nil || f.applied.Load() != 4711 || len(m.restored) != 2 {
		t.Errorf("%v, applied is %d, restored from %d", err, f.applied.Load(), m.restored)
	}
	if conf, ok := f.confBy(4711); !ok || conf.index != 99 || len(conf.conf.Servers) != 3 {
		t.Errorf("its configuration is %+v", conf)
	}
	if _, ok := f.confBy(98); ok {
		t.Error("an older configuration is known")
	}
	if err := restore(stream); err != nil || len(m.restored) != 2 {
		t.Errorf("again: %v, restored from %d", err, m.restored)
	}
}

func TestConfigurationsByIndex(t *testing.T) {
	f := &fsm{machine: &lazyMachine{}, watch: &stopwatch{}, committed: func() uint64 { return 0 }}
	conf := func(id string) []byte {
		return raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: "a"}}})
	}
	logs := []*raft.Log{
		{Index: 1, Type: raft.LogConfiguration, Data: conf("a")},
		{Index: 2, Data: []byte("x")},
		{Index: 3, Type: raft.LogConfiguration, Data: conf("b")},
		{Index: 4, Type: raft.LogConfiguration, Data: conf("c")},
	}
	f.ApplyBatch(logs)
	f.ApplyBatch(logs) // raft was restarted
	want := func(expected string) {
		t.Helper()
		var got strings.Builder
		for i := range uint64(7) {
			if c, ok := f.confBy(i); ok {
				got.WriteString(string(c.conf.Servers[0].ID))
			} else {
				got.WriteString("-")
			}
		}
		if got.String() != expected {
			t.Errorf("the configurations are %s, want %s", &got, expected)
		}
	}
	want("-aabccc")
	f.forgetConfs(2)
	want("-aabccc")
	f.forgetConfs(3)
	want("---bccc")
	f.forgetConfs(100)
	want("----ccc")
	if len(f.confs) != 1 {
		t.Errorf("%d are kept", len(f.confs))
	}
}

// With checksums that are right.
func TestSnapshotStreamThatLies(t *testing.T) {
	head := testHead()
	sealed := func(change func(b []byte) []byte) []byte {
		b := change(snapshotBytes(t, head, []byte("state")))
		n := int(snapshotFixed + binary.LittleEndian.Uint32(b[12:]))
		binary.LittleEndian.PutUint32(b[n:], crc32.Checksum(b[:n], castagnoli))
		binary.LittleEndian.PutUint32(b[len(b)-8:], crc32.Checksum(b[:len(b)-8], castagnoli))
		return b
	}
	if _, err := readStream(sealed(func(b []byte) []byte { return b })); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte){
		"version 2":                      func(b []byte) { b[4] = 2 },
		"5 bytes, not 6":                 func(b []byte) { b[len(b)-16]++ },
		"index 0":                        func(b []byte) { clear(b[16:24]) },
		"term 0":                         func(b []byte) { clear(b[24:32]) },
		"cannot be":                      func(b []byte) { b[6] = 1 },
		"configuration index 4712":       func(b []byte) { binary.LittleEndian.PutUint64(b[32:], 4712) },
		"suffrage 9":                     func(b []byte) { b[42] = 9 },
		"its configuration ends early":   func(b []byte) { b[40]++ },
		"bytes too many":                 func(b []byte) { b[40]-- },
		"its configuration has 67108864": func(b []byte) {},
	} {
		stream := sealed(func(b []byte) []byte { change(b); return b })
		if strings.HasPrefix(name, "its configuration has") {
			binary.LittleEndian.PutUint32(stream[12:], 64<<20)
		}
		if _, err := readStream(stream); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q is not in: %v", name, err)
		}
	}
}
