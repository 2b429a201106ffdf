package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// A brokenStore fails while err is set; else it decides in memory. It may refuse to be prepared.
type brokenStore struct {
	err, prepare error
	remembered   bool
	remaining    int64 // if not zero, what it says is left
	calls        int
	refunds      int
	memory       *ratelimit.MemoryStore
}

func (s *brokenStore) Prepare(p []ratelimit.Policy) error {
	if s.memory == nil {
		s.memory, _ = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 100})
	}
	return errors.Join(s.prepare, s.memory.Prepare(p))
}

func (s *brokenStore) Take(ctx context.Context, claims []ratelimit.Claim) error {
	s.calls++
	if s.err != nil {
		// what a failed call leaves behind counts for nothing
		claims[0].Denied, claims[0].Remaining, claims[0].Remembered = true, -7, true
		return s.err
	}
	err := s.memory.Take(ctx, claims)
	claims[0].Remembered = s.remembered
	if s.remaining != 0 {
		claims[0].Remaining = s.remaining
	}
	return err
}

func (s *brokenStore) Peek(ctx context.Context, claims []ratelimit.Claim) error {
	if s.err != nil {
		return s.err
	}
	return s.memory.Peek(ctx, claims)
}

func (s *brokenStore) Refund(ctx context.Context, claims []ratelimit.Claim) error {
	s.refunds++
	if s.err != nil {
		return s.err
	}
	return s.memory.Refund(ctx, claims)
}

func (s *brokenStore) Charge(ctx context.Context, claims []ratelimit.Claim) error {
	if s.err != nil {
		return s.err
	}
	return s.memory.Charge(ctx, claims)
}

var errDown = errors.New("down")

func TestR18_EachPolicyHasItsOwnFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ten := ratelimit.PerDay(10).WithBurst(10)
		open, local := policyOf("open", ten), policyOf("local", ten)
		open.OnError, local.LocalShare = ratelimit.FailOpen, 0.5
		store := &brokenStore{}
		var events []string
		l := newLimiter(t, ratelimit.Config{
			Store: store, Policies: []ratelimit.Policy{open, local},
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind == ratelimit.StoreChanged {
					events = append(events, fmt.Sprint(e.Up, " ", e.Err))
				}
			},
		})
		admitted := func() (n int) {
			for allow(t, l, "a", "a") {
				n++
				require.Less(t, n, 100)
			}
			return n
		}
		for range 4 {
			require.True(t, allow(t, l, "a", "a"))
		}
		require.True(t, l.Stats().StoreUp)
		store.err = errDown
		d, err := l.TakeKeys(t.Context(), []string{"a", "a"})
		require.NoError(t, err)
		require.True(t, d.Degraded)
		require.EqualValues(t, 2, d.Remaining, "half of six, and one is used")
		require.EqualValues(t, -1, d.Claims()[0].Remaining, "nobody knows")
		require.False(t, d.Claims()[0].Remembered, "this process has decided")
		require.EqualValues(t, 10, d.Claims()[1].Rate.Burst, "the rate that clients are told is the policy's")
		require.Equal(t, 2, admitted())
		d, err = l.TakeKeys(t.Context(), []string{"a", "a"})
		require.NoError(t, err)
		require.Equal(t, []string{"local"}, d.Violated())
		require.InDelta(t, 24*time.Hour/5, d.RetryAfter, float64(time.Minute), "at half of the pace")
		require.False(t, l.Stats().StoreUp)
		require.EqualValues(t, 5, l.Stats().Failures)

		// What the store has remembered is no sign that it is well.
		store.err, store.remembered = nil, true
		allow(t, l, "b", "b")
		require.False(t, l.Stats().StoreUp)
		store.remembered = false
		allow(t, l, "b", "b")
		require.True(t, l.Stats().StoreUp)
		require.Equal(t, []string{"false down", "true <nil>"}, events)

		// A caller who left is no failure of the store.
		store.err = context.Canceled
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = l.TakeKeys(gone, []string{"c", "c"})
		require.NoError(t, err)
		require.True(t, l.Stats().StoreUp)
	})
}

func TestR18_FailClosedRefusesAll(t *testing.T) {
	closed := policyOf("closed", ratelimit.PerDay(10))
	local := policyOf("local", ratelimit.PerDay(1).WithBurst(3))
	closed.OnError = ratelimit.FailClosed
	store := &brokenStore{err: errDown}
	l := limiterOn(t, store, local, closed)
	for range 5 {
		d, err := l.TakeKeys(t.Context(), []string{"a", "a"})
		require.NoError(t, err)
		require.False(t, d.Allowed)
		require.Equal(t, ratelimit.Unavailable, d.Outcome)
		require.Equal(t, []string{"closed"}, d.Violated())
		require.Equal(t, time.Second, d.RetryAfter)
	}
	require.EqualValues(t, 5, l.Stats().Unavailable)
	require.EqualValues(t, 5, l.Stats().Refused["closed"])
	store.err = nil
	require.True(t, allow(t, l, "a", "a"), "what was refused was not charged")
}

// TestR18_ChargeOfAFailedStore: the debt is kept here.
func TestR18_ChargeOfAFailedStore(t *testing.T) {
	store := &brokenStore{}
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(1).WithBurst(10)))
	d, err := l.TakeKeys(t.Context(), []string{"a"})
	require.NoError(t, err)
	store.err = errDown
	require.ErrorIs(t, d.Charge(t.Context(), 20), errDown)
	require.EqualValues(t, 1, l.Stats().Failures)
	require.False(t, allow(t, l, "a"))
	require.True(t, allow(t, l, "b"))
}

// TestSharesAreOfPaceAndBurst: with any share and rate, what is admitted locally is at most that
// share, or one.
func TestSharesAreOfPaceAndBurst(t *testing.T) {
	for _, tt := range []struct {
		rate  ratelimit.Rate
		share float64
		burst int
		pace  time.Duration // of one token
	}{
		{ratelimit.PerSecond(10).WithBurst(10), 0.5, 5, 200 * time.Millisecond},
		{ratelimit.PerDay(1).WithBurst(1), 0.25, 1, 4 * 24 * time.Hour},
		{
			ratelimit.Rate{Limit: 1000, Window: 300 * 24 * time.Hour, Burst: 1000}, 0.25, 250,
			4 * 300 * 24 * time.Hour / 1000,
		},
		{ratelimit.Rate{Limit: 1, Window: 366 * 24 * time.Hour, Burst: 4}, 0.01, 1, 366 * 24 * time.Hour},
		{ratelimit.Rate{Limit: 199, Window: 366 * 24 * time.Hour, Burst: 796}, 0.01, 4, 366 * 24 * time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := policyOf("p", tt.rate)
			p.LocalShare = tt.share
			l := limiterOn(t, &brokenStore{err: errDown}, p)
			time.Sleep(time.Hour)
			for range tt.burst {
				require.True(t, allow(t, l, "a"), "%+v", tt)
			}
			require.False(t, allow(t, l, "a"), "%+v", tt)
			time.Sleep(tt.pace - tt.pace/1000)
			require.False(t, allow(t, l, "a"), "%+v", tt)
			time.Sleep(tt.pace / 500)
			require.True(t, allow(t, l, "a"), "%+v", tt)
		})
	}
}

func TestStoresThatNewRefuses(t *testing.T) {
	p := []ratelimit.Policy{policyOf("p", ratelimit.PerDay(1))}
	_, err := ratelimit.New(ratelimit.Config{Store: &brokenStore{prepare: errDown}, Policies: p})
	require.ErrorIs(t, err, errDown)
	require.ErrorContains(t, err, "ratelimit: Config.Store: ")
	for _, m := range []*ratelimit.MemoryStore{nil, {}} {
		_, err = ratelimit.New(ratelimit.Config{Store: m, Policies: p})
		require.EqualError(t, err, "ratelimit: Config.Store: the MemoryStore was not made by NewMemoryStore")
	}
}

// TestMemoryStoreBehindAnother: what a store of one's own hands on is checked.
func TestMemoryStoreBehindAnother(t *testing.T) {
	m := newMemory(t, 10)
	gcra := policyOf("gcra", ratelimit.PerDay(2).WithBurst(2))
	sliding := policyOf("sliding", ratelimit.PerDay(2))
	sliding.Algorithm = ratelimit.SlidingWindow
	require.NoError(t, m.Prepare([]ratelimit.Policy{gcra, sliding}))
	claim := func(p *ratelimit.Policy, cost int64) ratelimit.Claim {
		return ratelimit.Claim{Policy: p, Key: "k", Rate: p.Rate, Cost: cost}
	}
	for i := range 3 {
		claims := []ratelimit.Claim{claim(&gcra, 1), claim(&sliding, 1)}
		require.NoError(t, m.Take(t.Context(), claims))
		require.Equal(t, i == 2, claims[0].Denied && claims[1].Denied)
	}
	other, invalid := policyOf("other", ratelimit.PerDay(1)), gcra
	invalid.Rate.Limit = 0
	for want, claims := range map[string][]ratelimit.Claim{
		`ratelimit: policy "gcra": cost -1 is negative`:         {claim(&gcra, -1)},
		`ratelimit: policy "sliding": cost -5 is negative`:      {claim(&gcra, 1), claim(&sliding, -5)},
		`ratelimit: policy "other" was not prepared`:            {claim(&other, 1)},
		`ratelimit: policy "gcra" has two claims`:               {claim(&gcra, 1), claim(&gcra, 1)},
		`ratelimit: 9 claims are more than 8`:                   make([]ratelimit.Claim, 9),
		`ratelimit: policy "gcra".Rate.Limit: 0 is less than 1`: {claim(&invalid, 1)},
	} {
		require.EqualError(t, m.Take(t.Context(), claims), want)
	}
	require.Error(t, m.Charge(t.Context(), []ratelimit.Claim{claim(&gcra, -1)}))
	require.NoError(t, m.Charge(t.Context(), []ratelimit.Claim{claim(&sliding, 5)}))
}

func TestNewNamesEveryFault(t *testing.T) {
	bad := ratelimit.Policy{
		Name: "a b", LocalShare: 2, Rate: ratelimit.Rate{Limit: -1, Window: time.Hour, Burst: -1},
	}
	named := policyOf("same", ratelimit.PerDay(1))
	window := policyOf("w", ratelimit.PerDay(1).WithBurst(1))
	window.Algorithm = ratelimit.SlidingWindow
	wide := policyOf("wide", ratelimit.PerDay(1<<24))
	wide.Algorithm = ratelimit.SlidingWindow
	strange := policyOf("s", ratelimit.PerDay(1))
	strange.Algorithm, strange.OnError = "leaky", "panic"
	share := policyOf("share", ratelimit.PerDay(1))
	share.OnError, share.LocalShare = ratelimit.FailOpen, 0.5
	_, err := ratelimit.New(ratelimit.Config{
		Policies: []ratelimit.Policy{bad, named, named, window, wide, strange, share}, RetryJitter: -1,
	})
	for _, want := range []string{
		`Policies[0].Name: "a b" is not 1 to 64`, "Policies[0].Key: is required",
		"Policies[0].Missing: is required", "Policies[0].LocalShare: 2 is more than 1",
		"Policies[0].Rate.Limit: -1 is less", "Policies[0].Rate.Burst: -1 is negative",
		`Policies[2].Name: "same" is taken`, "Policies[3].Rate.Burst: has no meaning",
		"Policies[4].Rate.Limit: 16777216 is more than",
		`Policies[5].Algorithm: "leaky" is not GCRA`, `Policies[5].OnError: "panic" is not FailLocal`,
		"Policies[6].LocalShare: has a meaning only with FailLocal", "RetryJitter: -1ns is negative",
	} {
		require.ErrorContains(t, err, "ratelimit: Config."+want)
	}
	require.Len(t, strings.Split(err.Error(), "\n"), 13)
	for _, n := range []int{0, 9} {
		_, err = ratelimit.New(ratelimit.Config{Policies: make([]ratelimit.Policy, n)})
		require.ErrorContains(t, err, fmt.Sprintf("ratelimit: Config.Policies: there are %d, not 1 to 8", n))
	}
}

func TestMissingKeys(t *testing.T) {
	byKey := func(m ratelimit.Missing) ratelimit.Policy {
		p := policyOf("by-key", ratelimit.PerDay(1))
		p.Missing = m
		p.Key = func(r *http.Request) (string, bool) { return r.Host, r.Host != "empty" }
		return p
	}
	ask := func(l *ratelimit.Limiter, host string) ratelimit.Decision {
		d, err := l.Take(t.Context(), &http.Request{Host: host})
		require.NoError(t, err)
		return d
	}
	skip := limiterOf(t, byKey(ratelimit.MissingSkip))
	shared := limiterOf(t, byKey(ratelimit.MissingShared))
	other := policyOf("other", ratelimit.PerDay(1))
	reject := limiterOf(t, other, byKey(ratelimit.MissingReject))
	for i, host := range []string{"", "empty", ""} {
		d := ask(skip, host)
		require.True(t, d.Allowed)
		require.EqualValues(t, -1, d.Remaining)
		require.Equal(t, i == 0, ask(shared, host).Allowed)
		d = ask(reject, host)
		require.Equal(t, ratelimit.NoKey, d.Outcome)
		require.Equal(t, []string{"by-key"}, d.Violated())
	}
	require.True(t, ask(shared, "a").Allowed)
	require.True(t, ask(reject, "a").Allowed, "who had no key was charged nowhere")
	require.EqualValues(t, 3, reject.Stats().NoKey)
	both := limiterOf(t, byKey(ratelimit.MissingReject), policyOf("x", ratelimit.PerDay(1)))
	d, err := both.TakeKeys(t.Context(), []string{"", ""})
	require.NoError(t, err)
	require.Equal(t, []string{"by-key", "x"}, d.Violated())
	_, err = both.TakeKeys(t.Context(), []string{"one"})
	require.EqualError(t, err, "ratelimit: TakeKeys: 1 keys for 2 policies")
	require.EqualValues(t, 1, both.Stats().Errors)
}

func TestRateFor(t *testing.T) {
	plans := map[string]ratelimit.Rate{"": {}, "gold": ratelimit.PerDay(1).WithBurst(5)}
	p := policyOf("p", ratelimit.PerDay(1).WithBurst(2))
	p.Key = func(r *http.Request) (string, bool) { return r.Host, true }
	p.RateFor = func(r *http.Request) ratelimit.Rate { return plans[r.Method] }
	w := policyOf("w", ratelimit.PerDay(100))
	w.Algorithm = ratelimit.SlidingWindow
	w.RateFor = func(r *http.Request) ratelimit.Rate {
		if r.Method == "short" {
			return ratelimit.PerHour(1)
		}
		return ratelimit.PerDay(50)
	}
	l := limiterOf(t, p, w)
	for plan, burst := range map[string]int{"": 2, "gold": 5} {
		for i := range burst + 1 {
			d, err := l.Take(t.Context(), &http.Request{Method: plan, Host: "of " + plan})
			require.NoError(t, err)
			require.Equal(t, i < burst, d.Allowed)
			h := http.Header{}
			d.SetHeaders(h)
			_, q := items(t, h["Ratelimit-Policy"])
			require.EqualValues(t, 50, q[1]["q"])
		}
	}
	_, err := l.Take(t.Context(), &http.Request{Method: "short", Host: "x"})
	require.EqualError(
		t, err, "ratelimit: Config.Policies[1].RateFor.Window: 1h0m0s is not the policy's 24h0m0s",
	)
}

// TestEvents: LogValue has the event, bounded dimensions, a measurement, and the rest as detail.
func TestEvents(t *testing.T) {
	var events []ratelimit.Event
	l := newLimiter(t, ratelimit.Config{
		Policies: []ratelimit.Policy{policyOf("day", ratelimit.PerDay(1))},
		Observe:  func(_ context.Context, e ratelimit.Event) { events = append(events, e) },
	})
	allow(t, l, "secret")
	allow(t, l, "secret")
	require.Len(t, events, 2)
	events = append(events, ratelimit.Event{Kind: ratelimit.StoreChanged, Err: errDown},
		ratelimit.Event{Kind: ratelimit.StoreChanged, Up: true}, ratelimit.Event{Kind: "x", Outcome: "y"})
	const detail = ` e.detail.remaining=0 e.detail.retry_after=`
	for i, want := range []string{
		`e.event=decision e.outcome=admitted e.policy="" e.degraded=false e.duration=1ms` + detail + `0s`,
		`e.event=decision e.outcome=limited e.policy=day e.degraded=false e.duration=1ms` +
			detail + `24h0m0s`,
		`e.event=store e.up=false e.detail.error=down`,
		`e.event=store e.up=true`,
		`e.event=x e.outcome=y e.policy="" e.degraded=false e.duration=1ms` + detail + `0s`,
	} {
		e := events[i]
		e.Duration = time.Millisecond
		e.RetryAfter = e.RetryAfter.Round(time.Hour)
		require.Equal(t, `level=INFO msg="" `+want, logLine(e))
	}
	require.Equal(t, `level=INFO msg="" e.event=concurrency e.outcome=busy`,
		logLine(ratelimit.ConcurrencyEvent{Outcome: ratelimit.Busy}))
}

func logLine(e slog.LogValuer) string {
	var b strings.Builder
	timeless := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: timeless}))
	log.Info("", "e", e)
	return strings.TrimSpace(b.String())
}

// TestStoresThatExaggerate: a store of one's own may say that more is left than a burst; that is no
// debt here.
func TestStoresThatExaggerate(t *testing.T) {
	store := &brokenStore{remaining: 1 << 62}
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(1).WithBurst(5)))
	d, err := l.TakeKeys(t.Context(), []string{"a"})
	require.NoError(t, err)
	h := http.Header{}
	d.SetHeaders(h)
	items(t, h["Ratelimit"])
	store.err = errDown
	for range 5 {
		require.True(t, allow(t, l, "a"))
	}
	require.False(t, allow(t, l, "a"))
}

// TestNeverIsLongerThanAnyWait: if one of two policies would never admit the request, there is no
// time to come again at, whatever the other says.
func TestNeverIsLongerThanAnyWait(t *testing.T) {
	day := policyOf("day", ratelimit.PerDay(4).WithBurst(4))
	month := policyOf("month", ratelimit.PerDay(1).WithBurst(2))
	cost := int64(2)
	month.Cost = func(*http.Request) int64 { return cost }
	day.Cost = month.Cost
	for _, policies := range [][]ratelimit.Policy{{day, month}, {month, day}} {
		cost = 2
		l := limiterOf(t, policies...)
		_, err := l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		cost = 3
		d, err := l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		require.Len(t, d.Violated(), 2)
		require.Zero(t, d.RetryAfter)
	}
}

// TestRateForThatAdmitsNothing: a plan of zero is refused, and nothing is charged or asked of a
// store.
func TestRateForThatAdmitsNothing(t *testing.T) {
	for _, a := range algorithms {
		rate := ratelimit.Rate{Limit: 0, Window: time.Minute}
		p := policyOf("plan", ratelimit.PerHour(10))
		p.Algorithm = a
		p.RateFor = func(*http.Request) ratelimit.Rate { return rate }
		other := policyOf("other", ratelimit.PerHour(10).WithBurst(10))
		store := &brokenStore{}
		l := newLimiter(t, ratelimit.Config{
			Store: store, LegacyHeaders: true, Policies: []ratelimit.Policy{p, other},
		})
		h := l.Middleware(nothing)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Empty(t, w.Header().Get("Retry-After"))
		require.Equal(t, `"plan";r=0;t=60`, w.Header().Get("RateLimit"))
		require.Contains(t, w.Header().Get("RateLimit-Policy"), `"plan";q=0;w=60`)
		require.Contains(t, w.Body.String(), `"violated-policies":["plan"]`)
		require.Zero(t, store.calls)
		d, err := l.Peek(t.Context(), new(http.Request))
		require.NoError(t, err)
		require.Equal(t, []string{"plan"}, d.Violated())
		require.NoError(t, d.Charge(t.Context(), 1))

		rate = ratelimit.Rate{} // as the field says
		d, err = l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.EqualValues(t, 9, d.Claims()[1].Remaining, "the refused one was charged to neither")
		for _, rate = range []ratelimit.Rate{
			{Limit: -1, Window: time.Minute}, {Limit: 0, Burst: 1}, {Limit: 0, Window: -1},
			{Limit: 0, Window: time.Minute, Burst: -1},
		} {
			_, err = l.Take(t.Context(), new(http.Request))
			require.Error(t, err, "%v", rate)
		}
	}
}
