package redislimit_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// quick is a client that gives up early, so that killed servers do not keep goroutines.
func quick(t testing.TB, addr string) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// startLoad calls one from several goroutines until stop is called, which reports the first thing
// that was wrong.
func startLoad(goroutines int, one func() (wrong string)) (stop func(*testing.T)) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	var first atomic.Pointer[string]
	for range goroutines {
		wg.Go(func() {
			pause := time.NewTicker(time.Millisecond) // the machine has other things to do
			defer pause.Stop()
			for {
				select {
				case <-ended:
					return
				case <-pause.C:
				}
				if wrong := one(); wrong != "" {
					first.CompareAndSwap(nil, &wrong)
				}
			}
		})
	}
	return func(t *testing.T) {
		close(ended)
		wg.Wait()
		if w := first.Load(); w != nil {
			t.Error(*w)
		}
	}
}

// durations collects measurements.
type durations struct {
	mu  sync.Mutex // guards the field below
	all []time.Duration
}

func (d *durations) add(one time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, one)
}

func (d *durations) summary() (p99, most time.Duration) {
	slices.Sort(d.all)
	return d.all[len(d.all)*99/100], d.all[len(d.all)-1]
}

// rounds is how often a server is killed or stopped.
func rounds() int {
	if soak() {
		return 20
	}
	return 3
}

// TestR18_RedisKilled and TestR19_RedisStopped: under load, each policy's OnError decides, nobody
// waits longer than the budget, the change is visible, and goroutines stay few.
func TestR18_RedisKilled(t *testing.T) {
	testFailing(t, func(s *server) { s.Kill() }, func(s *server) { s.Restart() })
}

func TestR19_RedisStopped(t *testing.T) {
	testFailing(t, func(s *server) { s.Pause() }, func(s *server) { s.Resume() })
}

func testFailing(t *testing.T, fell, raise func(*server)) {
	server := startRedis(t)
	client := quick(t, server.Addr)
	var changes [2]atomic.Int64 // of the store: down, up
	limiter := func(
		name string, rate ratelimit.Rate, onError ratelimit.OnError, share float64,
	) (*ratelimit.Limiter, *redislimit.Store) {
		p := policyOf(name, rate)
		p.OnError, p.LocalShare = onError, share
		store := newStore(t, client, redislimit.Config{})
		return newLimiter(t, ratelimit.Config{
			Store: store, Policies: []ratelimit.Policy{p},
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind == ratelimit.StoreChanged {
					changes[index(e.Up)].Add(1)
				}
			},
		}), store
	}
	wide := ratelimit.PerSecond(1_000_000).WithBurst(1_000_000)
	open, openStore := limiter("open", wide, ratelimit.FailOpen, 0)
	closed, closedStore := limiter("closed", wide, ratelimit.FailClosed, 0)
	local, localStore := limiter("local", ratelimit.PerHour(3600).WithBurst(2000), ratelimit.FailLocal, 0.5)
	limiters := []*ratelimit.Limiter{open, closed, local}
	stores := []*redislimit.Store{openStore, closedStore, localStore}

	eventually := func(what string, ok func() bool) {
		t.Helper()
		require.Eventually(t, ok, time.Minute, time.Millisecond, what)
	}
	degraded := func(want bool) func() bool {
		return func() bool {
			for _, l := range limiters {
				if l.Stats().StoreUp == want {
					return false
				}
			}
			return true
		}
	}
	var down atomic.Bool
	goroutines := runtime.NumGoroutine()
	const budget = 25 * time.Millisecond
	var each, waits durations
	timed := func(l *ratelimit.Limiter) ratelimit.Decision {
		from := time.Now()
		d := take(t, l, "a")
		each.add(time.Since(from))
		return d
	}
	// The control: what the scheduler makes of a bare wait for as long as the budget.
	stopControl := startLoad(16, func() string {
		from := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), budget)
		defer cancel()
		<-ctx.Done()
		waits.add(time.Since(from))
		return ""
	})
	stop := startLoad(4, func() string {
		before := down.Load()
		d := timed(open)
		if !d.Allowed {
			return fmt.Sprintf("FailOpen refused: %+v", openStore.Stats())
		}
		d = timed(closed)
		if d.Degraded == d.Allowed || d.Degraded != (d.Outcome == ratelimit.Unavailable) {
			return fmt.Sprintf("FailClosed: %+v", d)
		}
		timed(local)
		if !before && !down.Load() && d.Degraded && d.RetryAfter != time.Second {
			return "no Retry-After"
		}
		return ""
	})
	var slowest time.Duration
	for range rounds() {
		eventually("well", degraded(false))
		down.Store(true)
		fell(server)
		eventually("degraded", degraded(true))
		eventually("the breakers open", func() bool {
			return openStore.Stats().Open && closedStore.Stats().Open && localStore.Stats().Open
		})
		for range 200 { // spread over the outage
			from := time.Now()
			take(t, open, "b")
			slowest = max(slowest, time.Since(from))
		}
		for _, s := range stores {
			require.LessOrEqual(t, s.Stats().InFlight, 256)
		}
		require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+3*256+200)
		raised := time.Now()
		raise(server)
		eventually("recovered", degraded(false))
		down.Store(false)
		t.Logf(
			"recovered %v after the server was told to come back", time.Since(raised).Round(time.Millisecond),
		)
	}
	stop(t)
	stopControl(t)
	p99, most := each.summary()
	waitP99, waitMost := waits.summary()
	t.Logf("%d decisions: p99 %v, most %v; while the breaker is open at most %v; bare waits: p99 %v, most %v",
		len(each.all), p99, most, slowest, waitP99, waitMost)
	require.LessOrEqual(t, p99, waitP99+10*time.Millisecond)
	require.LessOrEqual(t, most, 2*waitMost+225*time.Millisecond)
	require.LessOrEqual(t, slowest, 2*waitMost+225*time.Millisecond)
	require.GreaterOrEqual(t, changes[0].Load(), int64(3*rounds()))
	require.InDelta(t, changes[0].Load(), changes[1].Load(), 3)
	require.Eventually(t, func() bool {
		n := 0
		for _, s := range stores {
			n += s.Stats().InFlight
		}
		return n == 0
	}, 30*time.Second, 10*time.Millisecond, "no call is left")
}

// TestR18_FailoverGrantsNoFreshBurst: of the local count no more is left than this process's share
// of what Redis had left.
func TestR18_FailoverGrantsNoFreshBurst(t *testing.T) {
	for name, algorithm := range map[string]ratelimit.Algorithm{
		"bucket": ratelimit.GCRA, "window": ratelimit.SlidingWindow,
	} {
		t.Run(name, func(t *testing.T) {
			server := startRedis(t)
			p := policyOf("p", ratelimit.PerDay(20))
			p.Algorithm, p.LocalShare = algorithm, 0.5
			if algorithm == ratelimit.GCRA {
				p.Rate.Burst = 20
			}
			p.Cost = func(r *http.Request) int64 { return r.ContentLength }
			store := newStore(t, quick(t, server.Addr), redislimit.Config{Timeout: time.Second})
			l := limiterOn(t, store, p)
			ask := func(cost int64) ratelimit.Decision {
				d, err := l.Take(t.Context(), &http.Request{ContentLength: cost})
				require.NoError(t, err)
				return d
			}
			total := 0
			for i := range rounds() {
				if i == 0 {
					require.True(t, ask(14).Allowed)
				}
				server.Pause()
				here := 0
				for range 30 {
					d := ask(1)
					require.Equal(t, i == 0, d.Degraded, "later it is known to be denied")
					if d.Allowed {
						here++
					}
				}
				if i == 0 {
					require.Equal(t, 3, here, "half of the six that were left")
				} else {
					require.Zero(t, here)
				}
				total += here
				server.Resume()
				require.Eventually(
					t, func() bool { return !ask(0).Degraded }, time.Minute, time.Millisecond,
				)
				for range 30 {
					d := ask(1)
					if d.Allowed {
						total++
					}
				}
			}
			require.LessOrEqual(t, total, 6+3)
		})
	}
}

// TestDenialsAreNoSignOfHealth: what is known without asking Redis does not end the degraded mode.
func TestDenialsAreNoSignOfHealth(t *testing.T) {
	server := startRedis(t)
	var events []bool
	l := newLimiter(t, ratelimit.Config{
		Store:    newStore(t, quick(t, server.Addr), redislimit.Config{Timeout: time.Second}),
		Policies: []ratelimit.Policy{policyOf("p", ratelimit.PerDay(1))},
		Observe: func(_ context.Context, e ratelimit.Event) {
			if e.Kind == ratelimit.StoreChanged {
				events = append(events, e.Up)
			}
		},
	})
	require.True(t, take(t, l, "a").Allowed)
	require.False(t, take(t, l, "a").Allowed)
	server.Kill()
	for range 20 {
		take(t, l, "b")
		require.False(t, take(t, l, "a").Allowed)
	}
	require.Equal(t, []bool{false}, events)
	require.False(t, l.Stats().StoreUp)
}

// TestR21_FailoverLosesWrites: a replica that lags takes over; at most what the lag earned and had
// charged is granted again.
func TestR21_FailoverLosesWrites(t *testing.T) {
	primary := startRedis(t, "--repl-diskless-sync-delay", "0")
	replica := startRedis(t, "--replicaof", "127.0.0.1 "+primary.Port())
	rc := replica.client(t)
	require.Eventually(t, func() bool {
		info, err := rc.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	}, 20*time.Second, 10*time.Millisecond)

	var current atomic.Pointer[string]
	current.Store(&primary.Addr)
	client := redis.NewClient(&redis.Options{
		Addr: "current", MaxRetries: 3,
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, *current.Load())
		},
	})
	defer client.Close()
	r := ratelimit.PerSecond(200).WithBurst(100)
	p := policyOf("p", r)
	p.OnError = ratelimit.FailClosed
	l := limiterOn(t, newStore(t, client, redislimit.Config{Timeout: 5 * time.Second}), p)
	admitted := 0
	drive := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); {
			if take(t, l, "a").Allowed {
				admitted++
			}
		}
	}
	start := time.Now()
	drive(300 * time.Millisecond)
	require.Eventually(t, func() bool { // the replica has all
		var offsets [2]string
		for i, c := range []*redis.Client{primary.client(t), rc} {
			info, err := c.Info(t.Context(), "replication").Result()
			require.NoError(t, err)
			_, offset, _ := strings.Cut(info, "master_repl_offset:")
			offsets[i], _, _ = strings.Cut(offset, "\r")
		}
		return offsets[0] == offsets[1]
	}, time.Minute, time.Millisecond)
	lost := time.Now()
	require.NoError(t, rc.ReplicaOf(t.Context(), "NO", "ONE").Err()) // from here on it misses every write
	drive(400 * time.Millisecond)
	primary.Kill()
	current.Store(&replica.Addr)
	lag := time.Since(lost)
	require.Eventually(t, func() bool {
		d := take(t, l, "a")
		admitted += index(d.Allowed)
		return !d.Degraded
	}, time.Minute, time.Millisecond)
	drive(300 * time.Millisecond)
	took := time.Since(start)
	bound := 100 + 200*took.Seconds() // without failover
	again := 100 + 200*lag.Seconds()
	t.Logf(
		"admitted %d in %v; %.0f without a failover, %.0f more may be granted again", admitted, took, bound,
		again,
	)
	require.LessOrEqual(t, float64(admitted), bound+again)
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}
