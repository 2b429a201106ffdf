package redislimit_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// TestR14_EveryKeyExpires: whatever was done to it.
func TestR14_EveryKeyExpires(t *testing.T) {
	c := startRedis(t).client(t)
	window := policyOf("window", ratelimit.PerMinute(50))
	window.Algorithm = ratelimit.SlidingWindow
	policies := []ratelimit.Policy{policyOf("bucket", ratelimit.PerMinute(100)), window}
	plain := newLimiter(
		t,
		ratelimit.Config{
			Store: newStore(t, c, redislimit.Config{Timeout: 5 * time.Second}), Policies: policies,
		},
	)
	leased := newLimiter(t, ratelimit.Config{
		Store: newStore(
			t, c,
			redislimit.Config{
				Timeout: 5 * time.Second, Leases: map[string]redislimit.LeaseConfig{"leased": {}},
			},
		),
		Policies: []ratelimit.Policy{policyOf("leased", ratelimit.PerMinute(100))},
	})
	for i := range 300 {
		key := strconv.Itoa(i % 7)
		d := take(t, plain, key, key)
		require.False(t, d.Degraded)
		take(t, leased, key)
		if i%50 == 0 {
			require.NoError(t, d.Charge(t.Context(), 1<<40))
		}
	}
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 21)
	for _, key := range keys {
		ttl, err := c.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.Positive(t, ttl, key)
		require.LessOrEqual(t, ttl, 6*366*24*time.Hour, key)
	}
}

// A spy sees what a client sends.
type spy struct {
	mu   sync.Mutex
	args [][]any
}

func (s *spy) DialHook(next redis.DialHook) redis.DialHook { return next }
func (s *spy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s.mu.Lock()
		s.args = append(s.args, cmd.Args())
		s.mu.Unlock()
		return next(ctx, cmd)
	}
}
func (s *spy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestR15_TheServersClockDecides: a caller sends no time of its own, so its clock cannot matter.
// And the server's does: a limit of a bucket that is used up at one time of it is not at a later
// one.
func TestR15_TheServersClockDecides(t *testing.T) {
	server := startRedis(t)
	var spies [2]spy
	for i := range spies {
		c := server.client(t)
		c.AddHook(&spies[i])
		store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
		l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(3).WithBurst(1)))
		require.Equal(t, i == 0, take(t, l, "a").Allowed, "the processes share the count")
	}
	last := func(s *spy) (args []any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, a := range s.args {
			if name, _ := a[0].(string); strings.HasPrefix(name, "eval") {
				args = a[2:] // after EVAL and script, or EVALSHA and hash
			}
		}
		require.NotEmpty(t, args)
		return args
	}
	require.Equal(t, last(&spies[0]), last(&spies[1]), "nothing in it depends on time or process")

	c := server.client(t)
	clock := func(us int64) { require.NoError(t, c.Set(t.Context(), "clock", us, 0).Err()) }
	for i, us := range []int64{1e15, 1e15 + 1_199_999_999, 1e15 + 1_200_000_000} {
		clock(us)
		store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second}) // knows of no denial
		store.ReadClock()
		l := limiterOn(t, store, policyOf("q", ratelimit.PerHour(3).WithBurst(1)))
		require.Equal(t, i != 1, take(t, l, "a").Allowed, "at %d", us)
	}
	// The server's clock is set back by an hour: no lock-out, and nothing minted.
	clock(1e15 - 3_600_000_000)
	store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
	store.ReadClock()
	l := limiterOn(t, store, policyOf("q", ratelimit.PerHour(3).WithBurst(1)))
	d := take(t, l, "a")
	require.False(t, d.Allowed)
	require.LessOrEqual(t, d.RetryAfter, 20*time.Minute)
	p := policyOf("w", ratelimit.PerHour(3))
	p.Algorithm = ratelimit.SlidingWindow
	for i, back := range []int64{0, 0, 0, 5 * 3_600_000_000, 5 * 3_600_000_000} {
		clock(1e15 - back)
		store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
		store.ReadClock()
		d := take(t, limiterOn(t, store, p), "a")
		require.Equal(t, i < 3, d.Allowed, "request %d", i)
		require.LessOrEqual(t, d.RetryAfter, 2*time.Hour)
	}
}

// TestR16_ScriptFlushUnderLoad: NOSCRIPT is nobody's error.
func TestR16_ScriptFlushUnderLoad(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, server.client(t), redislimit.Config{Timeout: 10 * time.Second})
	const limit, goroutines, each = 5000, 16, 400
	l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(1).WithBurst(limit)))
	stop := make(chan struct{})
	var flusher, load sync.WaitGroup
	flushes := 0
	flusher.Go(func() {
		c := server.client(t)
		for {
			select {
			case <-stop:
				return
			default:
				if err := c.ScriptFlush(context.Background()).Err(); err != nil {
					t.Error(err)
				}
				flushes++
			}
		}
	})
	for range goroutines {
		load.Go(func() {
			for range each {
				if d, err := l.TakeKeys(context.Background(), []string{"a"}); err != nil || d.Degraded {
					t.Errorf("%v %+v", err, store.Stats())
				}
			}
		})
	}
	load.Wait()
	close(stop)
	flusher.Wait()
	require.EqualValues(t, limit, l.Stats().Admitted)
	require.EqualValues(t, goroutines*each-limit, l.Stats().Limited)
	require.Greater(t, flushes, 10)
	require.Zero(t, store.Stats().Failures)
}

func TestR17_OneSlotOrRefused(t *testing.T) {
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer cluster.Close()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	one := []ratelimit.Policy{policyOf("a", ratelimit.PerSecond(1))}
	two := append(one, policyOf("b", ratelimit.PerSecond(1)))
	for _, client := range []redis.UniversalClient{cluster, ring} {
		_, err := ratelimit.New(ratelimit.Config{
			Store: newStore(t, client, redislimit.Config{}), Policies: two,
		})
		require.ErrorContains(
			t, err,
			"ratelimit: Config.Store: redislimit: Config.HashTag: or SameKey is needed for 2 policies",
		)
		for _, cfg := range []redislimit.Config{{HashTag: "x"}, {SameKey: true}} {
			_, err = ratelimit.New(ratelimit.Config{Store: newStore(t, client, cfg), Policies: two})
			require.NoError(t, err)
		}
		_, err = ratelimit.New(ratelimit.Config{
			Store: newStore(t, client, redislimit.Config{}), Policies: one,
		})
		require.NoError(t, err)
	}
	store := newStore(t, cluster, redislimit.Config{SameKey: true})
	l := newLimiter(t, ratelimit.Config{Store: store, Policies: two})
	require.True(t, take(t, l, "x", "y").Degraded, "the promise of SameKey was broken")
	require.Zero(t, store.Stats().Calls)
}

// TestR17_Cluster: three real nodes.
func TestR17_Cluster(t *testing.T) {
	var addrs []string
	for i := range 3 {
		s := startRedis(t, "--cluster-enabled", "yes",
			"--cluster-config-file", fmt.Sprintf("nodes-%d.conf", i),
			"--cluster-node-timeout", "2000", "--cluster-port", port(freeport.Reserve(t)))
		addrs = append(addrs, s.addr)
	}
	joinCluster(t, addrs)
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	defer cluster.Close()
	window := policyOf("window", ratelimit.PerDay(3))
	window.Algorithm = ratelimit.SlidingWindow
	for _, cfg := range []redislimit.Config{{HashTag: "tag"}, {SameKey: true}, {}} {
		cfg.Timeout = 10 * time.Second
		policies := []ratelimit.Policy{window, policyOf("bucket", ratelimit.PerDay(1).WithBurst(100))}
		if cfg.HashTag == "" && !cfg.SameKey {
			policies = policies[:1]
		}
		store := newStore(t, cluster, cfg)
		l := newLimiter(t, ratelimit.Config{Store: store, Policies: policies})
		for i := range 30 { // over all nodes
			keys := []string{fmt.Sprint(cfg, i), fmt.Sprint(cfg, i)}
			if cfg.HashTag != "" {
				keys[1] += "other"
			}
			for n := range 5 {
				d := take(t, l, keys[:len(policies)]...)
				require.False(t, d.Degraded, "%+v", store.Stats())
				require.Equal(t, n < 3, d.Allowed)
			}
		}
	}
	for i, addr := range addrs {
		c := redis.NewClient(&redis.Options{Addr: addr})
		n, err := c.DBSize(t.Context()).Result()
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Greater(t, n, int64(5), "node %d has its part", i)
	}
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// joinCluster gives the nodes a third of the slots each and makes them know each other.
func joinCluster(t *testing.T, addrs []string) {
	for i, addr := range addrs {
		c := redis.NewClient(&redis.Options{Addr: addr})
		defer c.Close()
		require.NoError(
			t, c.ClusterAddSlotsRange(t.Context(), i*16384/len(addrs), (i+1)*16384/len(addrs)-1).Err(),
		)
		require.NoError(t, c.Do(t.Context(), "cluster", "set-config-epoch", i+1).Err())
		first := redis.NewClient(&redis.Options{Addr: addrs[0]})
		busPort, err := first.ConfigGet(t.Context(), "cluster-port").Result()
		require.NoError(t, err)
		require.NoError(t, first.Close())
		if i > 0 {
			require.NoError(
				t,
				c.Do(
					t.Context(), "cluster", "meet", "127.0.0.1", port(addrs[0]), busPort["cluster-port"],
				).Err(),
			)
		}
	}
	for _, addr := range addrs {
		c := redis.NewClient(&redis.Options{Addr: addr})
		defer c.Close()
		require.Eventually(t, func() bool {
			info, err := c.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(
				info, fmt.Sprintf("cluster_size:%d", len(addrs)),
			)
		}, 30*time.Second, 20*time.Millisecond)
	}
}

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
	testFailing(t, func(s *server) { s.kill() }, func(s *server) { s.start(); s.await() })
}

func TestR19_RedisStopped(t *testing.T) {
	testFailing(t, func(s *server) { s.stop() }, func(s *server) { s.resume() })
}

func testFailing(t *testing.T, fell, raise func(*server)) {
	server := startRedis(t)
	client := quick(t, server.addr)
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
				if l.Stats().Degraded != want {
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
			store := newStore(t, quick(t, server.addr), redislimit.Config{Timeout: time.Second})
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
				server.stop()
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
				server.resume()
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
		Store:    newStore(t, quick(t, server.addr), redislimit.Config{Timeout: time.Second}),
		Policies: []ratelimit.Policy{policyOf("p", ratelimit.PerDay(1))},
		Observe: func(_ context.Context, e ratelimit.Event) {
			if e.Kind == ratelimit.StoreChanged {
				events = append(events, e.Up)
			}
		},
	})
	require.True(t, take(t, l, "a").Allowed)
	require.False(t, take(t, l, "a").Allowed)
	server.kill()
	for range 20 {
		take(t, l, "b")
		require.False(t, take(t, l, "a").Allowed)
	}
	require.Equal(t, []bool{false}, events)
	require.True(t, l.Stats().Degraded)
}

// TestR20_ForeignValue: a key that holds something else fails its own decisions alone.
func TestR20_ForeignValue(t *testing.T) {
	c := startRedis(t).client(t)
	store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(1).WithBurst(2)))
	require.True(t, take(t, l, "a").Allowed)
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	for _, value := range []string{
		"", "x", "1 2", "1 2 3 4", "-1 2 3", "1 99999999999999999999 3", "1e9 1 1", "1 2 3\n", "nan 1 1",
	} {
		require.NoError(t, c.Set(t.Context(), keys[0], value, 0).Err())
		for range 5 {
			require.True(t, take(t, l, "a").Degraded, "%q", value)
			require.False(t, take(t, l, "b"+value).Degraded, "others are well")
		}
	}
	require.NoError(t, c.Del(t.Context(), keys[0]).Err())
	require.NoError(t, c.LPush(t.Context(), keys[0], "a list").Err())
	require.True(t, take(t, l, "a").Degraded)
	require.False(t, store.Stats().Open)
}

// TestR21_FailoverLosesWrites: a replica that lags takes over; at most what the lag earned and had
// charged is granted again.
func TestR21_FailoverLosesWrites(t *testing.T) {
	primary := startRedis(t, "--repl-diskless-sync-delay", "0")
	replica := startRedis(t, "--replicaof", "127.0.0.1 "+port(primary.addr))
	rc := replica.client(t)
	require.Eventually(t, func() bool {
		info, err := rc.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	}, 20*time.Second, 10*time.Millisecond)

	var current atomic.Pointer[string]
	current.Store(&primary.addr)
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
	primary.kill()
	current.Store(&replica.addr)
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

// TestR22_NoClientTextInKeys: neither a client's text nor its length reaches Redis, nor an event.
func TestR22_NoClientTextInKeys(t *testing.T) {
	c := startRedis(t).client(t)
	var logged strings.Builder
	l := newLimiter(t, ratelimit.Config{
		Store:    newStore(t, c, redislimit.Config{Timeout: 5 * time.Second}),
		Policies: []ratelimit.Policy{policyOf("p", ratelimit.PerDay(1))},
		Observe:  func(_ context.Context, e ratelimit.Event) { logged.WriteString(e.LogValue().String()) },
	})
	secrets := []string{
		"sk-secret-key", "a}{b", "x\r\nFLUSHALL\r\n", strings.Repeat("secret", 100_000), "*", "\x00", "{}",
		"secret\u2028",
	}
	for _, key := range secrets {
		require.True(t, take(t, l, key).Allowed)
		require.False(t, take(t, l, key).Allowed)
	}
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, len(secrets), "no two share a count")
	for _, key := range keys {
		require.Regexp(t, `^trivet:ratelimit:p:g:\{[A-Za-z0-9_-]{22}\}$`, key)
	}
	require.NotContains(t, logged.String(), "secret")
}
