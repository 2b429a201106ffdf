package retry

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBucketsCoverEveryDuration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "d"))
		i := bucket(d)
		if i < 0 || i >= buckets {
			t.Fatalf("bucket %d", i)
		}
		if i == buckets-1 {
			return
		}
		if d >= upper(i) {
			t.Fatalf("%v is beyond bucket %d, which ends at %v", d, i, upper(i))
		}
		if i > 0 && d < upper(i-1) {
			t.Fatalf("%v is before bucket %d, which begins at %v", d, i, upper(i-1))
		}
		if width := upper(i) - d; width > max(d/7, 2*unit) {
			t.Fatalf("%v is in a bucket up to %v", d, upper(i))
		}
	})
	for i := 1; i < buckets; i++ {
		require.Greater(t, upper(i), upper(i-1))
	}
	require.Greater(t, upper(buckets-1), 30*time.Minute)
	require.Equal(t, buckets-1, bucket(math.MaxInt64))
	require.Equal(t, 0, bucket(-1))
}

// The delay is the 95th percentile, or a little more: never so little that more than 5 % are late.
func TestDelayIsTheQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		n := rapid.IntRange(enough, 2000).Draw(t, "n")
		median := rapid.Float64Range(-2, 3).Draw(t, "median") // exponent of milliseconds
		w := &window{}
		var all []time.Duration
		for i := range n {
			d := time.Duration(math.Pow(10, median+random.NormFloat64()/4) * float64(time.Millisecond))
			all = append(all, d)
			w.record(time.Duration(i), d, false)
		}
		slices.Sort(all)
		w.mu.Lock()
		got, ok := w.quantileLocked()
		w.mu.Unlock()
		if !ok {
			t.Fatal("no quantile")
		}
		late := 0
		for _, d := range all {
			if d > got {
				late++
			}
		}
		if float64(late) > 0.05*float64(n)+1 {
			t.Fatalf("%d of %d are late", late, n)
		}
		exact := all[int(quantile*float64(n))]
		if got > exact+exact/6+2*unit {
			t.Fatalf("%v, exactly %v", got, exact)
		}
	})
}

func TestNoDelayBeforeThereIsEnough(t *testing.T) {
	w := &window{}
	for i := range enough {
		_, ok := w.delay()
		require.False(t, ok)
		w.record(time.Duration(i), time.Millisecond, false)
	}
	_, ok := w.delay()
	require.True(t, ok)
}

func TestOldRequestsAreForgotten(t *testing.T) {
	fill := func(w *window, from time.Duration, n int, d time.Duration) {
		for range n {
			from += 20 * time.Millisecond
			w.record(from, d, false)
		}
	}
	w := &window{}
	fill(w, 0, 300, time.Second)
	fill(w, 6*time.Second, 300, 10*time.Millisecond)
	fill(w, 12*time.Second, 300, 10*time.Millisecond)
	fill(w, 18*time.Second, 20, 10*time.Millisecond)
	d, ok := w.delay()
	require.True(t, ok)
	require.Less(t, d, 12*time.Millisecond)

	// A host that is seldom asked keeps what it has, but not for ever.
	w.record(18*time.Second+stale, time.Millisecond, false)
	require.Equal(t, 1, w.now.n+w.old.n)
}

// When all of a host gets slow, hedging stops at once, and begins again when that has become usual.
func TestASlowHostIsNotHedged(t *testing.T) {
	w := &window{}
	var now time.Duration
	ask := func(d time.Duration) (hedged bool) {
		now += d
		wait, ok := w.delay()
		late := ok && d > wait
		if late {
			w.overdue()
			hedged = w.helps()
		}
		w.record(now, d, late)
		return hedged
	}
	for range 1000 {
		ask(10 * time.Millisecond)
	}
	hedges := 0
	for range 50 {
		if ask(time.Second) {
			hedges++
		}
	}
	require.Positive(t, hedges)
	require.Less(t, hedges, 15)
	for range 300 {
		ask(time.Second)
	}
	d, ok := w.delay()
	require.True(t, ok)
	require.Greater(t, d, time.Second)
}

// The delay follows what the host does within a few requests.
func TestDelayFollowsSoon(t *testing.T) {
	w := &window{}
	for i := range enough {
		w.record(time.Duration(i), 10*time.Millisecond, false)
	}
	d, ok := w.delay()
	require.True(t, ok)
	require.Less(t, d, 12*time.Millisecond)
	for i := range 16 {
		w.record(time.Duration(enough+i), time.Second, true)
	}
	d, _ = w.delay()
	require.GreaterOrEqual(t, d, time.Second)
}
