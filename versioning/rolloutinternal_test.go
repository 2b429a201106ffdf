package versioning

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestEvidenceIsFair: without a difference the mean of the evidence is 1, whatever has been seen,
// so that Ville's inequality applies. Here all orders of a small number of events are weighed with
// their chances.
func TestEvidenceIsFair(t *testing.T) {
	for _, weight := range []int{1, 500, 5000, 9999} {
		for events := range 8 {
			mean := 0.0
			for order := range 1 << events {
				chance := 1.0
				var seen testTally
				canary, stable := 0, 0
				for i := range events {
					left := float64(fullWeight - i)
					if order>>i&1 == 1 {
						if canary == weight {
							chance = 0
							break
						}
						chance *= float64(weight-canary) / left
						seen.buckets[canary/64] |= 1 << (canary % 64)
						canary++
					} else {
						if stable == fullWeight-weight {
							chance = 0
							break
						}
						chance *= float64(fullWeight-weight-stable) / left
						bucket := fullWeight - 1 - stable
						seen.buckets[bucket/64] |= 1 << (bucket % 64)
						stable++
					}
				}
				if chance > 0 {
					mean += chance * math.Exp(logEvidence(weight, &seen))
				}
			}
			require.LessOrEqual(t, mean, 1+1e-9, "weight %d, %d events", weight, events)
			if weight == 500 {
				require.InDelta(t, 1, mean, 1e-9)
			}
		}
	}
	total := 0.0
	for period := 1; period < 10_000; period++ {
		total += share(period)
	}
	require.InDelta(t, 1, total, 1e-3)
	require.Zero(t, logEvidence(0, &testTally{}))
	require.Zero(t, logEvidence(fullWeight, &testTally{singles: [2]uint64{0, 100}}))
}

func TestEvidenceOfSinglesIsFair(t *testing.T) {
	mean := 0.0
	for canary := range 7 {
		ways := float64([]int{1, 6, 15, 20, 15, 6, 1}[canary])
		chance := ways * math.Pow(0.05, float64(canary)) * math.Pow(0.95, float64(6-canary))
		events := testTally{singles: [2]uint64{uint64(6 - canary), uint64(canary)}}
		mean += chance * math.Exp(logEvidence(500, &events))
	}
	require.InDelta(t, 1, mean, 1e-9)
}

func TestBucketSetCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bitmap
		want := map[int]bool{}
		for _, bucket := range rapid.SliceOf(rapid.IntRange(0, fullWeight-1)).Draw(t, "buckets") {
			require.Equal(t, !want[bucket], b.add(bucket))
			want[bucket] = true
		}
		var s bucketSet
		b.addTo(&s)
		weight := rapid.IntRange(0, fullWeight).Draw(t, "weight")
		n := 0
		for bucket := range want {
			if bucket < weight {
				n++
			}
		}
		canary, stable := s.count(weight)
		require.Equal(t, n, canary)
		require.Equal(t, len(want)-n, stable)
		b.clear()
		require.True(t, b.add(3))
	})
}

func TestHistogramIsExactEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(-5, 1<<44).Draw(t, "duration"))
		bin := binOf(d)
		switch {
		case d < 1<<firstBit:
			require.Zero(t, bin)
		case d >= 1<<lastBit:
			require.Equal(t, bins-1, bin)
		default:
			require.LessOrEqual(t, binFrom(bin), d)
			require.Greater(t, binFrom(bin+1), d)
			require.InEpsilon(t, d, binMiddle(bin), 0.016)
		}
	})
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	var counts [bins]uint64
	h.addTo(counts[:])
	for _, q := range []float64{0.5, 0.95, 0.99, 0.999} {
		require.InEpsilon(t, time.Duration(q*1e9), quantile(counts[:], q), 0.04, "%v", q)
	}
	require.Zero(t, quantile(counts[:], 1))
	require.Zero(t, quantile(counts[:], -0.1))
	require.Zero(t, quantile(make([]uint64, bins), 0.5))
}

// randomTally returns a tally with some of everything.
func randomTally(rng *rand.Rand) *tally {
	e := &evidence{weight: 500}
	e.slowFrom.Store(int64(time.Millisecond))
	for range rng.IntN(2000) {
		d := draw{counts: true, bucket: rng.IntN(fullWeight), single: rng.IntN(3) == 0}
		d.canary = d.bucket < 2000
		o := [...]outcome{success, failure, shed, canceled}[rng.IntN(4)]
		e.record(d, o, time.Duration(rng.Int64N(1<<(10+rng.IntN(33)))))
	}
	t := &tally{}
	e.addTo(t)
	return t
}

func TestEvidenceTravels(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		want, epoch := randomTally(rng), rng.Uint64()
		text := want.encode(epoch)
		require.Less(t, len(text), 12<<10)
		got, ok := decodeTally(text, epoch)
		require.True(t, ok)
		require.Equal(t, want, got)
		_, ok = decodeTally(text, epoch+1)
		require.False(t, ok, "of another epoch")
		for _, bad := range [][]byte{nil, text[:rng.IntN(len(text))], append(text, 0)} {
			_, ok = decodeTally(bad, epoch)
			require.False(t, ok)
		}
	}
}

// TestEvidenceAddsUp: a bucket that several replicas have seen counts once, all else is summed up.
func TestEvidenceAddsUp(t *testing.T) {
	var a, b evidence
	d := draw{counts: true, canary: true, bucket: 3}
	for _, e := range []*evidence{&a, &b} {
		e.record(d, failure, time.Second)
		e.record(draw{counts: true, canary: true, bucket: 3, single: true}, failure, time.Second)
	}
	b.record(draw{counts: true, bucket: 9000}, failure, time.Second)
	var sum tally
	a.addTo(&sum)
	var other tally
	b.addTo(&other)
	sum.add(&other)
	canary, stable := sum.errors.buckets.count(500)
	require.Equal(t, []int{1, 1}, []int{canary, stable})
	require.Equal(t, [2]uint64{0, 2}, sum.errors.singles)
	require.EqualValues(t, 4, sum.arms[1].requests)
	require.EqualValues(t, 1, sum.arms[0].failed)
}

func FuzzDecodeTally(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 3 {
		f.Add(randomTally(rng).encode(7))
	}
	f.Add([]byte{tallyFormat, 7})
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := decodeTally(text, 7)
		if !ok {
			return
		}
		again, ok := decodeTally(got.encode(7), 7)
		require.True(t, ok)
		require.Equal(t, got, again)
		canary, stable := got.errors.buckets.count(500)
		require.LessOrEqual(t, canary, 500)
		require.LessOrEqual(t, stable, fullWeight-500)
		require.False(t, math.IsNaN(logEvidence(500, &got.errors)))
	})
}

// TestCanceledRequestsAreSlowIfTheyWere: a canary that hangs is not hidden by clients that do not
// wait.
func TestCanceledRequestsAreSlowIfTheyWere(t *testing.T) {
	var e evidence
	d := draw{counts: true, canary: true, bucket: 1}
	require.False(t, e.record(d, canceled, time.Hour), "nobody knows yet what is slow")
	e.slowFrom.Store(int64(time.Second))
	require.False(t, e.record(d, canceled, time.Second-1))
	require.True(t, e.record(d, canceled, time.Second))
	require.False(t, e.record(d, success, time.Second), "the bucket is known")
	require.False(t, e.record(draw{counts: true, bucket: 9000}, success, time.Second), "it is stable's")
	require.False(t, e.record(draw{canary: true, bucket: 2}, failure, time.Second), "it was not drawn")
	var sum tally
	e.addTo(&sum)
	canary, stable := sum.slow.buckets.count(500)
	require.Equal(t, []int{1, 1}, []int{canary, stable})
	require.EqualValues(t, 1, sum.arms[1].requests)
	require.EqualValues(t, 3, sum.arms[1].canceled)
}

// serveFloor gives the floor requests: of stable and canary those that failed, were shed, were
// well. A negative number is of requests in four buckets, else each has one of its own.
func serveFloor(e *evidence, stable, canary [3]int) {
	bucket := 0
	for arm, counts := range [][3]int{stable, canary} {
		for i, o := range []outcome{failure, shed, success} {
			n, keys := counts[i], fullWeight
			if n < 0 {
				n, keys = -n, 4
			}
			for range n {
				bucket++
				e.record(draw{counts: true, canary: arm == 1, bucket: bucket % keys}, o, time.Second)
			}
		}
	}
}

func TestFloor(t *testing.T) {
	for _, tt := range []struct {
		name           string
		stable, canary [3]int // failed, shed, well
		want           string
	}{
		{"too few", [3]int{0, 0, 100}, [3]int{19, 0, 0}, ""},
		{"few keys", [3]int{0, 0, 100}, [3]int{-25, 0, 0}, ""},
		{"all broken", [3]int{}, [3]int{20, 0, 0},
			"20 of its last 20 requests failed, in 20 of 20 buckets of keys"},
		{"half broken", [3]int{0, 0, 100}, [3]int{10, 0, 10},
			"10 of its last 20 requests failed, in 10 of 20 buckets of keys"},
		{"less than half", [3]int{0, 0, 100}, [3]int{9, 0, 11}, ""},
		{"both broken", [3]int{100, 0, 0}, [3]int{20, 0, 0},
			"20 of its last 20 requests failed, in 20 of 20 buckets of keys"},
		{"down behind a breaker", [3]int{1, 1, 98}, [3]int{1, 19, 0},
			"20 of its last 20 requests were not served, in 20 of 20 buckets of keys, and 2 of stable's 100"},
		{"both shed", [3]int{0, 30, 70}, [3]int{0, 20, 0}, ""},
		{"shed at full weight", [3]int{}, [3]int{0, 20, 0}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e evidence
			var f floor
			serveFloor(&e, tt.stable, tt.canary)
			require.Equal(t, tt.want, f.look(&e, 0.5))
		})
	}
	// What was good before does not hide it, nor does it count twice.
	var e evidence
	var f floor
	serveFloor(&e, [3]int{}, [3]int{0, 0, 5000})
	require.Empty(t, f.look(&e, 0.5))
	serveFloor(&e, [3]int{}, [3]int{15, 0, 4})
	require.Empty(t, f.look(&e, 0.5), "a stretch is twenty requests")
	serveFloor(&e, [3]int{}, [3]int{1, 0, 0})
	require.NotEmpty(t, f.look(&e, 0.5))
	require.Empty(t, f.look(&e, 0.5))
	serveFloor(&e, [3]int{}, [3]int{0, 0, 20})
	require.Empty(t, f.look(&e, 0.5))
	serveFloor(&e, [3]int{}, [3]int{20, 0, 0})
	require.Empty(t, f.look(&e, -1), "it is off")
}

// TestBucketsAtTheEdge: canary has the buckets below the weight, and no other.
func TestBucketsAtTheEdge(t *testing.T) {
	key := func(*http.Request) (string, bool) { return "", false }
	r, err := NewRollout(RolloutConfig{
		Name: "shop", Release: "v2", Missing: MissingPerRequest, Steps: []Step{{Weight: 0.05}},
		Key: func(req *http.Request) (string, bool) { return key(req) },
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close(t.Context())) }()
	p := r.current.Load()
	edges := map[int]bool{0: true, 499: true, 500: false, 9999: false}
	found := map[int]bool{}
	for i := 0; len(found) < len(edges); i++ {
		name := strconv.Itoa(i)
		bucket := bucketOf(p.salt, name)
		if _, ok := edges[bucket]; !ok {
			continue
		}
		key = func(*http.Request) (string, bool) { return name, true }
		d, _ := r.draw(p, nil)
		require.Equal(t, draw{canary: edges[bucket], counts: true, bucket: bucket}, d)
		found[bucket] = true
	}
}

// slowTally is a tally in which canary's requests take so many times as long as stable's, and more
// of its buckets have slow ones.
func slowTally(times float64) *tally {
	e := &evidence{weight: 500}
	e.slowFrom.Store(int64(50 * time.Millisecond))
	for i := range 9500 {
		took := 20 * time.Millisecond
		if i%20 == 0 {
			took = 60 * time.Millisecond
		}
		e.record(draw{counts: true, bucket: 500 + i}, success, took)
	}
	for i := range 500 {
		took := 20 * time.Millisecond
		if i%4 == 0 {
			took = 60 * time.Millisecond
		}
		e.record(draw{counts: true, canary: true, bucket: i}, success, time.Duration(float64(took)*times))
	}
	t := &tally{}
	e.addTo(t)
	return t
}

// TestEvidenceOfAPeriodIsAShare: what is found at one weight counts by its share, besides what was
// found at those before.
func TestEvidenceOfAPeriodIsAShare(t *testing.T) {
	cfg := &RolloutConfig{Alpha: 0.005, Tolerance: 1.25, Steps: []Step{{Weight: 0.05}}}
	seen := slowTally(1)
	whole := math.Exp(logEvidence(500, &seen.slow))
	for period := 1; period < 4; period++ {
		p := position{cfg: cfg, judged: Advance, state: &RolloutState{
			Weight: 0.05, Period: period, ErrorsBefore: 3, LatencyBefore: 5,
		}}
		v := p.verdict(seen, time.Now())
		require.InDelta(t, 3+share(period), v.Errors.Evidence, 1e-9, "no error says nothing")
		require.InEpsilon(t, 5+share(period)*whole, v.Latency.Evidence, 1e-9)
	}
}

// TestSlowWithinTheTolerance: more slow requests are evidence, but no reason, unless a percentile
// is worse by more than the tolerance.
func TestSlowWithinTheTolerance(t *testing.T) {
	state := &RolloutState{Weight: 0.05, Period: 1, Step: 0}
	for tolerance, want := range map[float64]Decision{1.25: RejectRelease, 4: Hold} {
		steps := []Step{{Weight: 0.05, MinRequests: 5000}}
		cfg := &RolloutConfig{Alpha: 0.005, Tolerance: tolerance, Steps: steps}
		p := position{cfg: cfg, judged: Advance, state: state}
		v := p.verdict(slowTally(1.5), time.Now())
		require.Greater(t, v.Latency.Evidence, v.Needed)
		require.Equal(t, want, v.Decision, "%v: %s", tolerance, v.Text)
	}
}

// TestEvidenceIsOfItsEpoch: a verdict about another weight, which an operator's step may meet, is
// not carried on.
func TestEvidenceIsOfItsEpoch(t *testing.T) {
	s := RolloutState{
		Release: "v2", Phase: PhaseRunning, Epoch: 7, Period: 1, ErrorsBefore: 2, Extended: time.Hour,
	}
	steps := []Step{{Weight: 0.05}, {Weight: 1}}
	v := &Verdict{Epoch: 7, Errors: TestResult{Evidence: 50}, Latency: TestResult{Evidence: 60}}
	next := s.atStep(1, steps, ReasonOperator, v)
	require.Equal(t, [2]float64{50, 60}, [2]float64{next.ErrorsBefore, next.LatencyBefore})
	require.Equal(t, 2, next.Period)
	require.Zero(t, next.Extended, "the next step has its own deadline")
	v.Epoch = 6
	next = s.atStep(1, steps, ReasonOperator, v)
	require.Equal(t, [2]float64{2, 0}, [2]float64{next.ErrorsBefore, next.LatencyBefore})
}

// TestBinsThatDoNotExist are refused, though the distance to each is one that may be.
func TestBinsThatDoNotExist(t *testing.T) {
	text := new(tally).encode(7)
	text = text[:len(text)-1] // the end of canary's durations
	text = binary.AppendUvarint(text, bins)
	text = append(text, 1)
	_, ok := decodeTally(append(text, 0), 7)
	require.True(t, ok, "the last bin")
	_, ok = decodeTally(append(text, 1, 1, 0), 7)
	require.False(t, ok)

	// Nor are there buckets beyond the last one.
	text = new(tally).encode(7)
	text[2+8*setWords-1] = 0x80
	_, ok = decodeTally(text, 7)
	require.False(t, ok)
}

// TestAFailureIsNotSlow: it is often as slow as a time limit, and it is counted already.
func TestAFailureIsNotSlow(t *testing.T) {
	var e evidence
	e.slowFrom.Store(int64(time.Second))
	e.record(draw{counts: true, canary: true, bucket: 1}, failure, time.Hour)
	var sum tally
	e.addTo(&sum)
	slow, _ := sum.slow.buckets.count(500)
	failed, _ := sum.errors.buckets.count(500)
	require.Equal(t, []int{0, 1}, []int{slow, failed})
}

// A decision that was made under one plan holds under another as far as the arm still gets
// requests. What was forced stays where it was forced to while the release is the same.
func TestADecisionUnderAnotherPlan(t *testing.T) {
	cfg, other := &RolloutConfig{Release: "r1"}, &RolloutConfig{Release: "r2"}
	drawn := func(canary bool) draw { return draw{canary: canary, counts: true, bucket: 7} }
	forced := func(canary bool) draw { return draw{canary: canary, forced: true} }
	for name, tt := range map[string]struct {
		was    draw
		cfg    *RolloutConfig
		weight int
		ours   bool
		canary bool
		moved  bool
		counts bool
	}{
		"the same plan":         {drawn(true), cfg, 100, true, true, false, true},
		"another weight":        {drawn(true), cfg, 200, true, true, false, false},
		"no weight":             {drawn(true), cfg, 0, true, false, true, false},
		"no weight, forced":     {forced(true), cfg, 0, true, true, false, false},
		"all weight":            {drawn(false), cfg, fullWeight, true, true, true, false},
		"all weight, forced":    {forced(false), cfg, fullWeight, true, false, false, false},
		"another release":       {drawn(true), other, 100, true, false, true, false},
		"forced to another":     {forced(true), other, 100, true, false, true, false},
		"handlers of another":   {drawn(true), cfg, 100, false, false, true, false},
		"stable, of another":    {drawn(false), cfg, fullWeight, false, false, false, false},
		"stable, other release": {drawn(false), other, 100, true, false, false, false},
	} {
		d := &armDecision{plan: &plan{cfg: cfg, weight: 100}, draw: tt.was}
		now := d.under(&plan{cfg: tt.cfg, weight: tt.weight}, tt.ours)
		require.Equal(t, tt.canary, now.canary, name)
		require.Equal(t, tt.moved, now.moved, name)
		require.Equal(t, tt.counts, now.counts, name)
	}
}

// A version in a brownout succeeds no other, since its clients are refused now.
func TestAVersionInABrownoutIsNoSuccessor(t *testing.T) {
	now := time.Now()
	v := &Versions{versions: []version{
		newVersion(Version{Name: "1", Deprecated: now.Add(-time.Hour)}),
		newVersion(Version{Name: "2", Brownouts: []Brownout{{From: now.Add(-1), Until: now.Add(time.Hour)}}}),
		newVersion(Version{Name: "3", Sunset: now}),
		newVersion(Version{Name: "4"}), newVersion(Version{Name: "5"}),
	}}
	require.Equal(t, 3, v.next(0, now))
	require.Equal(t, 1, v.next(0, now.Add(-time.Minute)))
	require.Equal(t, 2, v.next(1, now.Add(-time.Minute)))
	require.Equal(t, 4, v.next(3, now))
	require.Equal(t, 4, v.next(4, now))
}
