package redisrollout_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/program"
	"github.com/trivet-go/trivet/versioning"
	"github.com/trivet-go/trivet/versioning/redisrollout"
)

func TestMain(m *testing.M) {
	logging.Disable() // of go-redis: tests take servers away
	goleak.VerifyTestMain(m)
}

// A server is a redis-server of this test.
type server struct{ *program.Process }

// startRedis starts a redis-server on a free port, without persistence.
func startRedis(t testing.TB) *server {
	t.Helper()
	return &server{program.Redis(t)}
}

func (s *server) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newStore(t testing.TB, c redis.UniversalClient, cfg redisrollout.Config) *redisrollout.Store {
	t.Helper()
	s, err := redisrollout.New(c, cfg)
	require.NoError(t, err)
	return s
}

// patient is a configuration under which a busy machine fails no call.
var patient = redisrollout.Config{Timeout: 20 * time.Second}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := redisrollout.New(nil, redisrollout.Config{Prefix: "{", Timeout: -1})
	for _, want := range []string{
		"redisrollout: client: is nil", "redisrollout: Config.Prefix: ",
		"redisrollout: Config.Timeout: -1ns is negative",
	} {
		require.ErrorContains(t, err, want)
	}
	for _, client := range []redis.UniversalClient{
		(*redis.Client)(nil), (*redis.ClusterClient)(nil), (*redis.Ring)(nil),
	} {
		_, err = redisrollout.New(client, redisrollout.Config{})
		require.EqualError(t, err, "redisrollout: client: is nil")
	}
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	_, err = redisrollout.New(ring, redisrollout.Config{})
	require.EqualError(t, err, "redisrollout: client: is a Ring, whose clients may use different servers")
}

// TestStoresAgree: the store in memory and the one in Redis do the same.
func TestStoresAgree(t *testing.T) {
	stores := map[string]versioning.RolloutStore{
		"memory": versioning.NewMemoryRolloutStore(),
		"redis":  newStore(t, startRedis(t).client(t), patient),
	}
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			sync := func(replica string, epoch uint64, evidence string) versioning.RolloutShared {
				shared, err := store.Sync(t.Context(), "shop", versioning.RolloutReport{
					Replica: replica, Epoch: epoch, Evidence: []byte(evidence),
				})
				require.NoError(t, err)
				return shared
			}
			change := func(want bool, next versioning.RolloutState) versioning.RolloutShared {
				shared, changed, err := store.Change(t.Context(), "shop", next)
				require.NoError(t, err)
				require.Equal(t, want, changed)
				return shared
			}
			empty := sync("a", 5, "x")
			require.Zero(t, empty.State)
			require.Zero(t, empty.Age)
			require.Empty(t, empty.Evidence)

			state := versioning.RolloutState{
				Release: "v2", Phase: versioning.PhaseRunning, Step: 1, Weight: 0.05, Reason: "step",
				Text: "é\x00", Epoch: 7, Period: 2, ErrorsBefore: 0.1, LatencyBefore: 1e300,
				Extended: time.Minute,
				Past:     []string{"v1"},
			}
			other := state
			other.Revision = 3
			require.Zero(t, change(false, other).State)
			first := change(true, state)
			state.Revision = 1
			require.Equal(t, state, first.State)
			change(false, versioning.RolloutState{Release: "v3", Phase: versioning.PhaseRunning})

			sync("a", 6, "of another epoch")
			require.Empty(t, sync("b", 7, "").Evidence["a"])
			binary := "\x00\xff\r\n"
			sync("a", 7, "old")
			sync("a", 7, binary)
			got := sync("b", 7, "of b")
			require.Equal(t, state, got.State)
			require.Equal(t, binary, string(got.Evidence["a"]))
			require.GreaterOrEqual(t, got.Age, first.Age)
			require.Less(t, got.Age, 10*time.Minute)

			state.Phase = versioning.PhasePaused
			paused := change(true, state)
			require.Equal(t, binary, string(paused.Evidence["a"]), "it is the same epoch")
			require.GreaterOrEqual(t, paused.Age, got.Age)
			state = paused.State
			state.Epoch++
			next := change(true, state)
			require.Empty(t, next.Evidence)
			require.EqualValues(t, 3, next.State.Revision)
			require.Less(t, next.Age, paused.Age+time.Minute)

			// An attempt that is made again has changed the state, and does not change it again.
			state = next.State
			state.Phase, state.Attempt = versioning.PhaseRunning, "one"
			again := change(true, state)
			require.Equal(t, again.State, change(true, state).State)
			require.EqualValues(t, 4, again.State.Revision)
			state.Attempt = "two"
			require.Equal(t, again.State, change(false, state).State)
		})
	}
}

// TestOneOfManyChangesTheState: of those that begin at one revision one wins.
func TestOneOfManyChangesTheState(t *testing.T) {
	client := startRedis(t).client(t)
	var wins atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		store := newStore(t, client, patient)
		wg.Go(func() {
			for round := range 20 {
				_, changed, err := store.Change(context.Background(), "shop", versioning.RolloutState{
					Release: strconv.Itoa(i), Phase: versioning.PhaseRunning, Revision: uint64(round),
				})
				if err != nil {
					t.Error(err)
				}
				if changed {
					wins.Add(1)
				}
				for { // the next round begins when this one is over
					shared, err := store.Sync(context.Background(), "shop", versioning.RolloutReport{})
					if err != nil || shared.State.Revision > uint64(round) {
						break
					}
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 20, wins.Load())
}

// TestTheServerForgetsScriptsAndKeepsBounds: keys expire, and replicas that come and go do not fill
// the server.
func TestTheServerForgetsScriptsAndKeepsBounds(t *testing.T) {
	client := startRedis(t).client(t)
	store := newStore(t, client, patient)
	_, changed, err := store.Change(t.Context(), "shop", versioning.RolloutState{
		Release: "v2", Phase: versioning.PhaseRunning, Epoch: 1,
	})
	require.NoError(t, err)
	require.True(t, changed)
	require.NoError(t, client.ScriptFlush(t.Context()).Err())
	for i := range redisrollout.MaxReplicas + 10 {
		_, err := store.Sync(t.Context(), "shop", versioning.RolloutReport{
			Replica: fmt.Sprint(i), Epoch: 1, Evidence: []byte("x"),
		})
		require.NoError(t, err)
	}
	shared, err := store.Sync(t.Context(), "shop", versioning.RolloutReport{
		Replica: "0", Epoch: 1, Evidence: []byte("y"),
	})
	require.NoError(t, err)
	require.Len(t, shared.Evidence, redisrollout.MaxReplicas)
	require.Equal(t, "y", string(shared.Evidence["0"]), "who has a place keeps it")
	keys, err := client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"trivet:rollout:{shop}:state", "trivet:rollout:{shop}:seen"}, keys)
	for _, key := range keys {
		ttl, err := client.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.InDelta(t, 90*24*time.Hour, ttl, float64(time.Hour))
	}
	require.Zero(t, store.Stats().Failures)
}

// TestAnswersThatMakeNoSense are errors: something else than Redis is at the other end.
func TestAnswersThatMakeNoSense(t *testing.T) {
	state := `{"release":"v2","phase":"running","revision":1}`
	for _, reply := range [][]any{
		nil, {}, {int64(0)}, {"0", state, "0", []any{}}, {int64(2), state, "0", []any{}},
		{int64(0), nil, "0", []any{}}, {int64(0), state, nil, []any{}}, {int64(0), state, "0", nil},
		{int64(0), "{", "0", []any{}}, {int64(0), state, "x", []any{}}, {int64(0), "{}", "0", []any{}},
		{int64(0), state, "0", []any{"a"}}, {int64(0), state, "0", []any{"a", int64(1)}},
		{int64(0), state, "0", []any{"a", strings.Repeat("x", 1<<20)}},
		{int64(0), state, "0", make([]any, 2*redisrollout.MaxReplicas+2)},
	} {
		_, _, err := redisrollout.Parse(reply)
		require.Error(t, err, "%v", reply)
	}
	for age, want := range map[string]time.Duration{
		"-5": 0, "1500000": 1500 * time.Millisecond, "9223372036854775807": 90 * 24 * time.Hour,
	} {
		_, shared, err := redisrollout.Parse([]any{int64(1), state, age, []any{}})
		require.NoError(t, err)
		require.Equal(t, want, shared.Age)
	}
}

// arm answers with a status.
type arm struct{ status atomic.Int64 }

func (a *arm) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(a.status.Load())) }

// A fleet is two replicas of a service.
type fleet struct {
	rollouts [2]*versioning.Rollout
	handlers [2]http.Handler
	canary   arm
	sent     int
}

func newFleet(t *testing.T, s *server) *fleet {
	f := &fleet{}
	f.canary.status.Store(200)
	stable := &arm{}
	stable.status.Store(200)
	for i := range f.rollouts {
		r, err := versioning.NewRollout(versioning.RolloutConfig{
			Name: "shop", Release: "v2", Missing: versioning.MissingStable, Interval: 20 * time.Millisecond,
			Key:   func(r *http.Request) (string, bool) { return r.Header.Get("User"), true },
			Steps: []versioning.Step{{Weight: 0.3, MinTime: -1, MinRequests: 300}},
			Floor: -1, Store: newStore(t, s.client(t), redisrollout.Config{Timeout: 200 * time.Millisecond}),
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, r.Close(context.Background())) })
		f.rollouts[i], f.handlers[i] = r, r.Handler(stable, &f.canary)
	}
	return f
}

func (f *fleet) send(replica, n int) {
	for range n {
		f.sent++
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("User", strconv.Itoa(f.sent))
		f.handlers[replica].ServeHTTP(httptest.NewRecorder(), r)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 60*time.Second, 2*time.Millisecond, what)
}

func (f *fleet) are(phase versioning.Phase, weight float64) func() bool {
	return func() bool {
		for _, r := range f.rollouts {
			if s := r.State(); s.Phase != phase || s.Weight != weight {
				return false
			}
		}
		return true
	}
}

func TestAFleetPromotesTogether(t *testing.T) {
	f := newFleet(t, startRedis(t))
	eventually(t, "the first step", f.are(versioning.PhaseRunning, 0.3))
	f.send(0, 700) // neither has 300 for canary by itself
	f.send(1, 700)
	eventually(t, "the last step", f.are(versioning.PhaseRunning, 1))
	f.send(0, 400)
	eventually(t, "the end", f.are(versioning.PhasePromoted, 1))
	require.NoError(t, f.rollouts[1].Rollback(t.Context(), "not so good"))
	eventually(t, "the rollback", f.are(versioning.PhaseRolledBack, 0))
	require.Equal(t, "not so good", f.rollouts[0].State().Text)
}

// TestV17_RedisIsKilledOrStopped: the last state stays, nobody promotes, a replica that must rolls
// itself back, and the other hears of it when Redis is there again: with its data or, having been
// killed, without.
func TestV17_RedisIsKilledOrStopped(t *testing.T) {
	for _, how := range []string{"killed", "stopped"} {
		t.Run(how, func(t *testing.T) {
			s := startRedis(t)
			f := newFleet(t, s)
			eventually(t, "the first step", f.are(versioning.PhaseRunning, 0.3))
			if how == "killed" {
				s.Kill()
			} else {
				s.Pause()
			}
			eventually(t, "the failure", func() bool {
				return !f.rollouts[0].Stats().StoreUp && !f.rollouts[1].Stats().StoreUp
			})
			f.send(0, 2000)
			f.send(1, 2000)
			eventually(t, "a look after it", func() bool {
				v := f.rollouts[0].Verdict()
				return len(v.Missing) == 1 && v.Missing[0] == "the store, which does not answer"
			})
			require.True(t, f.are(versioning.PhaseRunning, 0.3)())
			require.ErrorIs(t, f.rollouts[0].Promote(t.Context()), versioning.ErrRolloutStore)
			f.canary.status.Store(500)
			f.send(1, 2000)
			eventually(t, "its own rollback", func() bool {
				return f.rollouts[1].State().Phase == versioning.PhaseRolledBack
			})
			require.Equal(t, 0.3, f.rollouts[0].State().Weight)
			if how == "killed" {
				s.Restart()
			} else {
				s.Resume()
			}
			eventually(t, "the rollback of both", f.are(versioning.PhaseRolledBack, 0))
			require.Equal(t, versioning.ReasonErrors, f.rollouts[0].State().Reason)
		})
	}
}

// TestV18_RedisIsFlushed: what was rolled back stays so.
func TestV18_RedisIsFlushed(t *testing.T) {
	s := startRedis(t)
	f := newFleet(t, s)
	eventually(t, "the first step", f.are(versioning.PhaseRunning, 0.3))
	require.NoError(t, f.rollouts[0].Rollback(t.Context(), "bad"))
	eventually(t, "the rollback", f.are(versioning.PhaseRolledBack, 0))
	client := s.client(t)
	require.NoError(t, client.FlushAll(t.Context()).Err())
	eventually(t, "the state is there again", func() bool {
		shared, err := newStore(t, client, patient).Sync(t.Context(), "shop", versioning.RolloutReport{})
		return err == nil && shared.State.Phase == versioning.PhaseRolledBack
	})
	require.True(t, f.are(versioning.PhaseRolledBack, 0)())
}
