package examples_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/versioning"
)

// A release answers with its name, and counts.
type release struct {
	name          string
	fails         atomic.Bool
	asked         atomic.Int64
	entered, goOn chan struct{} // if set, a request says that it is there and waits
}

func (h *release) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	h.asked.Add(1)
	if h.entered != nil {
		h.entered <- struct{}{}
		<-h.goOn
	}
	if h.fails.Load() {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "max-age=3600")
	fmt.Fprint(w, h.name)
}

// purged begins a rollout whose rollbacks purge c, and reports each purge.
func purged(t *testing.T, c *cache.Cache, cfg versioning.RolloutConfig) (*versioning.Rollout, chan bool) {
	t.Helper()
	done := make(chan bool, 10)
	cfg.Name, cfg.Release, cfg.Missing = "shop", "v2", versioning.MissingStable
	cfg.Key = func(r *http.Request) (string, bool) { return r.Header.Get("User"), true }
	cfg.TagField = "Surrogate-Key"
	cfg.OnRollback = func(ctx context.Context, b versioning.Rollback) {
		if err := c.PurgeTag(ctx, b.Tag, cache.Hard); err != nil {
			t.Error(err)
		}
		done <- b.Drained
	}
	r, err := versioning.NewRollout(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(context.Background())) })
	return r, done
}

func newCache(t *testing.T, extra func(*http.Request) (string, bool)) *cache.Cache {
	t.Helper()
	c, err := cache.New(cache.Config{KeyExtra: extra})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

func ask(h http.Handler, path, user string) string {
	r := httptest.NewRequest("GET", "http://shop.example"+path, nil)
	r.Header.Set("User", user)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Body.String()
}

// TestV16_ARollbackPurgesTheCache: what the bad arm gave a cache in front is gone when OnRollback
// has returned, what stable gave it stays, and an answer that is on its way meanwhile is not kept.
func TestV16_ARollbackPurgesTheCache(t *testing.T) {
	blue, green := &release{name: "blue"}, &release{name: "green"}
	c := newCache(t, nil)
	r, done := purged(t, c, versioning.RolloutConfig{
		Steps: []versioning.Step{{Weight: 0.5, MinTime: time.Hour}},
	})
	h := c.Middleware(r.Handler(blue, green))
	given := map[string]string{}
	for i := range 100 {
		path := fmt.Sprint("/", i)
		given[path] = ask(h, path, fmt.Sprint("user ", i))
		require.Equal(t, given[path], ask(h, path, "somebody else"), "the cache answers all")
	}
	require.EqualValues(t, 100, blue.asked.Load()+green.asked.Load())
	require.Greater(t, green.asked.Load(), int64(20))

	// One more answer of green's has begun and not ended when the release fails.
	user := ""
	for i := 0; user == ""; i++ {
		if name := fmt.Sprint("late ", i); ask(h, "/late/"+fmt.Sprint(i), name) == "green" {
			user = name
		}
	}
	green.entered, green.goOn = make(chan struct{}), make(chan struct{})
	late := make(chan string, 1)
	go func() { late <- ask(h, "/slow", user) }()
	<-green.entered
	asked := blue.asked.Load()
	require.NoError(t, r.Rollback(t.Context(), "it is broken"))
	require.False(t, <-done, "a request is still in flight")
	greens := int64(0)
	for path, before := range given {
		require.Equal(t, "blue", ask(h, path, "somebody"))
		if before == "green" {
			greens++
		}
	}
	require.Equal(t, asked+greens, blue.asked.Load(), "what blue gave the cache is still there")
	green.goOn <- struct{}{}
	require.Equal(t, "green", <-late)
	require.True(t, <-done)
	require.Equal(t, "blue", ask(h, "/slow", user))
}

// TestV16_ABadReleaseLeavesNothingBehind is the same without a person: errors roll the release
// back.
func TestV16_ABadReleaseLeavesNothingBehind(t *testing.T) {
	blue, green := &release{name: "blue"}, &release{name: "green"}
	c := newCache(t, nil)
	r, done := purged(t, c, versioning.RolloutConfig{
		Steps: []versioning.Step{{Weight: 0.5, MinTime: time.Hour}},
	})
	h := c.Middleware(r.Handler(blue, green))
	greens := 0
	for i := range 50 {
		if ask(h, fmt.Sprint("/good/", i), fmt.Sprint("user ", i)) == "green" {
			greens++
		}
	}
	require.NotZero(t, greens)
	green.fails.Store(true)
	for i := 0; r.State().Phase != versioning.PhaseRolledBack; i++ {
		ask(h, fmt.Sprint("/bad/", i), fmt.Sprint("user ", i))
	}
	for drained := false; !drained; {
		drained = <-done
	}
	for i := range 50 {
		require.Equal(t, "blue", ask(h, fmt.Sprint("/good/", i), "somebody"))
	}
}

// TestV16_ArmsThatDifferOnPurpose: with the arm in the key a cache gives each client what its own
// arm has answered, also while the weight changes, and a rollback leaves nobody with the other's.
func TestV16_ArmsThatDifferOnPurpose(t *testing.T) {
	blue, green := &release{name: "blue"}, &release{name: "green"}
	c := newCache(t, func(r *http.Request) (string, bool) {
		arm, ok := versioning.ArmOf(r)
		return string(arm), ok
	})
	r, done := purged(t, c, versioning.RolloutConfig{
		Steps: []versioning.Step{{Weight: 0.3, MinTime: time.Hour}, {Weight: 0.6, MinTime: time.Hour}},
	})
	h := r.Decide(c.Middleware(r.Handler(blue, green)))
	all := func() map[string]string {
		got := map[string]string{}
		for i := range 100 {
			user := fmt.Sprint("user ", i)
			got[user] = ask(h, "/page", user)
		}
		return got
	}
	count := func(got map[string]string) (greens int) {
		for _, body := range got {
			if body == "green" {
				greens++
			}
		}
		return greens
	}
	first := all()
	require.InDelta(t, 30, count(first), 20)
	require.Equal(t, first, all())
	require.EqualValues(t, 1, blue.asked.Load(), "the cache answers all others")
	require.EqualValues(t, 1, green.asked.Load())

	require.NoError(t, r.Promote(t.Context()))
	second := all()
	require.Greater(t, count(second), count(first))
	for user, body := range first {
		if body == "green" {
			require.Equal(t, "green", second[user], "nobody changes back")
		}
	}
	require.EqualValues(t, 2, blue.asked.Load()+green.asked.Load())

	require.NoError(t, r.Rollback(t.Context(), ""))
	require.True(t, <-done)
	require.Zero(t, count(all()))
	require.NoError(t, r.Retry(t.Context()))
	require.NoError(t, r.Promote(t.Context()))
	require.NotZero(t, count(all()))
	require.EqualValues(t, 2, green.asked.Load(), "its answer was purged")
}
