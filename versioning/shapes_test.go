package versioning_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// names returns the names of the members of v as JSON.
func names(t *testing.T, v any) (names []string) {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	o := versioning.NewObject()
	require.NoError(t, json.Unmarshal(text, o))
	return o.Names()
}

// TestNamesInJSON: Redis keeps the state under these names, and operators' tools read the rest.
func TestNamesInJSON(t *testing.T) {
	require.Equal(t, []string{
		"release", "phase", "step", "weight", "reason", "text", "epoch", "period", "errors_before",
		"latency_before", "extended_ns", "past", "revision", "attempt",
	}, names(t, versioning.RolloutState{}))
	require.Equal(t, []string{
		"decision", "reason", "text", "missing", "at", "epoch", "weight", "time_ns", "replicas", "needed",
		"errors", "latency", "stable", "canary",
	}, names(t, versioning.Verdict{}))
	require.Equal(t, []string{
		"requests", "failed", "shed", "canceled", "p50_ns", "p95_ns", "p99_ns",
	}, names(t, versioning.ArmReport{}))
	require.Equal(t, []string{"p50_ns", "p95_ns", "p99_ns"}, names(t, versioning.LatencyOf{}))
	require.Contains(t, names(t, versioning.Stats{}), "overflowed")
	require.Contains(t, names(t, versioning.Report{}), "overflowed")
	require.Contains(t, names(t, versioning.ShadowStats{}), "panics")
	require.Contains(t, names(t, versioning.RolloutStats{}), "panics")
}

// TestAWeightIsAShare wherever it is shown.
func TestAWeightIsAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.0001, 0.05)
		var shown []string
		cfg.Observe = func(_ context.Context, e versioning.RolloutEvent) {
			shown = append(shown, e.LogValue().String())
		}
		r := newRollout(t, cfg)
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, 0.0001, r.State().Weight)
		require.Equal(t, 0.0001, r.Verdict().Weight)
		require.Equal(t, 0.0001, r.Stats().Weight)
		require.Contains(t, shown[len(shown)-1], "weight=0.0001")
		require.NoError(t, r.Promote(t.Context()))
		text, err := json.Marshal(r.State())
		require.NoError(t, err)
		require.Contains(t, string(text), `"weight":0.05,`)
		require.ErrorContains(t, r.Resume(t.Context()), "running with 5 %")
	})
}

// TestABrownoutSaysWhenItEnds to whoever asks an error for it.
func TestABrownoutSaysWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got error
		v, err := versioning.New(versioning.Config{
			Versions: []versioning.Version{{
				Name: "1", Sunset: time.Now().Add(time.Hour),
				Brownouts: []versioning.Brownout{{From: time.Now(), Until: time.Now().Add(time.Minute)}},
			}, {Name: "2"}},
			Sources:      []versioning.Source{versioning.Path("/v")},
			ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { got = err },
		})
		require.NoError(t, err)
		serve(v.Middleware(telling), request("GET", "/v1/x"))
		require.ErrorIs(t, got, versioning.ErrBrownout)
		var wait interface{ RetryAfter() time.Duration }
		require.True(t, errors.As(got, &wait))
		require.Equal(t, time.Minute, wait.RetryAfter())
	})
}

// TestLimitsWithoutAnEnd: the greatest number is a limit that nothing meets, and no sum overflows.
func TestLimitsWithoutAnEnd(t *testing.T) {
	v, err := versioning.New(versioning.Config{
		Versions: []versioning.Version{{Name: "1"}, {Name: "2"}},
		Sources:  []versioning.Source{versioning.Path("/v")}, MaxBody: math.MaxInt64, MaxItem: math.MaxInt64,
		Changes: []versioning.Change{{
			Name: "a", Version: "2",
			RequestBody: versioning.JSON(func(o *versioning.Object) error { return nil }),
		}},
	})
	require.NoError(t, err)
	body := ""
	h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		body = string(text)
	}))
	r := request("POST", "/v1/x", "Content-Type", "application/json")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(`{"a":1}`)), 7
	serve(h, r)
	require.Equal(t, `{"a":1}`, body)

	cfg := shadowOf(jsonText(`{"a":1}`))
	cfg.MaxBody, cfg.MaxBytes = math.MaxInt64, math.MaxInt64
	s := newShadow(t, cfg)
	serve(s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.Copy(w, strings.NewReader(`{"a":1}`))
	})), request("GET", "/"))
	require.Equal(t, map[string]uint64{"match": 1}, idle(t, s))

	zipped := func(level int) http.Handler {
		var text bytes.Buffer
		z, err := gzip.NewWriterLevel(&text, level)
		require.NoError(t, err)
		_, _ = io.WriteString(z, `{"a":1}`)
		require.NoError(t, z.Close())
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(text.Bytes())
		})
	}
	cfg.Candidate = zipped(gzip.NoCompression)
	s = newShadow(t, cfg)
	serve(s.Middleware(zipped(gzip.BestCompression)), request("GET", "/"))
	require.Equal(t, map[string]uint64{"match": 1}, idle(t, s))
}

// TestAJudgeThatMakesNoSense holds the rollout, and says why: 5 would otherwise be no limit at all,
// and a decision that is none would advance.
func TestAJudgeThatMakesNoSense(t *testing.T) {
	s := newShadow(t, shadowOf(telling))
	for _, tt := range []struct {
		most  float64
		worse versioning.Decision
		why   string
	}{
		{5, versioning.RejectRelease, "the share 5 that may differ is not from 0 to 1"},
		{-0.1, versioning.RejectRelease, "the share -0.1 that may differ is not from 0 to 1"},
		{math.NaN(), versioning.Hold, "the share NaN that may differ is not from 0 to 1"},
		{0.05, versioning.Advance, `the decision "advance" is not Hold or RejectRelease`},
		{0.05, "", `the decision "" is not Hold or RejectRelease`},
		{1, versioning.Hold, "0 of 1 answers are compared"},
	} {
		d, why := s.Judge(tt.most, 1, tt.worse)()
		require.Equal(t, versioning.Hold, d)
		require.Equal(t, tt.why, why)
	}
	_, why := s.Judge(0, -7, versioning.Hold)()
	require.Equal(t, "0 of 1 answers are compared", why, "at least one")
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.05)
		cfg.Judge = func() (versioning.Decision, string) { return "perhaps", "who knows" }
		r := newRollout(t, cfg)
		users(r.Handler(newArm("stable"), newArm("canary")), 0, 5000)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 0.05, r.State().Weight)
		require.Equal(t, []string{"the judge: who knows"}, r.Verdict().Missing)
	})
}

// TestNamesAreDetail: what tells instances apart in metrics is the name of the observer, for all
// packages.
func TestNamesAreDetail(t *testing.T) {
	e := versioning.RolloutEvent{Kind: versioning.RolloutStoreChange, Rollout: "shop", Release: "v2"}
	require.Equal(t, "[event=store up=false detail=[rollout=shop release=v2]]", e.LogValue().String())
	s := versioning.ShadowEvent{Shadow: "shop", Outcome: versioning.ShadowMatch}
	require.Equal(t, "[event=shadow outcome=match detail=[shadow=shop]]", s.LogValue().String())
	panicked := versioning.RolloutEvent{Kind: versioning.RolloutHookPanic}
	require.Contains(t, panicked.LogValue().String(), "event=hook_panic")
}

// A forgetfulStore makes changes and loses its answers.
type forgetfulStore struct {
	*versioning.MemoryRolloutStore
	loses bool
}

func (f *forgetfulStore) Change(
	ctx context.Context, name string, next versioning.RolloutState,
) (versioning.RolloutShared, bool, error) {
	shared, changed, err := f.MemoryRolloutStore.Change(ctx, name, next)
	if f.loses {
		return versioning.RolloutShared{}, false, errLost
	}
	return shared, changed, err
}

// TestACallIsRepeatedWhoseAnswerWasLost: it has made its change, and makes it once. Another call,
// and the same after the change was heard of, is another change.
func TestACallIsRepeatedWhoseAnswerWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &forgetfulStore{MemoryRolloutStore: versioning.NewMemoryRolloutStore()}
		cfg := rolloutOf(0.1, 0.2, 0.3, 0.4, 0.5)
		cfg.Store, cfg.Manual, cfg.Interval = store, true, time.Minute
		r := newRollout(t, cfg)
		synctest.Wait()
		is := func(phase versioning.Phase, step int) {
			t.Helper()
			require.Equal(t, phase, r.State().Phase)
			require.Equal(t, step, r.State().Step)
		}
		lost := func(f func(context.Context) error) {
			t.Helper()
			store.loses = true
			require.ErrorIs(t, f(t.Context()), versioning.ErrRolloutStore)
			store.loses = false
		}
		require.NoError(t, r.Promote(t.Context()))
		lost(r.Promote)
		is(versioning.PhaseRunning, 0)
		require.NoError(t, r.Promote(t.Context()))
		is(versioning.PhaseRunning, 1)
		lost(r.Pause)
		require.NoError(t, r.Pause(t.Context()))
		is(versioning.PhasePaused, 1)

		lost(r.Resume)
		time.Sleep(time.Minute + time.Second)
		is(versioning.PhaseRunning, 1)
		require.ErrorIs(t, r.Resume(t.Context()), versioning.ErrPhase, "State has said so")
		lost(r.Promote)
		require.NoError(t, r.Pause(t.Context()))
		is(versioning.PhasePaused, 2)
	})
}
