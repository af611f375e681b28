package transport

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// admission decides which handshakes begin. A handshake costs a server as much as some
// fifty deliveries, and clients of a node that has died come all at once: were all let
// in, none would be done in time, and those who are here already would wait for as
// long.
//
// There are two bounds. So many handshakes a second begin as leave the goroutines of
// this process, on whatever machine, running soon after they could: the rate falls
// while they are late and rises while they are not and clients are refused. And only
// so many are under way, for slow ones keep memory. The second half of these is for
// addresses that are verified, with a quarter for one host at most: neither invented addresses nor a
// single host keep others out. Who is beyond is refused before anything is computed for
// it, and comes back by itself: QUIC has no room for a time
// in a refusal, so how long that takes is part of the protocol.
//
// Its methods are safe for concurrent use.
type admission struct {
	bounds  bounds
	metrics *Metrics

	mu       sync.Mutex
	rate     float64 // handshakes a second
	tokens   float64 // handshakes that may begin now
	filled   time.Time
	underWay int
	hosts    map[netip.Prefix]int // under way, by host
	calm     bool                 // nothing was late in the last step
	wanted   bool                 // somebody was refused since the last adjust
	begun    int                  // handshakes since the last adjust
	usual    time.Duration        // how late goroutines are with hardly a handshake
	refused  refusals
}

// bounds are those of an admission.
type bounds struct {
	first, least, most float64       // handshakes a second
	burst              float64       // of these at once
	underWay           int           // between first packet and hello
	late               time.Duration // that goroutines may be
}

// handshakeBounds are for one processor.
var handshakeBounds = bounds{
	first: 250, least: 50, most: 4000,
	burst:    4,
	underWay: 64,
	late:     4 * time.Millisecond,
}

// of is b for so many processors, with a fixed rate unless that is 0.
func (b bounds) of(procs, rate int) bounds {
	n := float64(procs)
	b.first, b.least, b.most, b.burst = n*b.first, n*b.least, n*b.most, n*b.burst
	b.underWay *= procs
	if rate > 0 {
		b.first, b.least, b.most = float64(rate), float64(rate), float64(rate)
	}
	return b
}

func newAdmission(b bounds, m *Metrics) *admission {
	return &admission{bounds: b, metrics: m, rate: b.first, tokens: b.burst, hosts: make(map[netip.Prefix]int)}
}

var errHandshakeRefused = errors.New("transport: too many handshakes")

// handshake is one that was admitted.
type handshake struct {
	admission *admission
	host      netip.Prefix
	late      *time.Timer // guarded by admission.mu
	once      sync.Once
}

// slowHandshake is how long a handshake counts as under way at most: packets of clients
// that have been refused meanwhile, or have gone, begin some that never end.
const slowHandshake = time.Second

// done says that the client has said hello, or is gone, or has had its time.
func (h *handshake) done() {
	h.once.Do(func() {
		h.admission.mu.Lock()
		defer h.admission.mu.Unlock()
		h.late.Stop()
		h.admission.ends(h.host)
		h.admission.metrics.handshaking.Dec()
	})
}

type handshakeKey struct{}

// begin is the hook of quic.Transport for a client's first packet.
func (a *admission) begin(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
	if !a.admit(client.RemoteAddr, client.AddrVerified, time.Now()) {
		return nil, errHandshakeRefused
	}
	h := &handshake{admission: a, host: hostOf(client.RemoteAddr)}
	a.mu.Lock()
	h.late = time.AfterFunc(slowHandshake, h.done)
	a.mu.Unlock()
	context.AfterFunc(ctx, h.done)
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// greeted says that the handshake of a connection is over.
func greeted(qc *quic.Conn) {
	if h, ok := qc.Context().Value(handshakeKey{}).(*handshake); ok {
		h.done()
	}
}

// verify is the hook of quic.Transport that has a client show that it gets what is sent
// to its address, which takes a round trip more: while there is a crowd.
func (a *admission) verify(net.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.crowded()
}

// crowded tells whether all are under way that nothing need be known of. mu must be held.
func (a *admission) crowded() bool { return a.underWay >= a.bounds.underWay/2 }

// place tells whether one more may be under way. mu must be held.
func (a *admission) place(host netip.Prefix, verified bool) bool {
	return !a.crowded() || verified && a.underWay < a.bounds.underWay && a.hosts[host] < a.bounds.underWay/4
}

// ends takes one from those under way. mu must be held.
func (a *admission) ends(host netip.Prefix) {
	a.underWay--
	if a.hosts[host]--; a.hosts[host] <= 0 {
		delete(a.hosts, host)
	}
}

// hostOf is an address without its port; of IPv6 what one host has, a /64.
func hostOf(addr net.Addr) netip.Prefix {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := udp.AddrPort().Addr().Unmap()
	host, _ := ip.Prefix(min(ip.BitLen(), 64)) // there is no other error
	return host
}

// admit decides about one client.
func (a *admission) admit(from net.Addr, verified bool, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fill(now)
	// A hello of TLS takes two packets: the second of one that was refused would
	// begin a handshake without its first.
	again := a.refused.has(from, now)
	host := hostOf(from)
	if again || a.tokens < 1 || !a.place(host, verified) {
		if !again {
			a.metrics.handshakesRefused.Inc()
			a.refused.add(from, now)
		}
		a.wanted = true
		return false
	}
	a.tokens--
	a.begun++
	a.underWay++
	a.hosts[host]++
	a.metrics.handshakesAdmitted.Inc()
	a.metrics.handshaking.Inc()
	return true
}

// fill adds the tokens of the time that has passed.
func (a *admission) fill(now time.Time) {
	if !a.filled.IsZero() {
		a.tokens = min(a.tokens+a.rate*now.Sub(a.filled).Seconds(), a.burst())
	}
	a.filled = now
}

// burst is how many may begin at once. mu must be held.
func (a *admission) burst() float64 {
	if a.calm {
		return calmBurst * a.bounds.burst
	}
	return a.bounds.burst
}

const (
	admissionStep = 50 * time.Millisecond
	fewer         = 0.75 // times the rate after a step with late goroutines
	more          = 1.15 // and after one without, if clients were refused
	calmBurst     = 3    // times the burst, while nothing is late
	fewBegun      = 2    // handshakes in a step that make nothing late
)

// adjust takes how late goroutines were in the last step.
func (a *admission) adjust(late time.Duration, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fill(now) // at the old rate
	if a.begun <= fewBegun && a.underWay <= fewBegun {
		a.usual += (late - a.usual) / 8
	}
	a.calm = late <= max(a.bounds.late, 2*a.usual)
	switch {
	case !a.calm:
		a.rate = max(a.rate*fewer, a.bounds.least)
	case a.wanted, a.rate < a.bounds.first:
		a.rate = min(a.rate*more, a.bounds.most)
	}
	a.wanted, a.begun = false, 0
	a.metrics.handshakeRate.Set(a.rate)
}

// run adjusts the rate until ctx ends.
func (a *admission) run(ctx context.Context) {
	every := time.NewTicker(admissionStep)
	defer every.Stop()
	delays := newDelays()
	for {
		select {
		case <-every.C:
			a.adjust(delays.since(), time.Now())
		case <-ctx.Done():
			return
		}
	}
}

// refusals remembers who was refused lately, for refusalLasts to twice that.
type refusals struct {
	young, old map[string]struct{}
	turned     time.Time
}

const (
	refusalLasts = 50 * time.Millisecond // less than until a client sends its packets again
	maxRefusals  = 4096                  // of each age: beyond, the oldest are forgotten
)

func (r *refusals) turn(now time.Time) {
	switch passed := now.Sub(r.turned); {
	case passed >= 2*refusalLasts:
		r.young, r.old, r.turned = nil, nil, now
	case passed >= refusalLasts, len(r.young) >= maxRefusals:
		r.young, r.old, r.turned = nil, r.young, now
	}
}

func (r *refusals) has(addr net.Addr, now time.Time) bool {
	r.turn(now)
	if len(r.young) == 0 && len(r.old) == 0 {
		return false
	}
	key := addr.String()
	_, young := r.young[key]
	_, old := r.old[key]
	return young || old
}

func (r *refusals) add(addr net.Addr, now time.Time) {
	r.turn(now)
	if r.young == nil {
		r.young = make(map[string]struct{})
	}
	r.young[addr.String()] = struct{}{}
}

// delays reads how long goroutines wait from when they could run until they do.
type delays struct {
	sample []metrics.Sample
	before []uint64 // counts of the histogram at the last look
}

func newDelays() *delays {
	d := &delays{sample: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	d.since()
	return d
}

// delayShare is the share of goroutines that may be later than bounds.late.
const delayShare = 0.10

// since is what nine of ten goroutines have waited at most since the last call.
func (d *delays) since() time.Duration {
	metrics.Read(d.sample)
	h := d.sample[0].Value.Float64Histogram()
	late := quantile(h, d.before, 1-delayShare)
	d.before = append(d.before[:0], h.Counts...)
	return late
}

// quantile is that of what a histogram has counted beyond before, the upper edge of
// the bucket; 0 if that is nothing.
func quantile(h *metrics.Float64Histogram, before []uint64, q float64) time.Duration {
	counted := func(i int) uint64 {
		if i < len(before) {
			return h.Counts[i] - before[i]
		}
		return h.Counts[i]
	}
	var total, sum uint64
	for i := range h.Counts {
		total += counted(i)
	}
	for i := range h.Counts {
		if sum += counted(i); total > 0 && float64(sum) >= q*float64(total) {
			edge := h.Buckets[i+1]
			if math.IsInf(edge, 1) {
				edge = h.Buckets[i]
			}
			return time.Duration(edge * float64(time.Second))
		}
	}
	return 0
}
