package balancer

import (
	"math"
	"strings"
	"sync/atomic"
	"time"
)

// An endpoint is what a group knows of an [Endpoint]. It outlives changes of the set and of the
// configuration as long as the address stays. Times are nanoseconds since the group's origin.
type endpoint struct {
	// The fields up to answer are those that picks read and replies write. They share one cache
	// line: a scan of many endpoints is as fast as the memory it touches, and a line that another
	// processor has written has to be fetched from there.
	inFlight   atomic.Int64
	picked     atomic.Uint64 // attempts sent; picked - replied of them await their header
	replied    atomic.Uint64 // attempts that ended with a header or an error
	sampled    atomic.Int64  // when a reply last updated cost
	mean       atomicFloat   // moving average of the latency as the estimator keeps it, or 0
	cost       costs         // the same as a latency
	score      atomicFloat32 // mean / weight with all penalties; for policies: × (inFlight + 1)
	restricted atomic.Bool   // in probation, in slow start or pausing: a pick has to look closer
	probation  atomic.Bool   // nothing is known: one request at a time until the first reply
	_          [4]byte

	answer loadAnswer // what picks of Probing read besides

	// Rarely written.
	failed       atomic.Uint64 // failures among replied
	failures     atomic.Uint32 // failures in a row
	slow         atomic.Uint32 // replies in a row that took more than slowFactor × the typical cost
	penalty      atomicFloat   // factor of the cost for failures; none if at most 1
	pauseUntil   atomic.Int64  // end of the pause that the server asked for (503 with Retry-After)
	ejectableAt  atomic.Int64  // until then consecutive failures do not eject: see ejectFailing
	slowStart    atomicFloat   // share of the picks that may consider the endpoint, 0 to 1
	hash         uint64        // of the address
	description  atomic.Pointer[description]
	transport    atomic.Pointer[endpointTransport] // nil in simulations
	gate         atomic.Pointer[gate]              // nil without a bound
	brokenBodies atomic.Uint32                     // bodies in a row that broke off
	lastError    atomic.Pointer[failure]           // of an attempt

	// The fields below are guarded by the group's mutex.
	checked    bool // an active check has passed or failed
	down       bool // by active checks, or until the first of them
	returning  bool // from an ejection, until an interval without many failures
	checks     int  // passed (positive) or failed (negative) in a row
	checkError string
	checkCost  float64 // ns: moving average of the latency of checks

	ejectedUntil int64
	ejections    int    // one more with each ejection, one less with each good interval
	reason       Reason // of the ejection

	tickReplied, tickFailed       uint64  // the counters at the last tick
	recentReplies, recentFailures float64 // those of the last seconds, the older the less

	windowReplied, windowFailed uint64 // the counters at the beginning of the interval

	slowStartFrom int64
	probationFrom int64
	silentSince   int64 // since when requests have awaited a header without any reply
	silentReplied uint64

	_ [48]byte // to the end of the cache line
}

// A failure is the error of an attempt that its endpoint is to blame for.
type failure struct {
	text string
	at   time.Time
}

// maxErrorText bounds what is kept of an error, which may quote what an endpoint sent.
const maxErrorText = 300

func (e *endpoint) noteError(err error) {
	text := err.Error()
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "")
	}
	e.lastError.Store(&failure{text, time.Now()})
}

// A description is what the resolver and the configuration say of an endpoint.
type description struct {
	Endpoint
	weight float64
	cookie string // that a Sticky policy sets for the endpoint
}

// A loadAnswer is what an endpoint has last said of its load.
type loadAnswer struct {
	at      atomic.Int64  // when; zero if it has not
	others  atomicFloat32 // requests there that were not ours
	latency atomicFloat32 // ns
	failing atomicFloat32 // share of the recent requests there that failed
}

func (e *endpoint) public() Endpoint { return e.description.Load().Endpoint }
func (e *endpoint) weight() float64  { return e.description.Load().weight }

// awaiting returns how many attempts have no header yet.
func (e *endpoint) awaiting() int64 {
	replied := e.replied.Load() // first, so that the difference cannot be negative
	return int64(e.picked.Load() - replied)
}

// counters are the sums of endpoints' counters.
type counters struct{ replied, failed uint64 }

func (c *counters) add(e *endpoint) {
	c.replied += e.replied.Load()
	c.failed += e.failed.Load()
}

// State says why an endpoint gets requests or does not.
type State string

// The states of an endpoint.
const (
	Healthy  State = "healthy"
	Pending  State = "pending"  // new, and not yet checked
	Down     State = "down"     // failed its active checks
	Ejected  State = "ejected"  // failed requests
	Draining State = "draining" // removed with requests still running, or by Endpoint.Drain
)

func (e *endpoint) stateLocked(now int64) State {
	switch {
	case e.public().Drain:
		return Draining
	case e.down && !e.checked:
		return Pending
	case e.down:
		return Down
	case e.ejectedUntil > now:
		return Ejected
	}
	return Healthy
}

// An atomicFloat is a float64 that is read and written atomically. Concurrent updates may lose one
// another: for a moving average of many samples that is harmless, and cheaper than a loop.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }

// An atomicFloat32 is an atomicFloat for values that need seven digits.
type atomicFloat32 struct{ bits atomic.Uint32 }

func (f *atomicFloat32) Load() float64   { return float64(math.Float32frombits(f.bits.Load())) }
func (f *atomicFloat32) Store(v float64) { f.bits.Store(math.Float32bits(float32(v))) }

// costs hold an endpoint's latency in ns, and the novelty of that figure: 1/n if it is worth n
// replies. One word holds both, since a store takes as long as a cube root.
type costs struct{ bits atomic.Uint64 }

func (c *costs) Load() float64 { return float64(math.Float32frombits(uint32(c.bits.Load()))) }
func (c *costs) novelty() float64 {
	return float64(math.Float32frombits(uint32(c.bits.Load() >> 32)))
}
func (c *costs) Store(latency float64) { c.set(latency, c.novelty()) }
func (c *costs) set(latency, novelty float64) {
	high, low := math.Float32bits(float32(novelty)), math.Float32bits(float32(latency))
	c.bits.Store(uint64(high)<<32 | uint64(low))
}
