package pacer_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
)

func TestPacerObeysTheServer(t *testing.T) {
	for name, tt := range map[string]struct {
		rt   http.RoundTripper
		want []float64 // seconds from the answer to the next requests
	}{
		"nothing":               {answer(200), []float64{0, 0}},
		"seconds":               {answer(429, "Retry-After", "7"), []float64{7, 7}},
		"503 too":               {answer(503, "Retry-After", "7"), []float64{7}},
		"date":                  {answer(429, "Retry-After", "Sat, 01 Jan 2000 00:00:09 GMT"), []float64{9}},
		"not of a redirect":     {answer(301, "Retry-After", "7"), []float64{0}},
		"at most MaxRetryAfter": {answer(429, "Retry-After", "99999999999999999999"), []float64{60}},
		"garbage":               {answer(429, "Retry-After", "soon"), []float64{0}},
		"negative":              {answer(429, "Retry-After", "-5"), []float64{0}},
		"nothing left":          {answer(200, "RateLimit", `"p";r=0;t=5`), []float64{5}},
		"a pace":                {answer(200, "RateLimit", `"p";r=1;t=5`), []float64{0, 5, 5.1}},
		"the strictest": {
			answer(200, "RateLimit", `"p";r=100;t=5, "q";r=1;t=5, "s";r=3;t=10`), []float64{0, 5},
		},
		"Retry-After goes first": {
			answer(429, "Retry-After", "2", "RateLimit", `"p";r=0;t=50`), []float64{2},
		},
		"never above the rate": {answer(200, "RateLimit", `"p";r=1000000;t=1`), []float64{0, 0, 0.1}},
		"stored": {
			answer(429, "Age", "0", "Retry-After", "7", "RateLimit", `"p";r=0;t=5`), []float64{0},
		},
		"malformed":            {answer(200, "RateLimit", `p;r=0;t=5`), []float64{0}},
		"malformed as a whole": {answer(200, "RateLimit", `"p";r=0;t=5, ???`), []float64{0}},
		"no number":            {answer(200, "RateLimit", `"p";r="0";t=5`), []float64{0}},
		"an older draft": {
			answer(200, "RateLimit", `limit=10, remaining=0, reset=5`), []float64{0},
		},
		"negative left":           {answer(200, "RateLimit", `"p";r=-1;t=5`), []float64{0}},
		"no window":               {answer(200, "RateLimit", `"p";r=0;t=0`), []float64{0}},
		"a long window is a pace": {answer(200, "RateLimit", `"p";r=10;t=600`), []float64{0, 60}},
		"nothing left of two": {
			answer(200, "RateLimit", `"p";r=0;t=9, "q";r=0;t=5`), []float64{9},
		},
		"less than one in MaxRetryAfter": {answer(200, "RateLimit", `"p";r=1;t=600`), []float64{0, 60}},
		"an unbearably long window": {
			answer(200, "RateLimit", `"p";r=0;t=999999999999999`), []float64{60},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPacer(t, pacer.Config{
					Rate: ratelimit.PerSecond(10).WithBurst(3), MaxWait: -1, MaxRetryAfter: time.Minute,
				})
				require.NoError(t, send(t, p.TransportFor("a", tt.rt), "http://a/"))
				start := time.Now()
				for i, want := range tt.want {
					require.NoError(t, send(t, p.TransportFor("a", answer(200)), "http://a/"))
					after := time.Since(start).Round(50 * time.Millisecond)
					require.Equal(t, want, after.Seconds(), "request %d", i)
				}
			})
		})
	}
}

// TestPacerHintsEnd: and what waits already heeds a hint that comes meanwhile.
func TestPacerHintsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(1), MaxWait: -1})
		start := time.Now()
		require.NoError(t, p.Wait(t.Context(), "a"))
		var second time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Wait(t.Context(), "a"); err != nil {
				t.Error(err)
			}
			second = time.Since(start)
		})
		synctest.Wait()
		hinting := func(fields ...string) {
			rt := p.TransportFor("a", answer(429, fields...))
			_ = send(t, rt, "http://a/")
		}
		wg.Go(func() { hinting("Retry-After", "10") }) // is sent at 0.2 s at the earliest
		wg.Wait()
		require.Equal(t, 100*time.Millisecond, second.Round(time.Millisecond))
		require.NoError(t, p.Wait(t.Context(), "a"))
		require.Equal(t, 10200*time.Millisecond, time.Since(start).Round(time.Millisecond))
		hinting("RateLimit", `"p";r=1;t=2`)
		slow := time.Now()
		for range 2 {
			require.NoError(t, p.Wait(t.Context(), "a"))
		}
		require.GreaterOrEqual(t, time.Since(slow), 2*time.Second)
		time.Sleep(5 * time.Second)
		fast := time.Now()
		for range 11 {
			require.NoError(t, p.Wait(t.Context(), "a"))
		}
		require.Equal(t, time.Second, time.Since(fast).Round(time.Millisecond), "the configured pace is back")
		require.EqualValues(t, 2, p.Stats().Hints)

		deaf := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(2), MaxRetryAfter: -1})
		require.NoError(t, send(t, deaf.Transport(answer(429, "Retry-After", "10")), "http://a/"))
		from := time.Now()
		require.NoError(t, send(t, deaf.Transport(answer(200)), "http://a/"))
		require.Zero(t, time.Since(from))
	})
}

// TestPacerWaitersHeedABlock: who waits for a token when the block comes waits on, and what was
// earned meanwhile is no second burst.
func TestPacerWaitersHeedABlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(1).WithBurst(1), MaxWait: -1})
		release := make(chan struct{})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = send(t, p.TransportFor("a", roundTripFunc(func(r *http.Request) (*http.Response, error) {
				<-release
				return answer(429, "Retry-After", "5").RoundTrip(r)
			})), "http://a/")
		})
		synctest.Wait()
		var mu sync.Mutex
		var at []time.Duration
		for range 2 {
			wg.Go(func() {
				if err := p.Wait(t.Context(), "a"); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(start).Round(time.Millisecond))
			})
			synctest.Wait()
		}
		time.Sleep(500 * time.Millisecond)
		close(release)
		wg.Wait()
		require.Equal(t, []time.Duration{5500 * time.Millisecond, 6500 * time.Millisecond}, at)
	})
}

// TestPacerLateHints: a hint finds its host's pace however long the answer took, never shortens a
// longer one, and who waits at its end is not kept by the slow pace.
func TestPacerLateHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(1), MaxKeys: 1, MaxWait: -1})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = send(t, p.TransportFor("a", roundTripFunc(func(r *http.Request) (*http.Response, error) {
				time.Sleep(time.Minute)
				return answer(429, "Retry-After", "60").RoundTrip(r)
			})), "http://a/")
		})
		time.Sleep(30 * time.Second)
		require.NoError(t, p.Wait(t.Context(), "b"))
		wg.Wait()
		start := time.Now()
		wg.Go(func() {
			if err := p.Wait(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		require.Equal(
			t, time.Minute, time.Since(start).Round(time.Millisecond), "what was in flight kept its pace",
		)
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(3), MaxWait: -1})
		start := time.Now()
		var wg sync.WaitGroup
		for i, fields := range [][]string{{"Retry-After", "60"}, {"Retry-After", "5"}} {
			wg.Go(func() {
				_ = send(t, p.TransportFor("a", roundTripFunc(func(r *http.Request) (*http.Response, error) {
					time.Sleep(time.Duration(i+1) * time.Second)
					return answer(429, fields...).RoundTrip(r)
				})), "http://a/")
			})
		}
		wg.Wait()
		require.NoError(t, p.Wait(t.Context(), "a"))
		require.Equal(t, 61*time.Second, time.Since(start).Round(time.Millisecond))
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(2), MaxWait: -1})
		require.NoError(
			t, send(t, p.TransportFor("a", answer(200, "RateLimit", `"p";r=1;t=60`)), "http://a/"),
		)
		start := time.Now()
		time.Sleep(30 * time.Second)
		require.NoError(t, p.Wait(t.Context(), "a"))
		// half of a token is there at the end, the rest comes at the full pace
		require.NoError(t, p.Wait(t.Context(), "a"))
		require.InDelta(t, time.Minute, time.Since(start), float64(100*time.Millisecond))
	})
}

func FuzzRateLimit(f *testing.F) {
	for _, s := range []string{
		`"a";r=1;t=2`, `"a";r=0;t=2, "b";r=5;t=1`, `"a";r=1`, `a;r=1;t=1`, `"a";r=1.5;t=1`,
		`("a" "b");r=1;t=1`, `"a";r=-1;t=1`, `"a";r=1;t=999999999999999`, `"\"";r=1;t=1;pk=:YQ==:`,
		`limit=1`, `"a";r=?1;t=1`, `"a`,
	} {
		f.Add(s, "")
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		values := []string{a, b}
		if b == "" {
			values = values[:1]
		}
		wait, units, per := pacer.ParseRateLimit(values)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.Equal(t, units > 0, per > 0, "a pace has both")
		require.GreaterOrEqual(t, units, int64(0))
		if per > 0 {
			require.GreaterOrEqual(t, per, time.Second)
		}
		if len(a)+len(b) > 4096 {
			require.Zero(t, wait+per)
		}
		w2, u2, p2 := pacer.ParseRateLimit(append(values, `"more";r=0;t=7`))
		if w2 != 0 { // well-formed: one more policy can only be stricter
			require.GreaterOrEqual(t, w2, wait)
			require.Equal(t, units, u2)
			require.Equal(t, per, p2)
		}
	})
}

// TestPacerBlocksAndTokensRunTogether: what is earned during a block is there at its end, so who
// can wait that long is not refused.
func TestPacerBlocksAndTokensRunTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := pacer.Config{Rate: ratelimit.PerSecond(1).WithBurst(1), MaxQueue: -1}
		p := newPacer(t, cfg)
		require.NoError(t, send(t, p.TransportFor("a", answer(429, "Retry-After", "10")), "http://a/"))
		var e *pacer.Error
		require.ErrorAs(t, p.Wait(t.Context(), "a"), &e)
		require.Equal(t, 10*time.Second, e.Wait, "not eleven")

		cfg.MaxQueue = 1
		p = newPacer(t, cfg)
		require.NoError(t, send(t, p.TransportFor("a", answer(429, "Retry-After", "10")), "http://a/"))
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
		defer cancel()
		require.NoError(t, p.Wait(ctx, "a"))
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}

// TestPacerReadsLongFields: up to the bound, over all lines, and not a byte more.
func TestPacerReadsLongFields(t *testing.T) {
	const item = `"p";r=1;t=5`
	lines := []string{item, item + "," + strings.Repeat(" ", 4096-3*len(item)-1) + item}
	_, units, per := pacer.ParseRateLimit(lines)
	require.EqualValues(t, 1, units)
	require.Equal(t, 5*time.Second, per)
	lines[0] += " "
	_, units, per = pacer.ParseRateLimit(lines)
	require.Zero(t, units)
	require.Zero(t, per)
}
