package ratelimit_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
)

func failures(status int) bool { return status >= 400 }

// logIns returns a policy that counts failures: five an hour.
func logIns(a ratelimit.Algorithm) ratelimit.Policy {
	p := policyOf("log-ins", ratelimit.Rate{Limit: 5, Window: time.Hour, Burst: 5})
	if a == ratelimit.SlidingWindow {
		p.Rate.Burst = 0
	}
	p.Algorithm = a
	p.CountIf = failures
	return p
}

var algorithms = []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow}

// TestCountIfCountsWhatFails: any number of good answers, then as many failures as the limit says.
func TestCountIfCountsWhatFails(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			l := limiterOf(t, logIns(a))
			status := http.StatusOK
			h := l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusEarlyHints) // is not the answer
				if status != http.StatusOK {
					w.WriteHeader(status)
				}
			}))
			server := httptest.NewServer(h)
			defer server.Close()
			codes := func(n int) (codes []int) {
				for range n {
					resp, _ := get(t, server.Client(), server.URL)
					codes = append(codes, resp.StatusCode)
				}
				return codes
			}
			for _, code := range codes(100) {
				require.Equal(t, 200, code)
			}
			status = http.StatusUnauthorized
			require.Equal(t, []int{401, 401, 401}, codes(3))
			status = http.StatusOK
			require.Equal(t, []int{200, 200, 200, 200, 200}, codes(5), "two failures are left")
			status = http.StatusUnauthorized
			require.Equal(t, []int{401, 401, 429, 429}, codes(4))
		})
	}
}

// TestCountIfIsFreeOfRaces: of twelve failures at once as many get through as the limit says; of
// twelve good answers as many at once, and all of them one after the other.
func TestCountIfIsFreeOfRaces(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := limiterOf(t, logIns(a))
				status := http.StatusOK
				var entered atomic.Int64
				var gate chan struct{}
				h := l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					entered.Add(1)
					<-gate
					w.WriteHeader(status)
				}))
				twelve := func() (through int64) {
					entered.Store(0)
					gate = make(chan struct{})
					var wg sync.WaitGroup
					for range 12 {
						wg.Go(func() {
							h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
						})
					}
					synctest.Wait()
					time.Sleep(50 * time.Millisecond)
					close(gate)
					wg.Wait()
					return entered.Load()
				}
				for range 3 {
					require.EqualValues(t, 5, twelve())
				}
				status = http.StatusForbidden
				require.EqualValues(t, 5, twelve())
				require.Zero(t, twelve())
			})
		})
	}
}

// TestCountIfWithoutAnAnswer: a handler that panics, aborts or ends its goroutine counts.
func TestCountIfWithoutAnAnswer(t *testing.T) {
	for name, end := range map[string]func(){
		"panic":  func() { panic("a bug") },
		"abort":  func() { panic(http.ErrAbortHandler) },
		"goexit": runtime.Goexit,
	} {
		// In simulated time: of requests at once, one that has read the clock before the others
		// could be refused at the limit.
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := limiterOf(t, logIns(ratelimit.GCRA))
				h := l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(http.StatusOK)
					end()
				}))
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() {
						defer func() { _ = recover() }()
						h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
					})
				}
				wg.Wait()
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
				require.Equal(t, http.StatusTooManyRequests, w.Code)
			})
		})
	}
}

// TestDone: once for all copies of a decision, and only for policies with a CountIf.
func TestDone(t *testing.T) {
	plain := policyOf("requests", ratelimit.PerHour(100).WithBurst(100))
	l := limiterOf(t, logIns(ratelimit.GCRA), plain)
	left := func() (failures, requests int64) {
		d, err := l.PeekKeys(t.Context(), []string{"a", "a"})
		require.NoError(t, err)
		return d.Claims()[0].Remaining, d.Claims()[1].Remaining
	}
	requireLeft := func(failures, requests int64) {
		t.Helper()
		f, r := left()
		require.Equal(t, []int64{failures, requests}, []int64{f, r})
	}
	takeOne := func() ratelimit.Decision {
		d, err := l.TakeKeys(t.Context(), []string{"a", "a"})
		require.NoError(t, err)
		return d
	}
	d := takeOne()
	requireLeft(4, 99)
	again := d
	require.NoError(t, d.Done(200))
	requireLeft(5, 99)
	require.NoError(t, again.Done(200), "the first call has settled it")
	require.NoError(t, d.Done(200))
	requireLeft(5, 99)

	d = takeOne()
	require.NoError(t, d.Done(401))
	require.NoError(t, d.Done(200), "too late to say otherwise")
	requireLeft(4, 98)

	takeOne() // without Done it counts
	requireLeft(3, 97)

	d = takeOne()
	require.NoError(t, d.Charge(t.Context(), 2, "log-ins"))
	require.NoError(t, d.Done(200))
	requireLeft(1, 96)

	takeOne()
	d = takeOne()
	require.False(t, d.Allowed)
	require.NoError(t, d.Done(200))
	requireLeft(0, 95)

	var zero ratelimit.Decision
	require.NoError(t, zero.Done(200))
}

// TestRefundIsExact: a charge that is given back at once leaves the count as if it had not been
// made, at any rate, whatever else is in use; one that time has paid gives back nothing.
func TestRefundIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		a := ratelimit.GCRA
		if rapid.Bool().Draw(t, "sliding") {
			a, r.Burst = ratelimit.SlidingWindow, 0
			r.Limit = min(r.Limit, 1<<24-1)
		}
		if _, err := r.Validate(a); err != nil {
			r.Burst = min(r.Burst, 1) // the drawn one takes too long to earn
		}
		c, err := ratelimit.NewCell(r, a)
		require.NoError(t, err)
		oracle, err := ratelimit.NewCell(r, a)
		require.NoError(t, err)
		now := time.Duration(1)
		most := min(max(c.Rate().Burst, r.Limit), 1000)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			cost := rapid.Int64Range(1, max(most/3, 1)).Draw(t, "cost")
			if ok, _, _, _ := c.Take(now, cost); ok {
				c.Refund(now, cost, c.Receipt(now))
			}
			cost = rapid.Int64Range(1, max(most/3, 1)).Draw(t, "kept")
			ok1, left1, retry1, reset1 := c.Take(now, cost)
			ok2, left2, retry2, reset2 := oracle.Take(now, cost)
			require.Equal(t, ok2, ok1)
			require.Equal(t, left2, left1)
			require.Equal(t, retry2, retry1)
			require.Equal(t, reset2, reset1)
			now += drawStep(t, r)
		}
	})
}

// TestRefundMintsNothing: what counts keeps the rate over a key's life, however long those requests
// last that do not count.
func TestRefundMintsNothing(t *testing.T) {
	type held struct{ cost, receipt int64 }
	rapid.Check(t, func(t *rapid.T) {
		r := ratelimit.Rate{
			Limit: rapid.Int64Range(1, 20).Draw(t, "limit"), Window: time.Second,
			Burst: rapid.Int64Range(1, 10).Draw(t, "burst"),
		}
		c, err := ratelimit.NewCell(r, ratelimit.GCRA)
		require.NoError(t, err)
		now := time.Duration(0)
		counted := int64(0)
		var open []held
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause"))
			switch {
			case len(open) > 0 && rapid.Bool().Draw(t, "refund"):
				c.Refund(now, open[0].cost, open[0].receipt)
				open = open[1:]
			default:
				cost := rapid.Int64Range(1, 3).Draw(t, "cost")
				ok, _, _, _ := c.Take(now, cost)
				if ok && rapid.Bool().Draw(t, "counts") {
					counted += cost
				} else if ok {
					open = append(open, held{cost, c.Receipt(now)})
				}
			}
			most := float64(r.Burst) + float64(r.Limit)*now.Seconds()
			require.LessOrEqual(t, float64(counted), most+1e-6)
		}
	})
}

// TestRefundsOfSlidingWindows: what was charged in a window is taken out of that window.
func TestRefundsOfSlidingWindows(t *testing.T) {
	c, err := ratelimit.NewCell(ratelimit.Rate{Limit: 10, Window: time.Second}, ratelimit.SlidingWindow)
	require.NoError(t, err)
	left := func(now time.Duration) int64 {
		_, left, _, _ := c.Take(now, 0)
		return left
	}
	const at = 500 * time.Millisecond
	c.Take(at, 4)
	first := c.Receipt(at)
	c.Take(at, 6)
	require.Zero(t, left(at))
	c.Refund(at+time.Second, 4, first) // now it is the previous window, half of which still weighs
	require.EqualValues(t, 7, left(at+time.Second))
	c.Take(at+time.Second, 1)
	c.Refund(at+time.Second, 6, first-1) // of a window that has passed: nothing
	c.Refund(at+time.Second, 6, first-(1<<16)+1)
	require.EqualValues(t, 6, left(at+time.Second))
	c.Refund(at+time.Second, 100, first+1)
	require.EqualValues(t, 7, left(at+time.Second), "never more than was used")
}

// TestRefundsOfDisplacedKeys: who has taken over a place and its debt is given nothing back.
func TestRefundsOfDisplacedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 1}) // one set of seven
		require.NoError(t, err)
		l := limiterOn(t, m, logIns(ratelimit.GCRA))
		takeOne := func(key string) ratelimit.Decision {
			d, err := l.TakeKeys(t.Context(), []string{key})
			require.NoError(t, err)
			return d
		}
		first := takeOne("first") // owes least: an hour's fifth
		for _, key := range []string{"b", "c", "d", "e", "f", "g"} {
			takeOne(key)
			takeOne(key)
		}
		require.EqualValues(t, 3, takeOne("heir").Remaining)
		require.NoError(t, first.Done(200))
		d, err := l.PeekKeys(t.Context(), []string{"heir"})
		require.NoError(t, err)
		require.EqualValues(t, 3, d.Remaining)
	})
}

// TestCountIfWhileTheStoreFails: what this process charged is given back here, and a store that
// cannot give back is an error.
func TestCountIfWhileTheStoreFails(t *testing.T) {
	store := &brokenStore{err: errDown}
	open := logIns(ratelimit.GCRA)
	open.Name, open.OnError = "open", ratelimit.FailOpen
	l := limiterOn(t, store, logIns(ratelimit.GCRA), open)
	keys := []string{"a", "a"}
	for range 20 {
		d, err := l.TakeKeys(t.Context(), keys)
		require.NoError(t, err)
		require.True(t, d.Allowed && d.Degraded)
		require.NoError(t, d.Done(204))
	}
	require.Zero(t, store.refunds)
	for range 5 {
		_, err := l.TakeKeys(t.Context(), keys)
		require.NoError(t, err)
	}
	d, err := l.TakeKeys(t.Context(), keys)
	require.NoError(t, err)
	require.Equal(t, []string{"log-ins"}, d.Violated())

	store.err = nil
	d, err = l.TakeKeys(t.Context(), []string{"b", "b"})
	require.NoError(t, err)
	store.err = errDown
	before := l.Stats().Failures
	require.ErrorIs(t, d.Done(200), errDown)
	require.Equal(t, before+1, l.Stats().Failures)
	store.err = nil
	d, err = l.PeekKeys(t.Context(), []string{"b", "b"})
	require.NoError(t, err)
	require.EqualValues(t, 4, d.Remaining, "it counts")
}

// goneStore reports whether contexts of what comes after the answer have ended.
type goneStore struct {
	brokenStore
	t     *testing.T
	value any
}

func (s *goneStore) Charge(ctx context.Context, claims []ratelimit.Claim) error {
	require.NoError(s.t, ctx.Err())
	require.Equal(s.t, "v", ctx.Value(s.value))
	return s.brokenStore.Charge(ctx, claims)
}

func (s *goneStore) Refund(ctx context.Context, claims []ratelimit.Claim) error {
	require.NoError(s.t, ctx.Err())
	require.Equal(s.t, "v", ctx.Value(s.value))
	return s.brokenStore.Refund(ctx, claims)
}

// TestR32_WorkAfterTheAnswerOutlivesTheRequest: what is charged or given back when the client has
// left reaches the store, with the request's values.
func TestR32_WorkAfterTheAnswerOutlivesTheRequest(t *testing.T) {
	type key struct{}
	store := &goneStore{t: t, value: key{}}
	l := newLimiter(t, ratelimit.Config{
		Store: store, PassDecision: true, Policies: []ratelimit.Policy{logIns(ratelimit.GCRA)},
	})
	ctx, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
	h := l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := ratelimit.FromContext(r.Context())
		leave()
		require.ErrorIs(t, r.Context().Err(), context.Canceled)
		require.NoError(t, d.Charge(r.Context(), 2))
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil).WithContext(ctx))
	require.Equal(t, 1, store.refunds)
	d, err := l.PeekKeys(t.Context(), []string{"all"})
	require.NoError(t, err)
	require.EqualValues(t, 3, d.Remaining)
}

// TestRefundsOfWhatTimeHasPaid: of a debt that is paid nothing is given back, of half of one a
// half.
func TestRefundsOfWhatTimeHasPaid(t *testing.T) {
	rate := ratelimit.Rate{Limit: 1, Window: time.Second, Burst: 4}
	for _, tt := range []struct {
		later time.Duration
		left  int64
	}{{0, 2}, {2 * time.Second, 2}, {time.Second, 2}, {3 * time.Second, 2}} {
		c, err := ratelimit.NewCell(rate, ratelimit.GCRA)
		require.NoError(t, err)
		c.Take(0, 2)
		receipt := c.Receipt(0)
		c.Take(tt.later, 2)
		c.Refund(tt.later, 2, receipt)
		_, left, _, _ := c.Take(tt.later, 0)
		require.Equal(t, tt.left, left, "%v", tt.later)
	}
}

// TestRefundsAtAShareOfTheRate: what FailLocal charged at its share is given back at its share.
func TestRefundsAtAShareOfTheRate(t *testing.T) {
	p := logIns(ratelimit.GCRA)
	p.Rate.Burst, p.LocalShare = 4, 0.5
	l := limiterOn(t, &brokenStore{err: errDown}, p)
	for range 20 {
		d, err := l.TakeKeys(t.Context(), []string{"a"})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.EqualValues(t, 1, d.Remaining)
		require.NoError(t, d.Done(200))
	}
}

// TestRefundOfAChargeInTheNextWindow: a request whose clock was read before another's, which has
// begun the next window, is charged and given back in that one.
func TestRefundOfAChargeInTheNextWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 100)
		l := limiterOn(t, m, logIns(ratelimit.SlidingWindow))
		left := func() int64 {
			d, err := l.PeekKeys(t.Context(), []string{"a"})
			require.NoError(t, err)
			return d.Remaining
		}
		take := func() ratelimit.Decision {
			d, err := l.TakeKeys(t.Context(), []string{"a"})
			require.NoError(t, err)
			require.True(t, d.Allowed)
			return d
		}
		base := m.Base()
		time.Sleep(time.Hour + time.Minute)
		take()
		m.SetBase(base.Add(10 * time.Minute)) // what is read now is a moment of the first hour
		early := take()
		m.SetBase(base)
		require.EqualValues(t, 3, left())
		require.NoError(t, early.Done(200))
		require.EqualValues(t, 4, left())
	})
}
