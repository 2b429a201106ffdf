package versioning

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// fullWeight is the weight at which canary gets every request, and the number of buckets of keys.
const fullWeight = 10_000

const setWords = (fullWeight + 63) / 64

// weightOf returns a share, from 0 to 1, as a weight.
func weightOf(share float64) int { return int(math.Round(share * fullWeight)) }

// shareOf returns a weight as the share that people see.
func shareOf(weight int) float64 { return float64(weight) / fullWeight }

// A bitmap is a set of buckets. It may be used concurrently.
type bitmap [setWords]atomic.Uint64

// add adds a bucket and reports whether it was not there.
func (b *bitmap) add(bucket int) bool {
	word, bit := &b[bucket/64], uint64(1)<<(bucket%64)
	return word.Load()&bit == 0 && word.Or(bit)&bit == 0
}

func (b *bitmap) addTo(set *bucketSet) {
	for i := range b {
		set[i] |= b[i].Load()
	}
}

func (b *bitmap) clear() {
	for i := range b {
		b[i].Store(0)
	}
}

// A bucketSet is a set of buckets for one goroutine.
type bucketSet [setWords]uint64

// count returns how many buckets below weight, which are canary's, and how many others are in s.
func (s *bucketSet) count(weight int) (canary, stable int) {
	for _, word := range s {
		stable += bits.OnesCount64(word)
	}
	for i := 0; i*64 < weight; i++ {
		word := s[i]
		if rest := weight - i*64; rest < 64 {
			word &= 1<<rest - 1
		}
		canary += bits.OnesCount64(word)
	}
	return canary, stable - canary
}

// An outcome says what a finished request means to the analysis.
type outcome string

const (
	success  outcome = "success"
	failure  outcome = "failure"
	canceled outcome = "canceled" // by its client
	shed     outcome = "shed"     // by a limiter or a breaker
)

// A draw says how the arm of a request was found.
type draw struct {
	canary bool
	counts bool // the arm was drawn, so the request is part of the comparison
	single bool // the arm was drawn for this request alone, not for its key
	bucket int

	skipped bool // by RolloutConfig.Skip: it is in flight, and nothing else
	forced  bool // by RolloutConfig.Force
	moved   bool // the arm is not the one that was decided before
}

// untouched reports whether the answer passes as it is.
func (d draw) untouched() bool { return d.skipped && !d.moved }

func (d draw) arm() int {
	if d.canary {
		return 1
	}
	return 0
}

// An evidence is what one replica has seen since the weight changed last. Everything in it may be
// used concurrently.
//
// What happens to a client happens to all requests of its key, in one arm, so they are no
// independent witnesses. Of each test, therefore, only the first event in each bucket of keys
// counts; the set of these buckets is also what replicas can add up without counting any twice.
type evidence struct {
	weight int

	arms   [2]armEvidence // stable, canary
	errors testEvidence
	slow   testEvidence

	slowFrom atomic.Int64 // durations from this on are slow; 0: none are yet

	// Of the floor: what canary's buckets saw since the floor was looked at last.
	floorSeen, floorFailed, floorUnserved bitmap
}

type armEvidence struct {
	failed, shed, canceled atomic.Uint64
	canceledSlow           atomic.Uint64 // of canceled: those that durations has
	durations              histogram     // of requests, which are not counted besides
	_                      [64]byte      // the arms share no cache line
}

// requests returns how many requests were served or failed.
func (a *armEvidence) requests() uint64 {
	canceled := a.canceledSlow.Load() // before durations, which has them already
	var counts [bins]uint64
	return a.durations.addTo(counts[:]) - canceled
}

// A testEvidence counts the events of one test.
type testEvidence struct {
	buckets bitmap           // with an event
	singles [2]atomic.Uint64 // events of requests whose arm was drawn for them alone
}

// count counts an event and reports whether it is a new one.
func (t *testEvidence) count(d draw) bool {
	if d.single {
		t.singles[d.arm()].Add(1)
		return true
	}
	return t.buckets.add(d.bucket)
}

// record counts a finished request. took is the time until its answer began. It reports whether the
// evidence against canary has grown.
func (e *evidence) record(d draw, o outcome, took time.Duration) (grown bool) {
	if !d.counts {
		return false
	}
	a := &e.arms[d.arm()]
	slowFrom := time.Duration(e.slowFrom.Load())
	slow := slowFrom > 0 && took >= slowFrom
	switch o {
	case shed:
		a.shed.Add(1)
		if d.canary {
			e.floorUnserved.add(d.bucket)
			e.floorSeen.add(d.bucket)
		}
		return false
	case canceled:
		a.canceled.Add(1)
		// A client that does not wait any longer says nothing about errors. That its request has
		// been slow until then is a fact.
		if slow {
			a.durations.add(took)
			a.canceledSlow.Add(1)
			return e.slow.count(d) && d.canary
		}
		return false
	}
	a.durations.add(took)
	if d.canary {
		e.floorSeen.add(d.bucket)
	}
	if o == failure {
		a.failed.Add(1)
		if d.canary {
			e.floorFailed.add(d.bucket)
			e.floorUnserved.add(d.bucket)
		}
		grown = e.errors.count(d)
	}
	// A request that has failed is no slow one: it is often quick, or as slow as a time limit.
	if slow && o == success {
		grown = e.slow.count(d) || grown
	}
	return grown && d.canary
}

// A tally is evidence at one moment, of one replica or of several.
type tally struct {
	arms         [2]armTally
	errors, slow testTally
}

type armTally struct {
	requests, failed, shed, canceled uint64
	durations                        [bins]uint64
}

type testTally struct {
	buckets bucketSet
	singles [2]uint64
}

// addTo adds e to t.
func (e *evidence) addTo(t *tally) {
	for i := range e.arms {
		from, to := &e.arms[i], &t.arms[i]
		to.failed += from.failed.Load()
		to.shed += from.shed.Load()
		to.canceled += from.canceled.Load()
		canceled := from.canceledSlow.Load() // before durations, which has them already
		to.requests += from.durations.addTo(to.durations[:]) - canceled
	}
	e.errors.addTo(&t.errors)
	e.slow.addTo(&t.slow)
}

func (e *testEvidence) addTo(t *testTally) {
	e.buckets.addTo(&t.buckets)
	for i := range e.singles {
		t.singles[i] += e.singles[i].Load()
	}
}

// add adds what another replica has seen: a bucket that both have seen counts once.
func (t *tally) add(o *tally) {
	for i := range t.arms {
		to, from := &t.arms[i], &o.arms[i]
		to.requests += from.requests
		to.failed += from.failed
		to.shed += from.shed
		to.canceled += from.canceled
		for b, n := range from.durations {
			to.durations[b] += n
		}
	}
	t.errors.add(&o.errors)
	t.slow.add(&o.slow)
}

func (t *testTally) add(o *testTally) {
	for i, word := range o.buckets {
		t.buckets[i] |= word
	}
	for i, n := range o.singles {
		t.singles[i] += n
	}
}
