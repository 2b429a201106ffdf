package balancer

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tickInterval is the time between two ticks of a group that gets requests.
const tickInterval = 100 * time.Millisecond

// A group decides which of a target's endpoints gets a request, and learns from what became of it.
// It has no goroutines, reads no clock and opens no connection: times are arguments, so that a
// simulator can drive it.
type group struct {
	random func() uint64

	config      atomic.Pointer[groupConfig]
	current     atomic.Pointer[snapshot] // nil until the first set is known
	restricted  atomic.Int64             // endpoints that are restricted
	commonFault atomic.Bool              // most endpoints fail: the fault is in what they share
	typical     atomicFloat              // lower median of the endpoints' known costs, or 0
	sequence    atomic.Uint64            // for policies that go round
	ejections   atomic.Uint64            // in total
	hasEvents   atomic.Bool              // there are events

	mu           sync.Mutex  // guards the fields below, and those of endpoints that say so
	endpoints    []*endpoint // by address; replaced as a whole
	panicking    bool
	spill        float64 // share that the first tier passes on to the second for its load
	loadRatio    float64 // moving average of the ratio of those tiers' loads
	lastInterval int64
	lastTick     int64
	events       []Event
}

// A snapshot is what picks see of a group. It never changes.
type snapshot struct {
	tiers []tier // at least one; the first is the preferred one
	all   []*endpoint
}

type tier struct {
	endpoints []*endpoint
	maxWeight uint32  // of endpoints
	uniform   bool    // all weights are the same
	upTo      float64 // the tier gets the draws from its predecessor's upTo to its own
}

func newGroup(cfg *Config) *group {
	g := &group{random: rand.Uint64}
	g.config.Store(newGroupConfig(cfg))
	g.sequence.Store(g.random() >> 1) // so that many clients do not all start at the first endpoint
	return g
}

// ready reports whether a set of endpoints is known.
func (g *group) ready() bool { return g.current.Load() != nil }

// members returns the present endpoints. The slice must not be changed.
func (g *group) members() []*endpoint {
	if s := g.current.Load(); s != nil {
		return s.all
	}
	return nil
}

// isMemberLocked reports whether e is still in the set.
func (g *group) isMemberLocked(e *endpoint) bool { return slices.Contains(g.endpoints, e) }

// changeLocked returns the event that says what state e is in now, and why.
func (e *endpoint) changeLocked(now int64, reason Reason) Event {
	return Event{Kind: EndpointChanged, Endpoint: e.public(), State: e.stateLocked(now), Reason: reason}
}

// emit and emitLocked keep an event for the caller of takeEvents: observers are called without a
// lock.
func (g *group) emit(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.emitLocked(e)
}

func (g *group) emitLocked(e Event) {
	if g.config.Load().Observe != nil {
		g.events = append(g.events, e)
		g.hasEvents.Store(true)
	}
}

// takeEvents returns the events since it was last called.
func (g *group) takeEvents() []Event {
	if !g.hasEvents.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.events
	g.events = nil
	g.hasEvents.Store(false)
	return e
}
