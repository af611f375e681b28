package partition

import "sync/atomic"

// testCursor is a Cursor.
type testCursor struct {
	next atomic.Uint64
	name string
}

func cursorAt(next Seq, name string) *testCursor {
	c := &testCursor{name: name}
	c.next.Store(uint64(next))
	return c
}

func (c *testCursor) Next() Seq    { return Seq(c.next.Load()) }
func (c *testCursor) Name() string { return c.name }
