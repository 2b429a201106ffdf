package versioning_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// between calls f with what Decide passes on, and then next.
func between(f func(r *http.Request), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f(r)
		next.ServeHTTP(w, r)
	})
}

func TestTheArmIsKnownInFrontOfARollout(t *testing.T) {
	cfg := rolloutOf(0.5)
	cfg.Missing = versioning.MissingCookie
	cfg.Skip = func(r *http.Request) bool { return r.URL.Path == "/skip" }
	cfg.Force = func(r *http.Request) (versioning.Arm, bool) {
		return versioning.Arm(r.Header.Get("Arm")), r.Header.Get("Arm") != ""
	}
	r := newRollout(t, cfg)
	mux := http.NewServeMux()
	mux.Handle("GET /{any...}", r.Handler(newArm("stable"), newArm("canary")))
	var known versioning.Arm
	h := r.Decide(between(func(r *http.Request) {
		arm, ok := versioning.ArmOf(r)
		require.True(t, ok)
		known = arm
	}, mux))
	_, ok := versioning.ArmOf(request("GET", "/"))
	require.False(t, ok)
	canary := 0
	for i := range 200 {
		req := request("GET", "/a", "User", strconv.Itoa(i))
		w := serve(h, req)
		require.Equal(t, string(known), w.Body.String())
		require.Equal(t, "GET /{any...}", req.Pattern)
		require.Empty(t, w.Header())
		if known == versioning.Canary {
			canary++
		}
	}
	require.InDelta(t, 100, canary, 40)
	w := serve(h, request("GET", "/"))
	require.Len(t, w.Result().Cookies(), 1, "it is set once")
	require.Equal(t, string(known), w.Body.String())
	require.Equal(t, "canary", serve(h, request("GET", "/", "Arm", "canary")).Body.String())
	require.Equal(t, "stable", serve(h, request("GET", "/skip", "Arm", "canary")).Body.String())
	s := r.Stats()
	require.EqualValues(t, 1, s.Cookies)
	require.EqualValues(t, 1, s.Missing)
	require.EqualValues(t, 1, s.Forced)
	require.EqualValues(t, 202, s.Requests["stable"]+s.Requests["canary"])
	require.PanicsWithValue(t, "versioning: nil handler", func() { r.Decide(nil) })

	// Another rollout inside decides for itself.
	other := newRollout(t, rolloutOf(1))
	inner := other.Handler(newArm("stable"), newArm("canary"))
	require.Equal(t, "canary", serve(r.Decide(inner), request("GET", "/", "Arm", "stable")).Body.String())
}

// TestAnArmThatGetsNothingAnyMore: the weight changes between Decide and Handler.
func TestAnArmThatGetsNothingAnyMore(t *testing.T) {
	promote := func(r *versioning.Rollout) error { return r.Switch(t.Context()) }
	rollBack := func(r *versioning.Rollout) error { return r.Rollback(t.Context(), "") }
	more := func(r *versioning.Rollout) error { return r.Promote(t.Context()) }
	reload := func(r *versioning.Rollout) error {
		cfg := rolloutOf(0.5)
		cfg.Release = "v3"
		return r.Reload(cfg)
	}
	for _, tt := range []struct {
		name   string
		change func(r *versioning.Rollout) error
		arm    versioning.Arm // that was decided
		want   string         // that answers
		stored bool
		counts uint64
	}{
		{"nothing", func(*versioning.Rollout) error { return nil }, versioning.Canary, "canary", true, 1},
		{"greater weight", more, versioning.Stable, "stable", true, 0},
		{"greater weight, canary", more, versioning.Canary, "canary", true, 0},
		{"full weight", promote, versioning.Stable, "canary", false, 0},
		{"full weight, canary", promote, versioning.Canary, "canary", true, 0},
		{"rolled back", rollBack, versioning.Canary, "stable", false, 0},
		{"rolled back, stable", rollBack, versioning.Stable, "stable", true, 0},
		{"another release", reload, versioning.Canary, "stable", false, 0},
		{"another release, stable", reload, versioning.Stable, "stable", true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRollout(t, rolloutOf(0.5, 0.9))
			h := r.Handler(newArm("stable"), newArm("canary"))
			user := 0
			for ; ; user++ {
				got := versioning.Stable
				serve(r.Decide(between(func(r *http.Request) { got, _ = versioning.ArmOf(r) },
					http.NotFoundHandler())), request("GET", "/", "User", strconv.Itoa(user)))
				if got == tt.arm {
					break
				}
			}
			req := request("GET", "/", "User", strconv.Itoa(user))
			w := serve(r.Decide(between(func(*http.Request) { require.NoError(t, tt.change(r)) }, h)), req)
			require.Equal(t, tt.want, w.Body.String())
			require.Equal(t, tt.stored, w.Header().Get("Cache-Control") == "")
			v := r.Verdict()
			if tt.counts > 0 {
				require.NoError(t, r.Pause(t.Context())) // looks
				v = r.Verdict()
			}
			require.Equal(t, tt.counts, v.Canary.Requests+v.Stable.Requests)
		})
	}
}

// TestTheArmIsKnownInFrontOfATransport: the same for a client inside of a handler.
func TestTheArmIsKnownInFrontOfATransport(t *testing.T) {
	r := newRollout(t, rolloutOf(0.5))
	arm := func(name string) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{"Arm": {name}}}, nil
		})
	}
	tr := r.Transport(arm("stable"), arm("canary"))
	var back bool
	h := r.Decide(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if back {
			require.NoError(t, r.Rollback(t.Context(), ""))
		}
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		known, _ := versioning.ArmOf(req)
		w.Header()["Decided"] = []string{string(known)}
		w.Header()["Arm"] = resp.Header["Arm"]
		w.Header()["Cache-Control"] = resp.Header["Cache-Control"]
	}))
	user := ""
	for i := range 100 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("GET", "/", "User", strconv.Itoa(i)))
		require.Equal(t, w.Header().Get("Decided"), w.Header().Get("Arm"))
		require.Empty(t, w.Header().Get("Cache-Control"))
		if w.Header().Get("Arm") == "canary" {
			user = strconv.Itoa(i)
		}
	}
	require.NotEmpty(t, user)
	back = true
	w := serve(h, request("GET", "/", "User", user))
	require.Equal(t, "canary", w.Header().Get("Decided"))
	require.Equal(t, "stable", w.Header().Get("Arm"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}
