package versioning_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// byUser is the key of the rollouts here.
func byUser(r *http.Request) (string, bool) {
	key := r.Header.Get("User")
	return key, key != ""
}

// rolloutOf returns a valid configuration with these weights and no defaults of time.
func rolloutOf(weights ...float64) versioning.RolloutConfig {
	cfg := versioning.RolloutConfig{
		Name: "shop", Release: "v2", Key: byUser, Missing: versioning.MissingStable,
	}
	for _, w := range weights {
		cfg.Steps = append(cfg.Steps, versioning.Step{Weight: w, MinTime: time.Minute, MinRequests: 100})
	}
	return cfg
}

func newRollout(t testing.TB, cfg versioning.RolloutConfig) *versioning.Rollout {
	t.Helper()
	r, err := versioning.NewRollout(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(context.Background())) })
	return r
}

// An armHandler answers for one arm.
type armHandler struct {
	name   string
	status atomic.Int64
	served atomic.Int64
	before func(r *http.Request) // if not nil
}

func newArm(name string) *armHandler {
	a := &armHandler{name: name}
	a.status.Store(200)
	return a
}

func (a *armHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.before != nil {
		a.before(r)
	}
	a.served.Add(1)
	w.WriteHeader(int(a.status.Load()))
	_, _ = w.Write([]byte(a.name))
}

// users sends n requests of as many users through h, beginning with that number, and returns how
// many canary answered.
func users(h http.Handler, from, n int) (canary int) {
	for i := range n {
		if serve(h, request("GET", "/", "User", strconv.Itoa(from+i))).Body.String() == "canary" {
			canary++
		}
	}
	return canary
}

func TestRolloutFaultsAreNamed(t *testing.T) {
	_, err := versioning.NewRollout(versioning.RolloutConfig{
		Release: "a b", OnFail: "freeze", OnDeadline: "freeze", TagField: "a:b", Alpha: 0.5,
		Tolerance: 0.9, Floor: 2, Interval: -1, Cookie: versioning.CookieConfig{Name: "a=b", MaxAge: 1},
		Steps: []versioning.Step{
			{Weight: 1.5}, {Weight: 0.00001}, {Weight: 0.5}, {Weight: 0.5, MinTime: 2, Deadline: 1},
		},
	})
	for _, want := range []string{
		`Name: "" is not 1 to 64`, `Release: "a b" is not`, "Key: is required", "Missing: is required",
		"Cookie.Name: ", "Cookie.MaxAge: 1ns is under", "Steps[0].Weight: 1.5 is not",
		"Steps[1].Weight: 1e-05",
		"Steps[3].Weight: 0.5 is not more", "Steps[3].Deadline: 1ns is not", `OnFail: "freeze" is not`,
		`OnDeadline: "freeze" is not`, `TagField: "a:b" is not`, "Alpha: 0.5 is not", "Tolerance: 0.9 is not",
		"Floor: 2 is more than 1", "Interval: -1ns is negative",
	} {
		require.ErrorContains(t, err, "versioning: RolloutConfig."+want)
	}
	_, err = versioning.NewRollout(versioning.RolloutConfig{})
	require.ErrorContains(t, err, "versioning: RolloutConfig.Steps: is required")
	r := newRollout(t, rolloutOf(0.1))
	for _, h := range [][2]http.Handler{{nil, telling}, {telling, nil}} {
		require.PanicsWithValue(t, "versioning: nil handler", func() { r.Handler(h[0], h[1]) })
	}
}

// TestV12_TheSplitIsMonotone: a key that has canary keeps it while the weight rises, a key that has
// stable keeps it while the weight falls, and each weight has its share of keys.
func TestV12_TheSplitIsMonotone(t *testing.T) {
	const keys = 5_000
	r := newRollout(t, rolloutOf(0.0001, 0.01, 0.05, 0.25, 0.5, 0.9))
	h := r.Handler(newArm("stable"), newArm("canary"))
	var before map[int]bool
	for _, weight := range []float64{0.0001, 0.01, 0.05, 0.25, 0.5, 0.9, 1} {
		have := map[int]bool{}
		for i := range keys {
			if users(h, i, 1) == 1 {
				have[i] = true
			}
		}
		for i := range before {
			require.True(t, have[i], "user %d has lost canary at %v", i, weight)
		}
		require.InDelta(t, weight*keys, len(have), 4*36, "weight %v", weight)
		require.InDelta(t, weight, r.Stats().Weight, 1e-9)
		before = have
		require.NoError(t, r.Promote(t.Context()))
	}
	require.Len(t, before, keys)
	require.Equal(t, versioning.PhasePromoted, r.State().Phase)

	// Another release is tried by others.
	cfg := rolloutOf(0.05)
	first := newRollout(t, cfg)
	cfg.Release = "v3"
	second := newRollout(t, cfg)
	both := 0
	for i := range keys {
		a := users(first.Handler(newArm("stable"), newArm("canary")), i, 1)
		both += a * users(second.Handler(newArm("stable"), newArm("canary")), i, 1)
	}
	require.InDelta(t, 0.05*0.05*keys, both, 20)
}

func TestAGoodReleaseIsPromotedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []versioning.RolloutEvent
		cfg := rolloutOf(0.05, 0.5)
		cfg.Observe = func(_ context.Context, e versioning.RolloutEvent) { events = append(events, e) }
		r := newRollout(t, cfg)
		stable, canary := newArm("stable"), newArm("canary")
		h := r.Handler(stable, canary)
		require.Equal(t, 0.05, r.State().Weight, "the first step begins at once")
		var weights []float64
		for minute := range 10 {
			// Not before a minute, and not before a hundred requests.
			weights = append(weights, r.State().Weight)
			n := 4000
			if minute == 0 {
				n = 1000
			}
			users(h, rand.IntN(1e9), n)
			time.Sleep(time.Minute + 2*time.Second)
		}
		require.Equal(t, []float64{0.05, 0.05, 0.5, 1, 1}, weights[:5])
		s := r.State()
		require.Equal(t, versioning.PhasePromoted, s.Phase)
		require.Equal(t, "canary gets all requests for good", s.Text)
		require.Equal(t, 100, users(h, 0, 100))
		synctest.Wait()
		var reasons []string
		for _, e := range events {
			require.Equal(t, versioning.RolloutChange, e.Kind)
			reasons = append(reasons, fmt.Sprint(e.From, " ", e.To, " ", e.Reason, " ", e.Weight))
		}
		require.Equal(t, []string{
			"waiting running start 0", "running running step 0.05", "running running step 0.5",
			"running running step 1", "running promoted step 1",
		}, reasons)
		require.NoError(t, r.Drained(t.Context()))
	})
}

func TestABadReleaseIsRolledBackByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, rolloutOf(0.05, 0.5))
		stable, canary := newArm("stable"), newArm("canary")
		h := r.Handler(stable, canary)
		users(h, 0, 3000)
		canary.status.Store(500)
		sent := 3000
		for canary.status.Load() == 500 && r.State().Weight > 0 && sent < 10_000 {
			users(h, sent, 20)
			sent += 20
			time.Sleep(20 * time.Millisecond) // no look is due by time, but the errors ask for one
		}
		s := r.State()
		require.Equal(t, versioning.PhaseRolledBack, s.Phase)
		require.Equal(t, versioning.ReasonErrors, s.Reason)
		require.Contains(t, s.Text, "canary fails more often: ")
		require.Less(t, sent, 3300, "a handful of errors is enough where stable has none")
		require.Zero(t, users(h, 0, 1000))
		v := r.Verdict()
		require.Equal(t, versioning.RejectRelease, v.Decision)
		require.GreaterOrEqual(t, v.Errors.Evidence, v.Needed)
		require.EqualValues(t, 200, v.Needed)
		require.Positive(t, v.Canary.Failed)
		require.InDelta(t, sent*95/100, v.Stable.Requests, 100)
		require.GreaterOrEqual(t, r.Stats().Evidence, 1.0)
		require.NoError(t, r.Drained(t.Context()))

		// It stays so, until somebody says otherwise.
		canary.status.Store(200)
		time.Sleep(time.Hour)
		for name, f := range map[string]func(context.Context) error{
			"promote": r.Promote, "switch": r.Switch, "pause": r.Pause, "resume": r.Resume,
			"rollback": func(ctx context.Context) error { return r.Rollback(ctx, "") },
		} {
			require.ErrorIs(t, f(t.Context()), versioning.ErrPhase, name)
		}
		require.ErrorContains(t, r.Promote(t.Context()), "versioning: release v2 is rolled_back with 0 %")
		require.NoError(t, r.Retry(t.Context()))
		require.Equal(t, 0.05, r.State().Weight)
		require.ErrorIs(t, r.Retry(t.Context()), versioning.ErrPhase)
		require.Less(t, r.Stats().Evidence, 0.1, "what was seen before is forgotten")
	})
}

func TestPauseKeepsTheWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.05, 0.5)
		cfg.OnFail = versioning.Pause
		r := newRollout(t, cfg)
		canary := newArm("canary")
		canary.status.Store(500)
		h := r.Handler(newArm("stable"), canary)
		users(h, 0, 1000)
		time.Sleep(2 * time.Second)
		s := r.State()
		require.Equal(t, versioning.PhasePaused, s.Phase)
		require.Equal(t, 0.05, s.Weight)
		canary.status.Store(200)
		// Whoever resumes it has looked at the evidence: it does not count again.
		require.NoError(t, r.Resume(t.Context()))
		users(h, 0, 5000)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 0.5, r.State().Weight)
	})
}

// TestPromoteAfterPause: whoever promotes what was paused for its errors has judged the evidence,
// which then does not pause it again.
func TestPromoteAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.05, 0.5)
		cfg.OnFail = versioning.Pause
		r := newRollout(t, cfg)
		canary := newArm("canary")
		canary.status.Store(500)
		h := r.Handler(newArm("stable"), canary)
		users(h, 0, 1000)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhasePaused, r.State().Phase)
		canary.status.Store(200)
		require.NoError(t, r.Promote(t.Context()))
		users(h, 0, 1000)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhaseRunning, r.State().Phase, "%s", r.State().Text)
		require.Equal(t, 0.5, r.State().Weight)
	})
}

// TestV13_SilencePromotesNobody: too little is known, so the step holds, and at its deadline it is
// paused or rolled back.
func TestV13_SilencePromotesNobody(t *testing.T) {
	for action, phase := range map[versioning.Action]versioning.Phase{
		"": versioning.PhasePaused, versioning.RollBack: versioning.PhaseRolledBack,
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := rolloutOf(0.05)
			cfg.OnDeadline = action
			r := newRollout(t, cfg)
			h := r.Handler(newArm("stable"), newArm("canary"))
			require.Positive(t, users(h, 0, 1000))
			time.Sleep(59 * time.Minute)
			v := r.Verdict()
			require.Equal(t, versioning.Hold, v.Decision)
			require.Equal(t, versioning.ReasonData, v.Reason)
			require.Len(t, v.Missing, 1)
			require.Contains(t, v.Missing[0], "requests to canary: ")
			require.Contains(t, v.Missing[0], " of 100")
			time.Sleep(2 * time.Minute)
			s := r.State()
			require.Equal(t, phase, s.Phase)
			require.Equal(t, versioning.ReasonDeadline, s.Reason)
			require.Contains(t, s.Text, "have not been enough to judge: missing are requests to canary")
			if phase != versioning.PhasePaused {
				return
			}
			// The deadline begins again, and what was seen stays.
			require.NoError(t, r.Resume(t.Context()))
			time.Sleep(50 * time.Minute)
			require.Equal(t, versioning.PhaseRunning, r.State().Phase)
			users(h, 1000, 2000)
			time.Sleep(2 * time.Second)
			require.Equal(t, 1.0, r.State().Weight)
		})
	}
}

func TestManualStepsWaitForAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(1)
		cfg.Manual, cfg.Interval = true, time.Minute
		r := newRollout(t, cfg)
		canary := newArm("canary")
		h := r.Handler(newArm("stable"), canary)
		time.Sleep(24 * time.Hour)
		require.Zero(t, users(h, 0, 1000))
		require.NoError(t, r.Switch(t.Context()))
		require.Equal(t, 1000, users(h, 0, 1000))
		require.Equal(t, 10, func() (n int) {
			for range 10 {
				n += len(serve(h, request("GET", "/")).Body.String()) / len("canary")
			}
			return n
		}(), "at full weight those without a key have canary too")
		require.NoError(t, r.Drained(t.Context()))
		time.Sleep(30 * time.Minute)
		require.Equal(t, versioning.PhaseRunning, r.State().Phase)
		require.NoError(t, r.Promote(t.Context()))
		require.Equal(t, versioning.PhasePromoted, r.State().Phase)
		require.ErrorIs(t, r.Promote(t.Context()), versioning.ErrPhase)
		require.NoError(t, r.Rollback(t.Context(), "we do not like it"), "green is kept warm")
		require.Zero(t, users(h, 0, 1000))
		require.Equal(t, "we do not like it", r.State().Text)

		// At full weight there is nothing to compare with, but what is broken is.
		require.NoError(t, r.Retry(t.Context()))
		require.NoError(t, r.Switch(t.Context()))
		canary.status.Store(503)
		users(h, 0, 30)
		time.Sleep(time.Minute)
		require.Equal(t, versioning.ReasonFloor, r.State().Reason)
		require.Contains(t, r.State().Text, "30 of its last 30 requests failed")
	})
}

// TestV14_OneBrokenClientIsNoBrokenRelease: it fails at everything, and so do most of canary's
// requests. Its bucket is one of many.
func TestV14_OneBrokenClientIsNoBrokenRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, rolloutOf(0.05, 0.9))
		canary := newArm("canary")
		h := r.Handler(newArm("stable"), canary)
		broken := 0
		for users(h, broken, 1) == 0 {
			broken++
		}
		for i := range 30 {
			users(h, 1000+1000*i, 1000)
			canary.status.Store(500)
			for range 500 {
				users(h, broken, 1)
			}
			canary.status.Store(200)
			time.Sleep(2 * time.Second)
			require.Equal(t, versioning.PhaseRunning, r.State().Phase, "%s", r.Verdict().Text)
		}
		v := r.Verdict()
		require.EqualValues(t, 15_000, v.Canary.Failed)
		require.EqualValues(t, 1, v.Errors.Canary)
		time.Sleep(time.Minute)
		require.Equal(t, 0.9, r.State().Weight)
	})
}

func TestWhatMissesItsKey(t *testing.T) {
	without := func(h http.Handler, n int) (canary int) {
		for range n {
			if serve(h, request("GET", "/")).Body.String() == "canary" {
				canary++
			}
		}
		return canary
	}
	cfg := rolloutOf(0.5)
	cfg.Missing = versioning.MissingPerRequest
	r := newRollout(t, cfg)
	require.InDelta(t, 500, without(r.Handler(newArm("stable"), newArm("canary")), 1000), 100)
	require.EqualValues(t, 1000, r.Stats().Missing)

	cfg.Missing = versioning.MissingStable
	r = newRollout(t, cfg)
	require.Zero(t, without(r.Handler(newArm("stable"), newArm("canary")), 1000))
	require.Zero(t, r.Verdict().Stable.Requests, "it was not drawn, so it is not compared")

	cfg.Missing = versioning.MissingCookie
	cfg.Cookie = versioning.CookieConfig{Name: "arm", MaxAge: time.Hour}
	r = newRollout(t, cfg)
	h := r.Handler(newArm("stable"), newArm("canary"))
	canary := 0
	for range 200 {
		w := serve(h, request("GET", "/"))
		cookies := w.Result().Cookies()
		require.Len(t, cookies, 1)
		c := cookies[0]
		require.Equal(t, "arm", c.Name)
		require.True(t, c.HttpOnly && c.Secure && c.MaxAge == 3600 && c.Path == "/")
		if w.Body.String() == "canary" {
			canary++
		}
		for range 3 { // it keeps its arm, and gets no other cookie
			again := serve(h, request("GET", "/", "Cookie", "arm="+c.Value))
			require.Equal(t, w.Body.String(), again.Body.String())
			require.Empty(t, again.Result().Cookies())
		}
	}
	require.InDelta(t, 100, canary, 45)
	require.EqualValues(t, 200, r.Stats().Cookies)
	forged := serve(h, request("GET", "/", "Cookie", "arm=canary"))
	require.Len(t, forged.Result().Cookies(), 1, "what we have not made counts for nothing")
	require.NoError(t, r.Rollback(t.Context(), ""))
	require.Empty(t, serve(h, request("GET", "/")).Result().Cookies(), "there is nothing to remember")
}

func TestForceAndSkip(t *testing.T) {
	cfg := rolloutOf(0.5)
	cfg.Force = func(r *http.Request) (versioning.Arm, bool) {
		arm := r.Header.Get("Arm")
		return versioning.Arm(arm), arm != ""
	}
	cfg.Skip = func(r *http.Request) bool { return r.URL.Path == "/health" }
	r := newRollout(t, cfg)
	h := r.Handler(newArm("stable"), newArm("canary"))
	ask := func(path string, fields ...string) string {
		return serve(h, request("GET", path, fields...)).Body.String()
	}
	for range 100 {
		require.Equal(t, "canary", ask("/", "Arm", "canary", "User", "1"))
		require.Equal(t, "stable", ask("/", "Arm", "stable", "User", "1"))
		require.Equal(t, "stable", ask("/health", "Arm", "canary"))
		require.Equal(t, "stable", ask("/", "Arm", "other"))
	}
	s := r.Stats()
	require.EqualValues(t, 200, s.Forced)
	require.EqualValues(t, 100, s.Requests["canary"])
	require.EqualValues(t, 200, s.Requests["stable"], "what is skipped is not counted")
	require.Zero(t, r.Verdict().Canary.Requests)
	require.NoError(t, r.Rollback(t.Context(), ""))
	require.Equal(t, "canary", ask("/", "Arm", "canary"), "also at weight 0")
	require.NoError(t, r.Retry(t.Context()))
	require.NoError(t, r.Switch(t.Context()))
	require.Equal(t, "stable", ask("/", "Arm", "stable"))
	require.Equal(t, "canary", ask("/health"), "stable may be stopped")
	require.ErrorIs(t, r.Switch(t.Context()), versioning.ErrPhase, "it has been switched")
}

func TestGateIsAskedBeforeEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan error)
		var mu sync.Mutex
		var list []float64
		asked := func() []float64 {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(list)
		}
		cfg := rolloutOf(0.05)
		cfg.Gate = func(ctx context.Context, next versioning.Step) error {
			mu.Lock()
			list = append(list, next.Weight)
			mu.Unlock()
			select {
			case err := <-answer:
				if err != nil && err.Error() == "panic" {
					panic(err)
				}
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r := newRollout(t, cfg)
		canary := newArm("canary")
		h := r.Handler(newArm("stable"), canary)
		time.Sleep(time.Hour)
		require.Equal(t, []float64{0.05}, asked())
		require.Zero(t, r.State().Weight)
		require.Equal(t, versioning.ReasonGate, r.Verdict().Reason)
		answer <- nil
		time.Sleep(20 * time.Millisecond)
		require.Equal(t, 0.05, r.State().Weight)

		users(h, 0, 5000)
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{"the gate's answer"}, r.Verdict().Missing)
		answer <- errors.New("change freeze")
		time.Sleep(20 * time.Millisecond)
		require.Equal(t, versioning.PhasePaused, r.State().Phase)
		require.Equal(t, "the gate: change freeze", r.State().Text)
		require.NoError(t, r.Resume(t.Context()))
		time.Sleep(2 * time.Second)
		answer <- errors.New("panic")
		time.Sleep(20 * time.Millisecond)
		require.Equal(t, versioning.PhasePaused, r.State().Phase)
		require.EqualValues(t, 1, r.Stats().Panics)
		require.NoError(t, r.Resume(t.Context()))
		time.Sleep(2 * time.Second)
		require.Equal(t, []float64{0.05, 1, 1, 1}, asked())

		// Meanwhile it analyses and rolls back.
		canary.status.Store(500)
		users(h, 0, 5000)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, r.State().Phase)
		select {
		case answer <- nil:
			t.Fatal("somebody still asks")
		default:
		}
	})
}

// TestV15_NothingBeginsInAnArmThatIsDrained: requests come all the time while the arms change
// places. After Switch or Rollback has returned no request begins in the other arm, and once that
// is drained none is in it.
func TestV15_NothingBeginsInAnArmThatIsDrained(t *testing.T) {
	cfg := rolloutOf(1)
	cfg.Manual = true
	r := newRollout(t, cfg)
	var closed [2]atomic.Bool
	var late atomic.Int64
	arm := func(i int) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if closed[i].Load() {
				late.Add(1)
			}
		})
	}
	closed[1].Store(true)
	h := r.Handler(arm(0), arm(1))
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 8 {
		load.Go(func() {
			req := request("GET", "/", "User", strconv.Itoa(i))
			for {
				select {
				case <-stop:
					return
				default:
					h.ServeHTTP(&nullWriter{header: http.Header{}}, req)
					runtime.Gosched() // whoever drains gets its turn
				}
			}
		})
	}
	for range 300 {
		closed[1].Store(false)
		require.NoError(t, r.Switch(t.Context()))
		require.NoError(t, r.Drained(t.Context()))
		closed[0].Store(true)
		require.Zero(t, late.Load())
		closed[0].Store(false)
		require.NoError(t, r.Rollback(t.Context(), ""))
		require.NoError(t, r.Drained(t.Context()))
		closed[1].Store(true)
		require.NoError(t, r.Retry(t.Context()))
	}
	close(stop)
	load.Wait()
	require.Zero(t, late.Load())
	require.Zero(t, r.Stats().InFlight["canary"]+r.Stats().InFlight["stable"])
}
