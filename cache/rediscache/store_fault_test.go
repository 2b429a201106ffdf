package rediscache_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
	"github.com/trivet-go/trivet/internal/program"
)

// entryKeys returns the keys of entries.
func entryKeys(t testing.TB, c *redis.Client) []string {
	t.Helper()
	keys, err := c.Keys(t.Context(), "{shop:*").Result()
	require.NoError(t, err)
	return keys
}

// TestC60_DamagedAndForeignValuesAreMisses: whatever is under a key in place of an entry.
func TestC60_DamagedAndForeignValuesAreMisses(t *testing.T) {
	server := startRedis(t)
	c := server.client(t)
	ctx := t.Context()
	store := newStore(t, c, generous)
	origin := newOrigin()
	h := newCache(t, cache.Config{Store: store}).Middleware(origin)
	get(t, h, "/x")
	key := entryKeys(t, c)[0]
	good, err := c.HGetAll(ctx, key).Result()
	require.NoError(t, err)
	require.Len(t, good, 2)
	var value, line string // names of fields
	for name := range good {
		if name[0] == 'b' {
			value = name
		} else {
			line = name
		}
	}
	put := func(fields map[string]string) func() {
		return func() {
			require.NoError(t, c.Del(ctx, key).Err())
			for name, v := range fields {
				require.NoError(t, c.HSet(ctx, key, name, v).Err())
			}
		}
	}
	with := func(name, v string) map[string]string {
		m := map[string]string{value: good[value], line: good[line]}
		m[name] = v
		return m
	}
	flipped := func(s string, i int) string {
		b := []byte(s)
		b[i] ^= 1
		return string(b)
	}
	cases := map[string]func(){
		"string":     func() { require.NoError(t, c.Set(ctx, key, "foreign", 0).Err()) },
		"list":       func() { c.Del(ctx, key); require.NoError(t, c.RPush(ctx, key, "a", "b").Err()) },
		"other hash": put(map[string]string{"name": "x", "m": "", "b": ""}),
		"truncated":  put(with(value, good[value][:len(good[value])-1])),
		"longer":     put(with(value, good[value]+"x")),
		"empty":      put(with(value, "")),
		"no line":    put(map[string]string{value: good[value]}),
		"no value":   put(map[string]string{line: good[line]}),
		"version":    put(with(value, "TRC\x02"+good[value][4:])),
		"line":       put(with(line, "1"+good[line])),
		"too large":  put(with(value, strings.Repeat("x", 3<<20))),
		"huge hash": func() {
			for i := range 600 {
				require.NoError(t, c.HSet(ctx, key, fmt.Sprintf("m%016x", i), good[line]).Err())
			}
		},
	}
	for i := 0; i < len(good[value]); i += 1 + len(good[value])/60 {
		cases[fmt.Sprint("byte ", i)] = put(with(value, flipped(good[value], i)))
	}
	for i := range len(good[line]) {
		cases[fmt.Sprint("byte of the line ", i)] = put(with(line, flipped(good[line], i)))
	}
	for name, damage := range cases {
		damage()
		_, status := get(t, h, "/x")
		require.False(t, hit(status), "%s: %s", name, status)
		_, status = get(t, h, "/x")
		require.True(t, hit(status), "%s: what was fetched is in its place: %s", name, status)
	}
	require.Zero(t, store.Stats().Failures)

	// So it is with what was purged.
	const purged = "shop{shopnews}:purged"
	for name, damage := range map[string]func(){
		"string": func() { c.Del(ctx, purged); c.Set(ctx, purged, "x", 0) },
		"set":    func() { c.Del(ctx, purged); c.ZAdd(ctx, purged, redis.Z{Member: "x"}) },
		"gone":   func() { c.Del(ctx, purged) },
		// A member that makes no sense may stand for any purge, and does so once.
		"member":   func() { addLast(t, c, purged, "x", 1) },
		"label":    func() { addLast(t, c, purged, "hl", 1) },
		"kind":     func() { addLast(t, c, purged, "xltag-x", 1) },
		"name":     func() { addLast(t, c, purged, "hx", 1) },
		"long":     func() { addLast(t, c, purged, "hl"+strings.Repeat("x", 1<<20), 1) },
		"fraction": func() { addLast(t, c, purged, "hlx", 0.5); addLast(t, c, purged, "hly", 0.5) },
		"score":    func() { c.ZAdd(ctx, purged, redis.Z{Member: "hlx", Score: math.Inf(1)}) },
		"large":    func() { c.ZAdd(ctx, purged, redis.Z{Member: "hlx", Score: 1 << 60}) },
		"negative": func() { c.ZAdd(ctx, purged, redis.Z{Member: "!1", Score: -1}) },
		"epoch": func() {
			c.ZAdd(ctx, purged, redis.Z{Member: "!0", Score: 1})
			c.ZAdd(ctx, purged, redis.Z{Member: "!11112222333344445", Score: 2})
		},
	} {
		damage()
		_, status := get(t, h, "/x")
		require.False(t, hit(status), "%s: nobody knows any more what was purged: %s", name, status)
		_, status = get(t, h, "/x")
		require.True(t, hit(status), "%s: %s", name, status)
	}
}

// addLast adds a member to a sorted set behind the last one.
func addLast(t *testing.T, c *redis.Client, key, member string, behind float64) {
	last, err := c.ZRevRangeWithScores(t.Context(), key, 0, 0).Result()
	require.NoError(t, err)
	z := redis.Z{Member: member, Score: last[0].Score + behind}
	require.NoError(t, c.ZAdd(t.Context(), key, z).Err())
}

// TestC60_AnotherKeysValueIsAMiss: whole, with its line, under a key that is not its own.
func TestC60_AnotherKeysValueIsAMiss(t *testing.T) {
	server := startRedis(t)
	c := server.client(t)
	store := newStore(t, c, generous)
	h := newCache(t, cache.Config{Store: store}).Middleware(newOrigin())
	get(t, h, "/a")
	a := entryKeys(t, c)[0]
	get(t, h, "/b")
	keys := entryKeys(t, c)
	b := keys[0]
	if b == a {
		b = keys[1]
	}
	for from, to := range map[string]string{a: b, b: a} {
		require.NoError(t, c.Copy(t.Context(), from, to, 0, true).Err())
		for _, path := range []string{"/a", "/b", "/a", "/b"} {
			get(t, h, path) // checks the signature
		}
	}
	require.Positive(t, store.Stats().Damaged)
}

// TestC60_FlushallGivesUpWhatNobodyCanVouchFor: also what was being fetched, and what is in
// near tiers.
func TestC60_FlushallGivesUpWhatNobodyCanVouchFor(t *testing.T) {
	server := startRedis(t)
	c := server.client(t)
	origin := newOrigin()
	fleet := startFleet(t, 2, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	get(t, fleet[0].h, "/x")
	get(t, fleet[1].h, "/x")
	kept, err := c.Dump(t.Context(), entryKeys(t, c)[0]).Result()
	require.NoError(t, err)
	key := entryKeys(t, c)[0]
	want := origin.change("/x")
	require.NoError(t, fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Hard))
	require.NoError(t, c.FlushAll(t.Context()).Err()) // the purge is forgotten
	require.NoError(t, c.Restore(t.Context(), key, time.Hour, kept).Err())
	for _, p := range fleet {
		require.Eventually(t, func() bool {
			generation, _ := get(t, p.h, "/x")
			return generation == want
		}, time.Minute, time.Millisecond)
	}
	// A process that never knew of the purge does not use what has come back either.
	require.NoError(t, c.Del(t.Context(), key).Err())
	require.NoError(t, c.Restore(t.Context(), key, time.Hour, kept).Err())
	late := startFleet(t, 1, onServer(t, server), generous, slow, origin)
	generation, _ := get(t, late[0].h, "/x")
	require.Equal(t, want, generation)
}

// A swapper answers reads with the replies to others' reads, as a connection does whose replies
// have come out of step.
type swapper struct {
	mu   sync.Mutex // guards the field below
	last []any
	on   atomic.Bool
}

func (s *swapper) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (s *swapper) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (s *swapper) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		c, ok := cmds[0].(interface {
			Val() any
			SetVal(any)
		})
		if ok && err == nil && len(cmds) == 2 {
			reply, _ := c.Val().([]any)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.on.Load() && s.last != nil {
				c.SetVal(s.last)
			}
			if len(reply) > 1 {
				s.last = reply
			}
		}
		return err
	}
}

// TestC62_AReplyToAnotherRequestIsAMiss: never another's answer.
func TestC62_AReplyToAnotherRequestIsAMiss(t *testing.T) {
	server := startRedis(t)
	c := server.client(t)
	s := &swapper{}
	c.AddHook(s)
	store := newStore(t, c, generous)
	h := newCache(t, cache.Config{Store: store}).Middleware(newOrigin())
	for i := range 20 {
		get(t, h, fmt.Sprint("/", i))
	}
	s.on.Store(true)
	for i := range 200 {
		get(t, h, fmt.Sprint("/", i*7%20)) // checks the signature
	}
	require.Positive(t, store.Stats().Damaged)
}

// TestC61_WhatIsDoneToRedisHarmsNobody: under load, no answer is an error or wrong, and none waits
// for long. Each fault is done to a Redis that was well, and ends.
func TestC61_WhatIsDoneToRedisHarmsNobody(t *testing.T) {
	for name, fault := range map[string]struct {
		fell, raise func(*server)
	}{
		"killed":  {func(s *server) { s.Kill() }, func(s *server) { s.Restart() }},
		"stopped": {func(s *server) { s.Pause() }, func(s *server) { s.Resume() }},
		"flushed": {func(s *server) { s.do("flushall") }, func(*server) {}},
		"full": {
			func(s *server) { s.do("config", "set", "maxmemory", "1") },
			func(s *server) { s.do("config", "set", "maxmemory", "0") },
		},
		"evicting": {
			func(s *server) {
				s.do("config", "set", "maxmemory-policy", "allkeys-lru")
				s.do("config", "set", "maxmemory", "1")
			},
			func(s *server) { s.do("config", "set", "maxmemory", "0") },
		},
		"readonly": {
			func(s *server) { s.do("replicaof", "127.0.0.1", "1") },
			func(s *server) { s.do("replicaof", "no", "one") },
		},
		"cut off": {func(s *server) { s.do("client", "kill", "type", "normal") }, func(*server) {}},
		"unloaded": {
			func(s *server) { s.do("script", "flush") }, func(*server) {},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			testFault(t, fault.fell, fault.raise)
		})
	}
}

func (s *server) do(args ...any) {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer c.Close()
	if err := c.Do(context.Background(), args...).Err(); err != nil && !strings.Contains(err.Error(), "EOF") {
		s.t.Error(err)
	}
}

func testFault(t *testing.T, fell, raise func(*server)) {
	server := startRedis(t)
	origin := newOrigin("Cache-Control", "max-age=1")
	cfg := rediscache.Config{Prefix: "shop"} // with the budgets as they are
	tier := cache.TieredConfig{NearTTL: 200 * time.Millisecond}
	fleet := startFleet(t, 2, givingUp(t, server), cfg, tier, origin)
	run(t, fleet...)
	const paths = 50
	var mu sync.Mutex // guards the field below
	var took []time.Duration
	var wg sync.WaitGroup
	done := make(chan struct{})
	for _, p := range fleet {
		for range 2 {
			wg.Go(func() {
				pause := time.NewTicker(time.Millisecond)
				defer pause.Stop()
				for {
					select {
					case <-done:
						return
					case <-pause.C:
					}
					from := time.Now()
					i := rand.IntN(paths)
					if _, _, err := ask(p.h, fmt.Sprint("/", i)); err != nil {
						t.Error(err)
					}
					mu.Lock()
					took = append(took, time.Since(from))
					mu.Unlock()
				}
			})
		}
	}
	rounds, calm, ill := 1, 100, time.Duration(0)
	if soak() {
		rounds, calm, ill = 20, 5000, time.Second
	}
	sorted := func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(took)
		return took
	}
	require.Eventually(t, func() bool { return len(sorted()) >= calm }, time.Minute, 10*time.Millisecond)
	well := sorted()
	before := well[len(well)*99/100]
	mu.Lock()
	took = nil // what follows is compared with that
	mu.Unlock()
	var recovered time.Duration
	for i := range rounds {
		calls, from := origin.calls.Load(), time.Now()
		fell(server)
		felt := func() bool { return origin.calls.Load() >= calls+30 && time.Since(from) >= ill }
		require.Eventually(t, felt, time.Minute, time.Millisecond)
		raised := time.Now()
		raise(server)
		// It is well again: what one process stores, another finds, and a purge reaches it.
		path := fmt.Sprint("/well-", i)
		require.Eventually(t, func() bool {
			want := origin.change(path)
			if fleet[0].cache.PurgeURL(context.Background(), "http://example.com"+path, cache.Hard) != nil {
				return false
			}
			if generation, _, err := ask(fleet[0].h, path); err != nil || generation < want {
				return false
			}
			calls := fleet[1].tiered.Stats().FarHits
			generation, _, err := ask(fleet[1].h, path)
			return err == nil && generation == want && fleet[1].tiered.Stats().FarHits > calls
		}, time.Minute, 5*time.Millisecond)
		recovered = max(recovered, time.Since(raised))
		connected(t, fleet...)
	}
	close(done)
	wg.Wait()
	sorted()
	p99 := took[len(took)*99/100]
	t.Logf("%d answers: p50 %v, p99 %v, which is %v more than when all was well (bar 20ms), most %v",
		len(took), took[len(took)/2], p99, p99-before, took[len(took)-1])
	t.Logf("recovered after %v at most (bar 2s)", recovered.Round(time.Millisecond))
	for _, p := range fleet {
		require.LessOrEqual(t, p.far.Stats().InFlight, 512)
	}
}

// TestC61_AReadOnlyReplicaServesAndTakesNothing.
func TestC61_AReadOnlyReplicaServesAndTakesNothing(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	h := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)}).Middleware(origin)
	get(t, h, "/x")
	server.do("replicaof", "127.0.0.1", "1")
	c := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)})
	h = c.Middleware(origin)
	_, status := get(t, h, "/x")
	require.True(t, hit(status), status)
	_, status = get(t, h, "/y")
	require.False(t, hit(status), status)
	require.Error(t, c.PurgeTag(t.Context(), "tag-x", cache.Hard))
}

// TestC61_AFullRedisServesWhatItHas: with noeviction, what is there is served, and nothing more is
// stored.
func TestC61_AFullRedisServesWhatItHas(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	c := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)})
	h := c.Middleware(origin)
	get(t, h, "/x")
	server.do("config", "set", "maxmemory", "1")
	for range 3 {
		get(t, h, "/y")
	}
	require.Error(t, c.PurgeTag(t.Context(), "tag-x", cache.Hard), "it could not be remembered")
	server.do("config", "set", "maxmemory", "0")
	_, status := get(t, h, "/x")
	require.True(t, hit(status), status)
}

// TestC61_FailoverBySentinel: the processes go on with the replica.
func TestC61_FailoverBySentinel(t *testing.T) {
	master := startRedis(t, "--repl-diskless-sync-delay", "0")
	replica := startRedis(t, "--replicaof", "127.0.0.1 "+master.Port())
	addr := program.Sentinel(t, "shop", master.Process).Addr
	rc := replica.client(t)
	require.Eventually(t, func() bool {
		return strings.Contains(rc.Info(context.Background(), "replication").Val(), "master_link_status:up")
	}, time.Minute, 10*time.Millisecond)
	sc := redis.NewSentinelClient(&redis.Options{Addr: addr})
	defer sc.Close()
	require.Eventually(t, func() bool {
		list, err := sc.Replicas(context.Background(), "shop").Result()
		return err == nil && len(list) == 1
	}, time.Minute, 50*time.Millisecond)
	origin := newOrigin()
	clients := func() redis.UniversalClient {
		c := redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: "shop", SentinelAddrs: []string{addr}, MaxRetries: 1,
			DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	cfg := generous
	cfg.Timeout, cfg.PurgeTimeout = time.Second, time.Second
	fleet := startFleet(t, 2, clients, cfg, slow, origin)
	run(t, fleet...)
	get(t, fleet[0].h, "/x")
	get(t, fleet[0].h, "/y")
	get(t, fleet[1].h, "/y")
	require.Eventually(t, func() bool { return len(entryKeys(t, rc)) == 2 }, time.Minute, time.Millisecond)
	// The replica is slow, and has not counted a purge when its master dies.
	replica.Pause()
	want := origin.change("/x")
	require.NoError(t, fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Hard))
	master.Kill()
	replica.Resume()
	require.Eventually(t, func() bool {
		return strings.Contains(rc.Info(context.Background(), "replication").Val(), "role:master")
	}, time.Minute, 10*time.Millisecond)
	for _, p := range fleet {
		require.Eventually(t, func() bool {
			generation, _ := get(t, p.h, "/x")
			return generation == want && p.tiered.Stats().Confirmed && p.tiered.Stats().Connected
		}, time.Minute, 10*time.Millisecond)
	}
	late := startFleet(t, 1, clients, cfg, slow, origin)
	generation, _ := get(t, late[0].h, "/x")
	require.Equal(t, want, generation, "the purge before the failover")
	want = origin.change("/y")
	require.Eventually(t, func() bool {
		return fleet[1].cache.PurgeTag(t.Context(), "tag-y", cache.Hard) == nil
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		generation, _ := get(t, fleet[0].h, "/y")
		return generation == want
	}, time.Minute, time.Millisecond)
}

// TestStore_Cluster: three real nodes, all of which have their part.
func TestStore_Cluster(t *testing.T) {
	nodes := startCluster(t)
	var addrs []string
	for _, node := range nodes {
		addrs = append(addrs, node.Addr)
	}
	origin := newOrigin()
	clients := func() redis.UniversalClient {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	fleet := startFleet(t, 2, clients, generous, slow, origin)
	run(t, fleet...)
	const paths = 40
	for i := range paths {
		get(t, fleet[0].h, fmt.Sprint("/", i))
		_, status := get(t, fleet[1].h, fmt.Sprint("/", i))
		require.True(t, hit(status), status)
	}
	require.EqualValues(t, paths, origin.calls.Load())
	for i := range paths {
		path := fmt.Sprint("/", i)
		want := origin.change(path)
		require.NoError(t, fleet[i%2].cache.PurgeTag(t.Context(), "tag-"+path[1:], cache.Hard))
		for _, p := range fleet {
			require.Eventually(t, func() bool {
				generation, _ := get(t, p.h, path)
				return generation == want
			}, time.Minute, time.Millisecond)
		}
	}
	for i, addr := range addrs {
		require.NotEmpty(t, entryKeys(t, clientOf(t, addr)), "node %d has its part", i)
	}
	waits := func() uint64 { return fleet[0].tiered.Stats().Waits + fleet[1].tiered.Stats().Waits }
	waited := waits()
	release := make(chan struct{})
	origin.delay = func() { <-release }
	before := origin.calls.Load()
	var wg sync.WaitGroup
	for _, p := range fleet {
		wg.Go(func() {
			if _, _, err := ask(p.h, "/cold"); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return waits() > waited }, time.Minute, time.Millisecond)
	close(release)
	wg.Wait()
	require.EqualValues(t, 1, origin.calls.Load()-before)
}
