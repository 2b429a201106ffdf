package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

// A host is what a group knows of one endpoint. It outlives changes of the set and of the configuration
// as long as the endpoint's address stays. All times are nanoseconds since the group's origin.
type host struct {
	// What picks read and replies write comes first, in one cache line: a scan of many hosts is as fast as the memory it
	// touches, and a line that another processor has written has to be fetched from there.
	inflight  atomic.Int64
	picked    atomic.Uint64 // attempts sent; with replied it tells how many await their header
	replied   atomic.Uint64 // attempts that ended with a header or an error
	sampled   atomic.Int64  // when cost was last updated by a reply
	mean      atomicFloat   // EWMA of the latency, in the estimator's terms; zero when unseen
	cost      costs         // the same as a latency
	score     atomicFloat32 // what a policy of estimates multiplies by inflight+1: mean/weight
	held      atomic.Bool   // in probation or ramping up: the pick has to look closer
	probation atomic.Bool   // nothing is known: one request at a time until the first reply
	_         [4]byte

	report report // for Probing: what its picks read besides

	// Rarely written.
	failed    atomic.Uint64 // of the replies, the failures
	failures  atomic.Uint32 // failures in a row
	slow      atomic.Uint32 // replies in a row that took more than shunFactor times the typical cost
	penalty   atomicFloat   // factor of cost for failures; at most 1 is none
	coolUntil atomic.Int64  // the server asked for a pause (503 with Retry-After) until then
	spared    atomic.Int64  // until then failures in a row do not eject: so it was found, under the group's lock

	ramp atomicFloat // share of picks that may consider the host while it is held; 0 to 1

	hash uint64 // of the address
	role atomic.Pointer[role]
	wire atomic.Pointer[wire] // how requests get there; nil in simulations
	cut  atomic.Uint32        // bodies in a row that broke off; here it costs no padding

	// The fields below are read and written under the group's lock only.
	checked    bool // an active check has passed or failed
	down       bool // by active checks
	returning  bool // from an ejection, until its next interval
	checks     int  // passed (positive) or failed (negative) in a row
	checkError string
	probeCost  float64 // ns: EWMA of the latency of checks

	ejectedUntil int64
	ejections    int // grows with each ejection, falls with each good interval
	reason       string

	tickReplied, tickFailed uint64  // the counters at the last tick
	lately, failedLately    float64 // replies and failures of the last seconds

	rampFrom    int64 // when the ramp began
	probationAt int64
	silentSince int64 // since when requests have awaited a header without any reply
	silentCount uint64

	windowReplied, windowFailed uint64 // the counters at the last interval
}

// A role is what the resolver and the configuration make of a host.
type role struct {
	endpoint Endpoint
	weight   float64
	sticky   string // what a Sticky policy calls the host
}

// State says why a host gets requests or does not.
type State string

// The states of a host.
const (
	Healthy  State = "healthy"
	Pending  State = "pending"  // new, and not yet checked
	Down     State = "down"     // failed its active checks
	Ejected  State = "ejected"  // failed requests
	Draining State = "draining" // removed, with requests still running
)

func (h *host) stateLocked(now int64) State {
	switch {
	case h.down && !h.checked:
		return Pending
	case h.down:
		return Down
	case h.ejectedUntil > now:
		return Ejected
	}
	return Healthy
}

func (h *host) endpoint() Endpoint { return h.role.Load().endpoint }
func (h *host) weight() float64    { return h.role.Load().weight }

func (h *host) awaiting() int64 {
	replied := h.replied.Load() // first, so that the difference cannot be negative
	return int64(h.picked.Load() - replied)
}

// atomicFloat is a float64 that is read and written atomically. Concurrent updates may lose one
// another: for a moving average of many samples that is harmless, and cheaper than a loop.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }

// atomicFloat32 is an atomicFloat for values that need seven digits.
type atomicFloat32 struct{ bits atomic.Uint32 }

func (f *atomicFloat32) Load() float64   { return float64(math.Float32frombits(f.bits.Load())) }
func (f *atomicFloat32) Store(v float64) { f.bits.Store(math.Float32bits(float32(v))) }

// costs are what a host's replies say: the latency in ns, and how new that is: 1/n if it is worth n replies. One
// word holds both, since a store takes as long as a cube root.
type costs struct{ bits atomic.Uint64 }

func (c *costs) Load() float64    { return float64(math.Float32frombits(uint32(c.bits.Load()))) }
func (c *costs) novelty() float64 { return float64(math.Float32frombits(uint32(c.bits.Load() >> 32))) }
func (c *costs) Store(v float64)  { c.set(v, c.novelty()) }
func (c *costs) set(latency, novelty float64) {
	c.bits.Store(uint64(math.Float32bits(float32(novelty)))<<32 | uint64(math.Float32bits(float32(latency))))
}

// An estimator turns latencies into the cost of a host.
type estimator struct {
	decay       time.Duration // time constant of the moving average
	perDecay    float64       // 1/decay, in 1/ns
	perInflight bool          // divide the latency by the requests in flight at dispatch
	peak        bool          // a latency above the average replaces it
	root        bool          // average the cube roots, and score by them
}

// term returns what the estimator averages instead of the latency ns.
func (e estimator) term(ns float64) float64 {
	if e.root {
		return math.Cbrt(ns)
	}
	return ns
}

// latency undoes term.
func (e estimator) latency(term float64) float64 {
	if e.root {
		return term * term * term
	}
	return term
}

// keep returns the weight of what is known against a sample that comes dt nanoseconds later: about exp(-dt/decay), for less.
func (e *estimator) keep(dt int64) float64 {
	x := float64(max(dt, 0)) * e.perDecay
	return 1 / (1 + x*(1+x*(1.0/2+x*(1.0/6))))
}

// update returns the mean of terms after a further one.
func (e estimator) update(mean, term, keep float64) float64 {
	if mean == 0 || e.peak && term > mean {
		return term
	}
	return mean*keep + term*(1-keep)
}
