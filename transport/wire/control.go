package wire

import "encoding/binary"

// Hello opens a connection. Name is the publisher name that messages of this
// connection carry, unless the token has a subject of its own.
type Hello struct {
	Version uint64
	Token   string
	Name    string
}

func (*Hello) frameType() Type { return TypeHello }

func (h *Hello) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, h.Version)
	dst = appendString(dst, h.Token)
	return appendString(dst, h.Name)
}

// ParseHello reads a Hello. What follows the version is read only if the
// version is ours: later ones may look different.
func ParseHello(body []byte) (Hello, error) {
	p := parser{typ: TypeHello, b: body}
	h := Hello{Version: p.uint("version")}
	if p.err != nil || h.Version != Version {
		return h, p.err
	}
	h.Token = p.str("token", MaxToken)
	h.Name = p.str("name", MaxName)
	return h, p.done()
}

// Limits are what a server accepts on one connection.
type Limits struct {
	Payload       uint64 // bytes of one message
	Window        uint64 // publishes of one session without an answer
	Subscriptions uint64 // streams that follow a room
}

// Welcome answers Hello.
type Welcome struct {
	Version uint64
	Node    string // the name of the node that answers
	Limits  Limits
	Map     Map
}

func (*Welcome) frameType() Type { return TypeWelcome }

func (w *Welcome) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, w.Version)
	dst = appendString(dst, w.Node)
	dst = binary.AppendUvarint(dst, w.Limits.Payload)
	dst = binary.AppendUvarint(dst, w.Limits.Window)
	dst = binary.AppendUvarint(dst, w.Limits.Subscriptions)
	return w.Map.appendBody(dst)
}

// ParseWelcome reads a Welcome.
func ParseWelcome(body []byte) (Welcome, error) {
	p := parser{typ: TypeWelcome, b: body}
	w := Welcome{Version: p.uint("version"), Node: p.str("node", MaxName)}
	w.Limits.Payload = p.uint("payload limit")
	w.Limits.Window = p.uint("window")
	w.Limits.Subscriptions = p.uint("subscription limit")
	w.Map = p.clusterMap()
	return w, p.done()
}

// Ping asks for a Pong with the same nonce. Both are padded to PingSize.
type Ping struct{ Nonce uint64 }

func (*Ping) frameType() Type { return TypePing }

func (f *Ping) appendBody(dst []byte) []byte { return appendPadded(dst, f.Nonce) }

// Pong answers a Ping.
type Pong struct{ Nonce uint64 }

func (*Pong) frameType() Type { return TypePong }

func (f *Pong) appendBody(dst []byte) []byte { return appendPadded(dst, f.Nonce) }

func appendPadded(dst []byte, nonce uint64) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, nonce)
	return append(dst, make([]byte, PingSize-8)...)
}

// ParsePing reads the nonce of a Ping or a Pong.
func ParsePing(typ Type, body []byte) (nonce uint64, err error) {
	p := parser{typ: typ, b: body}
	if len(body) != PingSize {
		p.fail("not padded to 64 bytes")
		return 0, p.err
	}
	return binary.LittleEndian.Uint64(body), nil
}

// Map tells where the partitions are. Epoch rises when members or replica sets
// change; a leader is newer than another for its partition if its term is higher.
type Map struct {
	Epoch      uint64
	Nodes      []Node
	Partitions []Placement
}

// Node is a member of the cluster. Listen is where clients reach it, HTTP
// where operators do; both are "" while the node has not been heard of.
type Node struct {
	Name   string
	Listen string
	HTTP   string
	Alive  bool // as the node that sent the map sees it
}

// Placement says who holds a partition. Nodes are given by their place in
// Map.Nodes; Leader is -1 while unknown.
type Placement struct {
	Term     uint64
	Leader   int
	Replicas []int
}

const (
	maxNodes      = 256
	maxPartitions = 4096
	maxAddress    = 512
)

func (*Map) frameType() Type { return TypeMap }

func (m *Map) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, m.Epoch)
	dst = binary.AppendUvarint(dst, uint64(len(m.Nodes)))
	for _, n := range m.Nodes {
		dst = appendString(dst, n.Name)
		dst = appendString(dst, n.Listen)
		dst = appendString(dst, n.HTTP)
		dst = appendBool(dst, n.Alive)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Partitions)))
	for _, p := range m.Partitions {
		dst = binary.AppendUvarint(dst, p.Term)
		dst = binary.AppendUvarint(dst, uint64(p.Leader+1))
		dst = binary.AppendUvarint(dst, uint64(len(p.Replicas)))
		for _, r := range p.Replicas {
			dst = binary.AppendUvarint(dst, uint64(r))
		}
	}
	return dst
}

// ParseMap reads a Map.
func ParseMap(body []byte) (Map, error) {
	p := parser{typ: TypeMap, b: body}
	m := p.clusterMap()
	return m, p.done()
}

func (p *parser) clusterMap() Map {
	m := Map{Epoch: p.uint("epoch")}
	nodes := p.count("nodes", 4)
	if nodes > maxNodes {
		p.fail("too many nodes")
	}
	for range nodes {
		if p.err != nil {
			return m
		}
		m.Nodes = append(m.Nodes, Node{
			Name:   p.str("node name", MaxName),
			Listen: p.str("listen address", maxAddress),
			HTTP:   p.str("http address", maxAddress),
			Alive:  p.bool("alive"),
		})
	}
	partitions := p.count("partitions", 3)
	if partitions > maxPartitions {
		p.fail("too many partitions")
	}
	for range partitions {
		if p.err != nil {
			return m
		}
		pl := Placement{Term: p.uint("term"), Leader: int(p.uintMax("leader", uint64(nodes))) - 1}
		for range p.count("replicas", 1) {
			pl.Replicas = append(pl.Replicas, p.nodeRef(nodes))
		}
		m.Partitions = append(m.Partitions, pl)
	}
	return m
}

func (p *parser) nodeRef(nodes int) int {
	v := p.uint("replica")
	if p.err == nil && v >= uint64(nodes) {
		p.fail("replica is no node of the map")
	}
	return int(v)
}

// GoAway asks the client to move to another node within Delay milliseconds.
type GoAway struct{ Delay uint64 }

func (*GoAway) frameType() Type { return TypeGoAway }

func (g *GoAway) appendBody(dst []byte) []byte { return binary.AppendUvarint(dst, g.Delay) }

// ParseGoAway reads a GoAway.
func ParseGoAway(body []byte) (GoAway, error) {
	p := parser{typ: TypeGoAway, b: body}
	g := GoAway{Delay: p.uint("delay")}
	return g, p.done()
}

// Watch asks for a Gone whenever the server finds that a node is gone, from now on.
// With Leaders the client has nobody else to hear from who leads: maps are told to it
// as to one that publishes here.
type Watch struct{ Leaders bool }

func (*Watch) frameType() Type { return TypeWatch }

func (w *Watch) appendBody(dst []byte) []byte { return appendBool(dst, w.Leaders) }

// ParseWatch reads a Watch.
func ParseWatch(body []byte) (Watch, error) {
	p := parser{typ: TypeWatch, b: body}
	w := Watch{Leaders: p.bool("leaders")}
	return w, p.done()
}

// Gone tells that the process of a node is gone: whoever has a connection to it need
// not wait for its silence.
type Gone struct{ Node string }

func (*Gone) frameType() Type { return TypeGone }

func (g *Gone) appendBody(dst []byte) []byte { return appendString(dst, g.Node) }

// ParseGone reads a Gone.
func ParseGone(body []byte) (Gone, error) {
	p := parser{typ: TypeGone, b: body}
	g := Gone{Node: p.str("node", MaxName)}
	return g, p.done()
}

// Error is the last frame of a stream that failed. Its words are for people.
type Error struct {
	Code       Code
	RetryAfter uint64 // milliseconds, with CodeOverloaded and CodeUnavailable
	Head       uint64 // the room's last seq, with CodeBeyondHead
	Reason     string
}

const maxReason = 1024

func (*Error) frameType() Type { return TypeError }

func (e *Error) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.Code))
	dst = binary.AppendUvarint(dst, e.RetryAfter)
	dst = binary.AppendUvarint(dst, e.Head)
	return appendString(dst, e.Reason[:min(len(e.Reason), maxReason)])
}

// ParseError reads an Error.
func ParseError(body []byte) (Error, error) {
	p := parser{typ: TypeError, b: body}
	e := Error{
		Code:       Code(p.uint("code")),
		RetryAfter: p.uint("retry-after"),
		Head:       p.uint("head"),
		Reason:     p.str("reason", maxReason),
	}
	return e, p.done()
}
