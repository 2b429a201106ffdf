//go:build !race

package versioning

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var simulateAll = flag.Bool(
	"sim", false, "run the whole simulation of rollouts and write testdata/rollout.md",
)

// Traffic of the simulation.
const (
	simKeys     = 20_000
	simRate     = 100     // requests a second, in all
	simInterval = simRate // requests between two looks of a fleet, a second
	simNull     = 100_000 // requests of a run without a difference
	simSearch   = 40_000  // of a run with one
	simAlpha    = 0.005   // of the test, and of the rules beside it
	simMinute   = 60 * simRate
	simWeight   = fullWeight / 20
)

// Whose requests they are.
const (
	equalKeys  = "equal keys"
	zipfKeys   = "Zipf 1.0 keys"
	brokenKeys = "1 client in 1,000 always failing"
	noKeys     = "arm per request"
	fewKeys    = "500 keys"
	zipfBroken = "Zipf 1.0 keys, 1 in 1,000 always failing"
)

// A scene is one kind of run.
type scene struct {
	keys     string
	replicas int
	rates    [2]float64 // of errors, in stable and canary
	requests int
	weights  []int // one after the other, each for as many requests
}

func (s *scene) broken(key int) bool {
	return (s.keys == brokenKeys || s.keys == zipfBroken) && key%1000 == 500
}

// zipf holds the sums of the popularity of keys.
var zipf = sync.OnceValue(func() []float64 {
	sums := make([]float64, simKeys)
	total := 0.0
	for i := range sums {
		total += 1 / float64(i+1)
		sums[i] = total
	}
	return sums
})

// A customer draws keys.
type customer struct {
	rng  *rand.Rand
	n    int
	sums []float64
}

func (s *scene) customer(rng *rand.Rand) customer {
	c := customer{rng: rng, n: simKeys}
	switch s.keys {
	case fewKeys:
		c.n = 500
	case zipfKeys, zipfBroken:
		c.sums = zipf()
	}
	return c
}

func (c *customer) key() int {
	if c.sums == nil {
		return c.rng.IntN(c.n)
	}
	i, _ := slices.BinarySearch(c.sums, c.rng.Float64()*c.sums[c.n-1])
	return i
}

// popularity returns the share of requests that a key sends.
func (c *customer) popularity(key int) float64 {
	if c.sums == nil {
		return 1 / float64(c.n)
	}
	return 1 / float64(key+1) / c.sums[c.n-1]
}

// simBucket is bucketOf for keys that are numbers.
func simBucket(salt uint64, key int) int { return scale(mix(uint64(key)*0x9e3779b97f4a7c15 ^ salt)) }

// A rule decides whether canary is worse, beside others on the same run. It is told of each error.
type rule interface {
	failed(replica, key int, d draw, at int) bool
	weighs(weight int, canaryShare float64)
	looks(at int) bool
}

// ours is the test of a Rollout, by the views of a fleet's replicas: what each has seen itself, and
// what all had seen at the last look.
type ours struct {
	views   []testTally
	own     [][2]uint64 // singles
	all     testTally
	changed []int // replicas that have seen something since the last look
	alone   bool  // replicas do not tell each other
	weight  int
	period  int
	before  float64
}

func newOurs(replicas int, alone bool) *ours {
	return &ours{views: make([]testTally, replicas), own: make([][2]uint64, replicas), alone: alone}
}

func (o *ours) evidence(view *testTally) float64 {
	return o.before + share(o.period)*math.Exp(logEvidence(o.weight, view))
}

func (o *ours) weighs(weight int, _ float64) {
	if o.period > 0 {
		o.before = o.evidence(&o.views[0])
	}
	o.weight = weight
	o.period++
	clear(o.views)
	clear(o.own)
	o.all, o.changed = testTally{}, nil
}

func (o *ours) failed(replica, _ int, d draw, _ int) bool {
	view := &o.views[replica]
	if d.single {
		view.singles[d.arm()]++
		o.own[replica][d.arm()]++
	} else {
		word, bit := &view.buckets[d.bucket/64], uint64(1)<<(d.bucket%64)
		if *word&bit != 0 {
			return false
		}
		*word |= bit
	}
	o.changed = append(o.changed, replica)
	return o.evidence(view) >= 1/simAlpha
}

func (o *ours) looks(int) bool {
	if o.alone || len(o.views) == 1 || len(o.changed) == 0 {
		return false
	}
	o.all.singles = [2]uint64{}
	for _, own := range o.own {
		o.all.singles[0] += own[0]
		o.all.singles[1] += own[1]
	}
	for _, replica := range o.changed {
		for w, word := range o.views[replica].buckets {
			o.all.buckets[w] |= word
		}
	}
	o.changed = o.changed[:0]
	for i := range o.views {
		o.views[i] = o.all
	}
	return o.evidence(&o.all) >= 1/simAlpha
}

// everyError is the same test of every error, or of one for each key and minute.
type everyError struct {
	perMinute bool
	weight    int
	counts    [2]uint64
	last      map[int]int
}

func (e *everyError) weighs(weight int, _ float64) { e.weight = weight }
func (e *everyError) looks(int) bool               { return false }

func (e *everyError) failed(_, key int, d draw, at int) bool {
	if e.perMinute && !d.single {
		minute := at/simMinute + 1
		if e.last[key] == minute {
			return false
		}
		e.last[key] = minute
	}
	e.counts[d.arm()]++
	return math.Exp(logRatio(e.weight, 0, 0, e.counts)) >= 1/simAlpha
}

// zTest is the test of two proportions, at the level of 1 %, each ten seconds.
type zTest struct {
	share  float64
	errors [2]float64
}

func (z *zTest) weighs(_ int, share float64) { z.share = share }

func (z *zTest) failed(_, _ int, d draw, _ int) bool {
	z.errors[d.arm()]++
	return false
}

func (z *zTest) looks(at int) bool {
	n := [2]float64{float64(at) * (1 - z.share), float64(at) * z.share}
	if at%(10*simRate) != 0 || n[1] < 100 {
		return false
	}
	pooled := (z.errors[0] + z.errors[1]) / (n[0] + n[1])
	spread := math.Sqrt(pooled * (1 - pooled) * (1/n[0] + 1/n[1]))
	return spread > 0 && (z.errors[1]/n[1]-z.errors[0]/n[0])/spread > 2.326
}

// The rules that are compared; the first is ours.
var simRules = [...]string{"buckets", "replicas alone", "every error", "one per key and minute", "z-test"}

func (s *scene) rules() [len(simRules)]rule {
	return [...]rule{
		newOurs(s.replicas, false), newOurs(s.replicas, true),
		&everyError{}, &everyError{perMinute: true, last: map[int]int{}}, &zTest{},
	}
}

// run returns for each rule after how many requests to canary it has found a difference; -1 if
// never. Only requests that fail are looked at one by one.
func (s *scene) run(seed uint64, all bool) (found [len(simRules)]float64) {
	rng := rand.New(rand.NewPCG(seed, 18))
	c := s.customer(rng)
	salt := rng.Uint64()
	rules := s.rules()
	active := rules[:1]
	if all {
		active = rules[:]
	}
	for i := range found {
		found[i] = -1
	}
	// Of every request, the chance that it may fail: the greater rate, or the broken clients'
	// share.
	most := max(s.rates[0], s.rates[1])
	var broken []int
	brokenShare := 0.0
	for key := range c.n {
		if s.broken(key) {
			broken = append(broken, key)
			brokenShare += c.popularity(key)
		}
	}
	chance := most + brokenShare
	looked, canary := 0, 0.0
	for part, weight := range s.weights {
		canaryShare := s.canaryShare(&c, salt, weight)
		for _, r := range active {
			r.weighs(weight, canaryShare)
		}
		begin, end := part*s.requests/len(s.weights), (part+1)*s.requests/len(s.weights)
		for at := begin; ; {
			at += 1 + int(math.Log(1-rng.Float64())/math.Log1p(-chance))
			for ; looked+simInterval <= min(at, end); looked += simInterval {
				for i, r := range active {
					if found[i] < 0 && r.looks(looked+simInterval) {
						found[i] = canary + float64(looked+simInterval-begin)*canaryShare
					}
				}
			}
			if at >= end {
				break
			}
			var key int
			if rng.Float64()*chance < brokenShare {
				key = s.pick(&c, broken, brokenShare)
			} else if key = c.key(); s.broken(key) {
				continue // its errors are drawn above
			}
			d := draw{counts: true, bucket: simBucket(salt, key), single: s.keys == noKeys}
			if d.single {
				d.bucket = rng.IntN(fullWeight)
			}
			d.canary = d.bucket < weight
			if !s.broken(key) && rng.Float64()*most >= s.rates[d.arm()] {
				continue
			}
			replica := 0
			if s.replicas > 1 {
				replica = rng.IntN(s.replicas)
			}
			over := true
			for i, r := range active {
				if found[i] < 0 && r.failed(replica, key, d, at) {
					found[i] = canary + float64(at-begin)*canaryShare
				}
				over = over && found[i] >= 0
			}
			if over {
				return found
			}
		}
		canary += float64(end-begin) * canaryShare
	}
	return found
}

// pick draws one of the broken keys by its popularity.
func (s *scene) pick(c *customer, broken []int, share float64) int {
	x := c.rng.Float64() * share
	for _, key := range broken {
		if x -= c.popularity(key); x < 0 {
			return key
		}
	}
	return broken[len(broken)-1]
}

// canaryShare is the share of requests that canary gets.
func (s *scene) canaryShare(c *customer, salt uint64, weight int) (share float64) {
	if s.keys == noKeys {
		return float64(weight) / fullWeight
	}
	for key := range c.n {
		if simBucket(salt, key) < weight {
			share += c.popularity(key)
		}
	}
	return share
}

// runs returns what many runs have found, by rule: after how many requests to canary, in ascending
// order.
func (s *scene) runs(n int, all bool) (found [len(simRules)][]float64) {
	results := make([][len(simRules)]float64, n)
	parallel(n, func(i int) { results[i] = s.run(uint64(i)+1, all) })
	for _, r := range results {
		for i, x := range r {
			if x >= 0 {
				found[i] = append(found[i], x)
			}
		}
	}
	for i := range found {
		slices.Sort(found[i])
	}
	return found
}

// parallel calls f for each number under n, on all processors.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for p := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := p; i < n; i += runtime.GOMAXPROCS(0) {
				f(i)
			}
		})
	}
	wg.Wait()
}

// upperBound returns the greatest chance of an event that is consistent, at 95 %, with having
// happened k times of n (Clopper and Pearson).
func upperBound(k, n int) float64 {
	low, high := float64(k)/float64(n), 1.0
	for range 60 {
		p := (low + high) / 2
		term, total := float64(n)*math.Log1p(-p), 0.0
		for i := range k + 1 {
			total += math.Exp(term)
			term += math.Log(float64(n-i)) - math.Log(float64(i+1)) + math.Log(p) - math.Log1p(-p)
		}
		if total > 0.05 {
			low = p
		} else {
			high = p
		}
	}
	return high
}

func median(sorted []float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[len(sorted)/2]
}

// simRuns are the runs of a row: all of them by make simulate, else a fiftieth.
func simRuns(n int) int {
	if *simulateAll {
		return n
	}
	return n / 50
}

// A simReport is the text that make simulate writes.
type simReport struct{ strings.Builder }

func (r *simReport) row(cells ...any) {
	for _, c := range cells {
		fmt.Fprintf(r, "| %v ", c)
	}
	r.WriteString("|\n")
}

func (r *simReport) head(title string, cells ...any) {
	fmt.Fprintf(r, "\n## %s\n\n", title)
	r.row(cells...)
	r.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
}

// medianOf is median for a report.
func medianOf(sorted []float64) string {
	if len(sorted) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", median(sorted))
}

func share100(k, n int) string { return fmt.Sprintf("%.2f %%", 100*float64(k)/float64(n)) }

// TestSimulationOfRollouts has the figures that the package promises.
func TestSimulationOfRollouts(t *testing.T) {
	began := time.Now()
	r := &simReport{}
	fmt.Fprintf(r, "# The analysis of rollouts, simulated\n\nWritten by `make simulate`. %d keys at %d "+
		"requests a second; α is %g %% for the tests of errors, 1 %% for the z-test, which looks each "+
		"ten seconds.\n", simKeys, simRate, simAlpha*100)
	simulateNull(t, r)
	simulateSteps(t, r)
	simulateSearch(t, r)
	simulateLatency(t, r)
	t.Log(r.String())
	if *simulateAll {
		t.Logf("took %v", time.Since(began))
		require.NoError(t, os.WriteFile("testdata/rollout.md", []byte(r.String()), 0o666))
	}
}

func simulateNull(t *testing.T, r *simReport) {
	r.head(fmt.Sprintf("False rollbacks: no difference, weight 5 %%, %d requests", simNull),
		"keys", "replicas", "errors", "runs", simRules[0], "upper 95 % bound", simRules[1], simRules[2],
		simRules[3], simRules[4])
	allFalse, allRuns := 0, 0
	for _, keys := range []string{equalKeys, zipfKeys, brokenKeys, noKeys, zipfBroken} {
		for _, replicas := range []int{1, 16} {
			for _, rate := range []float64{0.002, 0.01, 0.03} {
				s := scene{keys, replicas, [2]float64{rate, rate}, simNull, []int{simWeight}}
				n := simRuns(10_000)
				beside := s.runs(simRuns(2000), true)
				b := func(i int) string { return share100(len(beside[i]), simRuns(2000)) }
				k := len(s.runs(n, false)[0])
				allFalse, allRuns = allFalse+k, allRuns+n
				r.row(keys, replicas, fmt.Sprintf("%g %%", rate*100), n, share100(k, n),
					fmt.Sprintf("%.2f %%", upperBound(k, n)*100), b(1), b(2), b(3), b(4))
				if *simulateAll {
					require.LessOrEqual(t, upperBound(k, n), 0.01, "%+v", s)
				}
			}
		}
	}
	require.LessOrEqual(t, upperBound(allFalse, allRuns), 0.01)
}

func simulateSteps(t *testing.T, r *simReport) {
	weights := []int{simWeight, 2500, 5000}
	r.head(fmt.Sprintf("False rollbacks over the weights 5, 25 and 50 %%, %d requests in all", simNull),
		"keys", "runs", simRules[0], "upper 95 % bound")
	for _, keys := range []string{equalKeys, zipfKeys, brokenKeys, noKeys, zipfBroken} {
		s := scene{keys, 1, [2]float64{0.01, 0.01}, simNull, weights}
		n := simRuns(10_000)
		k := len(s.runs(n, false)[0])
		r.row(keys, n, share100(k, n), fmt.Sprintf("%.2f %%", upperBound(k, n)*100))
		require.LessOrEqual(t, float64(k), 0.015*float64(n), keys)
		if *simulateAll {
			require.LessOrEqual(t, upperBound(k, n), 0.01, keys)
		}
	}
}

func simulateSearch(t *testing.T, r *simReport) {
	r.head(fmt.Sprintf("Found within %d requests at weight 5 %%, and after how many to canary (median)",
		simSearch), "keys", "replicas", "errors", "runs", simRules[0], "median", "90th percentile",
		simRules[1], simRules[2], simRules[4])
	for _, rates := range [][2]float64{{0.01, 0.03}, {0.0005, 0.05}, {0.002, 0.01}} {
		for _, row := range []struct {
			keys     string
			replicas int
		}{{equalKeys, 1}, {equalKeys, 16}, {noKeys, 1}, {zipfKeys, 1}, {fewKeys, 1}} {
			s := scene{row.keys, row.replicas, rates, simSearch, []int{simWeight}}
			n := simRuns(5000)
			found := s.runs(n, true)
			m := median(found[0])
			both := func(i int) string {
				return share100(len(found[i]), n) + ", " + medianOf(found[i])
			}
			high := medianOf(found[0][len(found[0])*4/5:]) // of the last fifth: the 90th percentile
			r.row(row.keys, row.replicas, fmt.Sprintf("%g → %g %%", rates[0]*100, rates[1]*100), n,
				share100(len(found[0]), n), medianOf(found[0]), high, both(1),
				both(2), both(4))
			if row.keys != equalKeys {
				continue
			}
			switch rates {
			case [2]float64{0.01, 0.03}:
				require.GreaterOrEqual(t, float64(len(found[0])), 0.95*float64(n))
				require.LessOrEqual(t, m, 650.0)
			case [2]float64{0.0005, 0.05}:
				require.LessOrEqual(t, m, 110.0)
			}
		}
	}
}
