package redislimit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

const workerEnv = "TRIVET_REDISLIMIT_WORKER"

// A workload is what a worker process does: it asks for one key as often as it can.
type workload struct {
	Addr       string
	Rate       ratelimit.Rate
	Sliding    bool
	Lease      *redislimit.LeaseConfig
	Goroutines int
	Time       time.Duration
	Script     bool // record the history at the server
}

// A span is one admission: what was decided between From and To, in microseconds since 1970.
type span struct{ From, To int64 }

// work is the whole life of a worker process. It prints its admissions.
func work(env string) {
	var w workload
	if err := json.Unmarshal([]byte(env), &w); err != nil {
		fail(err)
	}
	client := redis.NewClient(
		&redis.Options{Addr: w.Addr, PoolSize: w.Goroutines, ReadTimeout: 20 * time.Second},
	)
	defer client.Close()
	cfg := redislimit.Config{Timeout: 20 * time.Second}
	if w.Lease != nil {
		cfg.Leases = map[string]redislimit.LeaseConfig{"p": *w.Lease}
	}
	store, err := redislimit.New(client, cfg)
	if err != nil {
		fail(err)
	}
	if w.Script {
		store.RecordHistory()
	}
	p := policyOf("p", w.Rate)
	p.OnError = ratelimit.FailClosed
	if w.Sliding {
		p.Algorithm = ratelimit.SlidingWindow
	}
	l, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{p}})
	if err != nil {
		fail(err)
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil { // all begin together
		fail(err)
	}
	var mu sync.Mutex
	var admitted []span
	var wg sync.WaitGroup
	end := time.Now().Add(w.Time)
	for range w.Goroutines {
		wg.Go(func() {
			for time.Now().Before(end) {
				from := time.Now()
				d, err := l.TakeKeys(context.Background(), []string{"hot"})
				to := time.Now()
				if err != nil || d.Outcome == ratelimit.Unavailable {
					fail(fmt.Errorf("%w: %+v %+v", err, d.Outcome, store.Stats()))
				}
				if d.Allowed {
					mu.Lock()
					admitted = append(admitted, span{from.UnixMicro(), to.UnixMicro()})
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	s := l.Stats()
	if err := json.NewEncoder(os.Stdout).Encode(
		result{Admitted: admitted, Decisions: s.Admitted + s.Limited},
	); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

type result struct {
	Admitted  []span
	Decisions uint64
}

// runWorkers runs w in n processes of this test binary at once.
func runWorkers(t *testing.T, n int, w workload) (admitted []span, decisions uint64) {
	t.Helper()
	env, err := json.Marshal(w)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	var mu sync.Mutex
	var ready, done sync.WaitGroup
	ready.Add(n)
	for range n {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), workerEnv+"="+string(env))
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		done.Go(func() {
			out := bufio.NewReader(stdout)
			line, err := out.ReadString('\n')
			ready.Done()
			if err != nil || line != "ready\n" {
				t.Errorf("a worker did not get ready: %q %v", line, err)
			}
			ready.Wait()
			fmt.Fprintln(stdin, "go")
			var r result
			if err := json.NewDecoder(out).Decode(&r); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			admitted = append(admitted, r.Admitted...)
			decisions += r.Decisions
		})
	}
	done.Wait()
	return admitted, decisions
}

// An entry is one line of the server's history.
type entry struct{ at, units int64 }

func history(t *testing.T, c *redis.Client) (entries []entry) {
	lines, err := c.LRange(t.Context(), "history", 0, -1).Result()
	require.NoError(t, err)
	for _, line := range lines {
		at, units, ok := strings.Cut(line, " ")
		require.True(t, ok)
		var e entry
		e.at, err = strconv.ParseInt(at, 10, 64)
		require.NoError(t, err)
		e.units, err = strconv.ParseInt(units, 10, 64)
		require.NoError(t, err)
		entries = append(entries, e)
	}
	return entries
}

// worst returns the most that any window of the history got beyond burst + rate × its length, in
// units.
func worst(entries []entry, r ratelimit.Rate) float64 {
	perMicro := float64(r.Limit) / float64(r.Window/time.Microsecond)
	most, least, sum := 0.0, 0.0, 0.0
	for i, e := range entries {
		line := perMicro * float64(e.at-entries[0].at)
		if i == 0 || sum-line < least {
			least = sum - line // of the windows that begin here
		}
		sum += float64(e.units)
		if over := sum - line - least - float64(r.Burst); i == 0 || over > most {
			most = over
		}
	}
	return most
}

// requireSpans fails if the admissions that certainly lie inside any window are more than
// allowed(its length).
func requireSpans(t *testing.T, spans []span, allowed func(micros int64) float64) {
	t.Helper()
	slices.SortFunc(spans, func(a, b span) int { return int(a.To - b.To) })
	starts := make([]int64, 0, 200) // windows to try: no need for all
	for i := 0; i < len(spans); i += len(spans)/200 + 1 {
		starts = append(starts, spans[i].From)
	}
	for _, from := range starts {
		n := 0
		for _, s := range spans {
			if s.From >= from {
				n++
				require.LessOrEqual(t, float64(n), allowed(s.To-from)+1e-6, "in %d µs", s.To-from)
			}
		}
	}
}

// TestR13_ProcessesShareOneLimit: eight processes of 64 goroutines on one key; the history is the
// server's.
func TestR13_ProcessesShareOneLimit(t *testing.T) {
	span := time.Second
	if soak() {
		span = 20 * time.Second
	}
	t.Run("bucket", func(t *testing.T) {
		server := startRedis(t)
		r := ratelimit.PerSecond(1500).WithBurst(40)
		admitted, decisions := runWorkers(
			t, 8, workload{Addr: server.Addr, Rate: r, Goroutines: 64, Time: span, Script: true},
		)
		h := history(t, server.client(t))
		require.Len(
			t, h, len(admitted), "whatever the server admitted reached a caller, and nothing else did",
		)
		over := worst(h, r)
		t.Logf(
			"%d decisions, %d admitted, worst window %.3f units beyond the bound, %d round trips", decisions,
			len(h), over, server.calls(),
		)
		require.LessOrEqual(t, over, 1e-6)
		require.Greater(t, float64(len(h)), 0.05*1500*span.Seconds(), "and the limit is used")
		requireSpans(t, admitted, func(us int64) float64 { return 40 + float64(us)*1500/1e6 })
	})
	t.Run("window", func(t *testing.T) {
		server := startRedis(t)
		const limit = 300
		r := ratelimit.Rate{Limit: limit, Window: 250 * time.Millisecond}
		admitted, decisions := runWorkers(
			t, 8,
			workload{Addr: server.Addr, Rate: r, Sliding: true, Goroutines: 64, Time: span, Script: true},
		)
		h := history(t, server.client(t))
		require.Len(t, h, len(admitted))
		aligned := map[int64]int64{}
		most := int64(0)
		for i, e := range h {
			aligned[e.at/250_000] += e.units
			n := int64(0)
			for j := i; j < len(h) && h[j].at < e.at+250_000; j++ {
				n += h[j].units
			}
			most = max(most, n)
		}
		for k, n := range aligned {
			require.LessOrEqual(t, n, int64(limit), "window %d", k)
		}
		t.Logf("%d decisions, %d admitted, at most %d in any 250 ms", decisions, len(h), most)
		require.LessOrEqual(t, most, int64(2*limit))
	})
	t.Run("leases", func(t *testing.T) {
		server := startRedis(t)
		r := ratelimit.PerSecond(1500).WithBurst(400)
		ttl := 200 * time.Millisecond
		admitted, decisions := runWorkers(t, 8, workload{
			Addr: server.Addr, Rate: r, Goroutines: 64, Time: span, Script: true,
			Lease: &redislimit.LeaseConfig{TTL: ttl},
		})
		h := history(t, server.client(t))
		bought := int64(0)
		for _, e := range h {
			bought += e.units
		}
		require.LessOrEqual(t, worst(h, r), 1e-6, "what is charged")
		require.LessOrEqual(t, int64(len(admitted)), bought, "nothing is admitted that was not paid for")
		t.Logf(
			"%d decisions, %d admitted, %d bought in %d round trips", decisions, len(admitted), bought,
			len(h),
		)
		requireSpans(
			t, admitted, func(us int64) float64 { return 400 + (float64(us)/1e6+ttl.Seconds())*1500 },
		)
	})
}

// TestLeasesSaveRoundTrips: at most 0.06 for each decision.
func TestLeasesSaveRoundTrips(t *testing.T) {
	server := startRedis(t)
	store := newStore(
		t, server.client(t),
		redislimit.Config{
			Timeout: 5 * time.Second, Leases: map[string]redislimit.LeaseConfig{"p": {TTL: time.Minute}},
		},
	)
	r := ratelimit.PerHour(3_600_000).WithBurst(1000)
	l := limiterOn(t, store, policyOf("p", r))
	take(t, l, "warm-up")
	before := server.calls()
	const n = 1000
	for range n {
		d := take(t, l, "a")
		require.True(t, d.Allowed)
		require.GreaterOrEqual(t, d.Remaining, int64(0))
	}
	trips := float64(server.calls()-before) / n
	t.Logf("%.3f round trips a decision", trips)
	require.LessOrEqual(t, trips, 0.06)
	require.EqualValues(t, server.calls()-before+1, store.Stats().Calls)
}

// TestLeasesEnd: what is not used in time is lost, so that a lease cannot be used long after it was
// charged.
func TestLeasesEnd(t *testing.T) {
	server := startRedis(t)
	store := newStore(
		t, server.client(t),
		redislimit.Config{
			Timeout: 5 * time.Second,
			Leases:  map[string]redislimit.LeaseConfig{"p": {Fraction: 0.5, TTL: 100 * time.Millisecond}},
		},
	)
	l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(3_600_000).WithBurst(1_000_000)))
	start := time.Now()
	take(t, l, "a")
	require.EqualValues(t, 499_999, store.Stats().Leased)
	require.Eventually(t, func() bool {
		take(t, l, "a")
		return store.Stats().Calls == 2
	}, time.Minute, time.Millisecond)
	require.GreaterOrEqual(t, time.Since(start), 100*time.Millisecond)
}

// TestLeasesWithCosts: what is left of a lease pays its part of the next cost and does not outlive
// its time.
func TestLeasesWithCosts(t *testing.T) {
	store := newStore(
		t, startRedis(t).client(t),
		redislimit.Config{
			Timeout: 5 * time.Second,
			Leases:  map[string]redislimit.LeaseConfig{"p": {Fraction: 0.5, Max: 10, TTL: time.Hour}},
		},
	)
	p := policyOf("p", ratelimit.PerDay(1).WithBurst(100))
	cost := int64(0)
	p.Cost = func(*http.Request) int64 { return cost }
	l := limiterOn(t, store, p)
	ask := func(c int64) ratelimit.Decision {
		cost = c
		d, err := l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		return d
	}
	total := int64(0)
	for i := 0; ; i++ {
		d := ask(int64(1 + i%7))
		if !d.Allowed {
			break
		}
		total += cost
		require.LessOrEqual(t, total, int64(100))
	}
	for ask(1).Allowed {
		total++
	}
	require.EqualValues(t, 100, total, "nothing is lost but by time")
	require.False(t, ask(101).Allowed, "more than the burst")
	require.True(t, ask(0).Allowed)
}

// TestLeasesPayForNothingAfterTheirTime: what was bought pays for nothing after its time, and a
// cost beyond the burst is never admitted bit by bit.
func TestLeasesPayForNothingAfterTheirTime(t *testing.T) {
	client := startRedis(t).client(t)
	limiter := func(rate ratelimit.Rate, cost *int64, lease redislimit.LeaseConfig) *ratelimit.Limiter {
		p := policyOf("p", rate)
		p.Key = func(r *http.Request) (string, bool) { return r.Host, true }
		p.Cost = func(*http.Request) int64 { return *cost }
		cfg := redislimit.Config{Timeout: 5 * time.Second}
		if lease != (redislimit.LeaseConfig{}) {
			cfg.Leases = map[string]redislimit.LeaseConfig{"p": lease}
		}
		return newLimiter(t, ratelimit.Config{
			Store: newStore(t, client, cfg), Policies: []ratelimit.Policy{p},
		})
	}
	ask := func(l *ratelimit.Limiter, host string) ratelimit.Decision {
		d, err := l.Take(t.Context(), &http.Request{Host: host})
		require.NoError(t, err)
		require.False(t, d.Degraded)
		return d
	}
	day := ratelimit.PerDay(1).WithBurst(100)
	cost := int64(3)
	// over before its answer comes
	short := limiter(day, &cost, redislimit.LeaseConfig{Fraction: 0.5, Max: 2, TTL: 1})
	for range 4 {
		require.True(t, ask(short, "short").Allowed)
	}
	nothing := int64(0)
	require.EqualValues(
		t, 100-4*(3+2), ask(limiter(day, &nothing, redislimit.LeaseConfig{}), "short").Remaining,
	)

	quick := ratelimit.PerSecond(1_000_000).WithBurst(10)
	long := limiter(quick, &cost, redislimit.LeaseConfig{Fraction: 0.5, TTL: time.Hour})
	require.True(t, ask(long, "long").Allowed)
	cost = 11
	d := ask(long, "long")
	require.False(t, d.Allowed)
	require.Zero(t, d.RetryAfter, "never")
}
