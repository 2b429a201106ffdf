package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/breaker"
)

func newThrottle(t testing.TB, cfg breaker.ThrottleConfig) *breaker.Throttle {
	t.Helper()
	th, err := breaker.NewThrottle(cfg)
	require.NoError(t, err)
	return th
}

// answering answers with a status, or with an error if that is not nil.
func answering(status *int, fault *error) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) {
		if fault != nil && *fault != nil {
			return nil, *fault
		}
		return answer(*status), nil
	})
}

func TestThrottlePassesWhatIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		th.SetRand(func() float64 { return 0 }) // whatever may be refused is
		status := 200
		rt := th.Transport(answering(&status, nil))
		for i := range 1000 {
			status = []int{200, 429}[i%2] // half of them: what K allows
			if i%10 == 0 {
				time.Sleep(time.Second)
			}
			_, err := send(rt, request(t.Context(), "http://h/"))
			require.NoError(t, err, "request %d", i)
		}
		require.EqualValues(t, 1000, th.Stats().Sent)
	})
}

func TestThrottleSparesAServerThatRefuses(t *testing.T) {
	for _, fault := range []error{nil, syscall.ECONNREFUSED, timeoutError{}} {
		for _, status := range []int{429, 503} {
			synctest.Test(t, func(t *testing.T) {
				th := newThrottle(t, breaker.ThrottleConfig{})
				r := rand.New(rand.NewPCG(1, 2))
				th.SetRand(r.Float64)
				rt := th.Transport(answering(&status, &fault))
				for range 10_000 {
					_, _ = send(rt, request(t.Context(), "http://h/"))
					time.Sleep(time.Millisecond)
				}
				s := th.Stats()
				require.Less(t, s.Sent, uint64(40), "p is requests / (requests + 1): a harmonic series")
				require.EqualValues(t, 10_000, s.Sent+s.Throttled)
			})
		}
	}
}

func TestOtherFailuresAreAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		th.SetRand(func() float64 { return 0 })
		status := 500
		rt := th.Transport(answering(&status, nil))
		for _, status = range []int{500, 502, 504, 404} {
			for range 100 {
				_, err := send(rt, request(t.Context(), "http://h/"))
				require.NoError(t, err)
			}
		}
	})
}

// The probability, as the formula has it.
func TestThrottleFormula(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		accepted := rapid.IntRange(0, 50).Draw(rt, "accepted")
		refused := rapid.IntRange(1, 100).Draw(rt, "refused")
		k := float64(rapid.IntRange(2, 8).Draw(rt, "k")) / 2
		synctest.Test(t, func(t *testing.T) {
			th := newThrottle(t, breaker.ThrottleConfig{K: k})
			roll := 0.9999999
			th.SetRand(func() float64 { return roll })
			status := 200
			rt := th.Transport(answering(&status, nil))
			for i := range accepted + refused {
				if status = 200; i >= accepted {
					status = 503
				}
				_, err := send(rt, request(t.Context(), "http://h/"))
				require.NoError(t, err)
			}
			n := float64(accepted + refused)
			p := max(0, (n-k*float64(accepted))/(n+1))
			if roll = p; p > 0 {
				roll = p - 1e-9
				_, err := send(rt, request(t.Context(), "http://h/"))
				require.ErrorIs(t, err, breaker.ErrThrottled)
				n++ // what is refused here is counted, too
				p = max(0, (n-k*float64(accepted))/(n+1))
			}
			roll = p + 1e-9
			_, err := send(rt, request(t.Context(), "http://h/"))
			require.NoError(t, err)
		})
	})
}

func TestOneRequestInTenSecondsPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{Window: time.Hour})
		th.SetRand(func() float64 { return 0 })
		status := 503
		rt := th.Transport(answering(&status, nil))
		start := time.Now()
		var passed []time.Duration
		for range 40_000 {
			if _, err := send(rt, request(t.Context(), "http://h/")); err == nil {
				passed = append(passed, time.Since(start))
			}
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, []time.Duration{0, 10 * time.Second, 20 * time.Second, 30 * time.Second}, passed)
	})
}

func TestThrottleRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		r := rand.New(rand.NewPCG(3, 4))
		th.SetRand(r.Float64)
		status := 503
		rt := th.Transport(answering(&status, nil))
		run := func(d time.Duration) (share float64) {
			before := th.Stats()
			for range int(d / (10 * time.Millisecond)) {
				_, _ = send(rt, request(t.Context(), "http://h/"))
				time.Sleep(10 * time.Millisecond)
			}
			after := th.Stats()
			sent, refused := after.Sent-before.Sent, after.Throttled-before.Throttled
			return float64(sent) / float64(sent+refused)
		}
		require.Less(t, run(time.Minute), 0.01)
		status = 200
		run(3 * time.Minute)
		require.Equal(t, 1.0, run(time.Minute))
	})
}

// Requests that wait for their answers are no sign of overload while nothing was refused.
func TestABurstAtTheStartPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		th.SetRand(func() float64 { return 0 })
		rt := th.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answer(200), nil
		}))
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				_, err := send(rt, request(context.Background(), "http://h/"))
				if err != nil {
					panic(err)
				}
			})
		}
		wg.Wait()
	})
}

// They count before their answers come: a server that lets them all time out is spared as soon as
// the first has.
func TestThrottleCountsBeforeTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		th.SetRand(func() float64 { return 0.5 })
		rt := th.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Second)
			return nil, timeoutError{}
		}))
		for range 100 {
			go func() { _, _ = send(rt, request(context.Background(), "http://h/")) }()
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(5*time.Second + time.Millisecond)
		_, err := send(rt, request(t.Context(), "http://h/"))
		require.ErrorIs(t, err, breaker.ErrThrottled, "one has failed, 99 are under way")
		time.Sleep(10 * time.Second)
	})
}

func TestThrottleCountsNothingThatWasNotSent(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, fault := range map[string]error{
		"not sent": fmt.Errorf("inner: %w", unsentError{}), "canceled": context.Canceled,
		"a request that cannot be sent": errors.New("net/http: invalid method \"a b\""),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th := newThrottle(t, breaker.ThrottleConfig{})
				th.SetRand(func() float64 { return 0 })
				status, fail := 503, error(nil)
				rt := th.Transport(answering(&status, &fail))
				status = 200
				_, err := send(rt, request(t.Context(), "http://h/"))
				require.NoError(t, err)
				status = 503
				_, err = send(rt, request(t.Context(), "http://h/"))
				require.NoError(t, err)
				fail = fault
				for range 100 {
					_, err = send(rt, request(t.Context(), "http://h/"))
					require.ErrorIs(t, err, fault)
				}
				_, err = rt.RoundTrip(request(canceled, "http://h/"))
				require.ErrorIs(t, err, context.Canceled)
				fail, status = nil, 200
				_, err = send(rt, request(t.Context(), "http://h/"))
				require.NoError(t, err, "two were sent, one accepted")
			})
		})
	}
}

func TestThrottledErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []breaker.ThrottleEvent
		th := newThrottle(
			t,
			breaker.ThrottleConfig{
				Observe: func(_ context.Context, e breaker.ThrottleEvent) { seen = append(seen, e) },
			},
		)
		th.SetRand(func() float64 { return 0 })
		status := 503
		rt := th.TransportFor("up", answering(&status, nil))
		_, err := send(rt, request(t.Context(), "http://h/"))
		require.NoError(t, err)
		body := &closeNoter{Reader: strings.NewReader("x")}
		req := request(t.Context(), "http://h/")
		req.Body = body
		_, err = rt.RoundTrip(req)
		var e *breaker.ThrottledError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "breaker: throttled (up)", err.Error())
		require.True(t, e.NotSent())
		require.Equal(t, 500*time.Millisecond, e.RetryAfter(), "the least of half a second to one and a half")
		require.Equal(t, 1, body.closed)
		require.Equal(t, []breaker.ThrottleEvent{{Key: "up", Requests: 1}}, seen)
		require.Equal(t, breaker.ThrottleStats{Sent: 1, Throttled: 1, Keys: 1}, th.Stats())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = rt.RoundTrip(req.WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 2, body.closed)
	})
}

func TestThrottleDryRunSkipAndKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{
			DryRun: true,
			Skip:   func(r *http.Request) bool { return r.URL.Path == "/healthz" },
			Key:    func(r *http.Request) (string, bool) { return "k", r.URL.Path != "/free" },
		})
		th.SetRand(func() float64 { return 0 })
		status := 503
		rt := th.Transport(answering(&status, nil))
		for _, path := range []string{"/healthz", "/free", "/"} {
			for range 10 {
				_, err := send(rt, request(t.Context(), "http://h"+path))
				require.NoError(t, err)
			}
		}
		require.Equal(t, breaker.ThrottleStats{Sent: 10, Throttled: 9, Keys: 1}, th.Stats())
		th.Forget("k")
		require.Zero(t, th.Stats().Keys)
	})
}

func TestThrottleKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{MaxKeys: 5})
		th.SetRand(func() float64 { return 0 })
		status := 503
		rt := th.Transport(answering(&status, nil))
		for i := range 5 {
			_, err := send(rt, request(t.Context(), fmt.Sprintf("http://h%d/", i)))
			require.NoError(t, err)
		}
		_, err := send(rt, request(t.Context(), "http://other/"))
		require.NoError(t, err)
		_, err = send(rt, request(t.Context(), "http://another/"))
		require.ErrorIs(t, err, breaker.ErrThrottled, "those beyond are counted together")
		require.Equal(t, breaker.ThrottleStats{Sent: 6, Throttled: 1, Overflowed: 2, Keys: 5}, th.Stats())
		time.Sleep(time.Minute)
		_, err = send(rt, request(t.Context(), "http://other/"))
		require.NoError(t, err)
		require.Equal(t, 1, th.Stats().Keys, "the others are idle")
	})
}

func TestThrottleSurvivesPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		th.SetRand(func() float64 { return 0 })
		rt := th.Transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") }))
		require.PanicsWithValue(t, "boom", func() { _, _ = rt.RoundTrip(request(t.Context(), "http://h/")) })
		_, err := rt.RoundTrip(request(t.Context(), "http://h/"))
		require.ErrorIs(t, err, breaker.ErrThrottled, "nothing at all was the answer")
	})
}

// A client that breaks off its upload through us does not make us spare the server.
func TestThrottleAndBrokenUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, breaker.ThrottleConfig{})
		th.SetRand(func() float64 { return 0 })
		rt := th.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				return nil, err
			}
			resp := answer(200)
			resp.Request = r
			return resp, nil
		}))
		for range 10 {
			req := request(t.Context(), "http://h/")
			req.Body = &brokenBody{r: strings.NewReader("x"), err: errors.New("left")}
			_, err := rt.RoundTrip(req)
			require.ErrorContains(t, err, "left")
		}
		req := request(t.Context(), "http://h/")
		req.Body = io.NopCloser(strings.NewReader("x"))
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		require.Same(t, req, resp.Request)
	})
}

func TestThrottleUnderContention(t *testing.T) {
	th := newThrottle(t, breaker.ThrottleConfig{MaxKeys: 3, Window: 10 * time.Millisecond})
	rt := th.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		return answer([]int{200, 503}[rand.IntN(2)]), nil
	}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				_, _ = send(rt, request(context.Background(), fmt.Sprintf("http://h%d/", i%5)))
				if i%100 == 0 {
					th.Forget(fmt.Sprintf("h%d", i%5))
				}
			}
		})
	}
	wg.Wait()
	s := th.Stats()
	require.EqualValues(t, 8000, s.Sent+s.Throttled)
	require.LessOrEqual(t, s.Keys, 3)
}
