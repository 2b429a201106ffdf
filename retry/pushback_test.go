package retry_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestNoLimitOfRetryAfterDoesNotOverflow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(answer(503, "Retry-After", "9223372036"), 200)
		rt := newRetrier(t, retry.Config{MaxRetryAfter: math.MaxInt64}).Transport(s)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		_, _, err := send(t, rt, request(t, "GET", nil).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, s.count())
	})
}

// A hedge that has failed may have asked for what its attempt has not.
func TestWhatAFailedHedgeAsksForIsHeeded(t *testing.T) {
	type answerer = func(*http.Request) (*http.Response, error)
	later := func(d time.Duration, resp *http.Response, err error) answerer {
		return func(*http.Request) (*http.Response, error) {
			time.Sleep(d)
			return resp, err
		}
	}
	for name, tt := range map[string]struct {
		hedge *http.Response
		count int
		gap   time.Duration // before the third request, at least
	}{
		"a wait": {answer(429, "Retry-After", "20"), 3, 20 * time.Second},
		"a hint": {answer(429, "Retry-After", "20", "Should-Retry", "false"), 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{Hedge: true, Hint: "Should-Retry"})
				usual := r.Transport(serve(after(10*time.Millisecond, 200)))
				for range 100 {
					_, _, err := send(t, usual, request(t, "GET", nil))
					require.NoError(t, err)
				}
				s := serve(later(200*time.Millisecond, nil, errors.New("reset")),
					later(50*time.Millisecond, tt.hedge, nil), 200)
				start := time.Now()
				status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
				require.Equal(t, tt.count, s.count())
				if tt.count == 2 {
					require.ErrorContains(t, err, "reset")
					return
				}
				require.NoError(t, err)
				require.Equal(t, 200, status)
				require.GreaterOrEqual(t, time.Since(start), tt.gap)
			})
		})
	}
}

// A proxy aborts a streamed answer by itself when its request's deadline passes.
func TestAnswersThatAProxyAbortsAreCounted(t *testing.T) {
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer back.Close()
	u, err := url.Parse(back.URL)
	require.NoError(t, err)
	events := make(chan retry.DeadlineEvent, 1)
	d, err := retry.NewDeadline(retry.DeadlineConfig{
		Timeout: 50 * time.Millisecond,
		Observe: func(_ context.Context, e retry.DeadlineEvent) { events <- e },
	})
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(u) }}
	front := httptest.NewServer(d.Middleware(proxy))
	defer front.Close()
	resp, err := front.Client().Get(front.URL)
	if err == nil { // on a slow machine the header is late, too
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	e := <-events
	if err == nil {
		require.Equal(t, retry.Expired, e.Outcome)
		return
	}
	require.Equal(t, retry.Aborted, e.Outcome)
	require.EqualValues(t, 1, d.Stats().Aborted)
}

func TestAPanicOfWhenClosesTheAnswer(t *testing.T) {
	b := newBody("x")
	r := newRetrier(t, retry.Config{
		When: func(*http.Request, *http.Response, error) retry.Verdict { panic("when") },
	})
	resp := answer(200)
	resp.Body = b
	require.PanicsWithValue(t, "when", func() {
		_, _, _ = send(t, r.Transport(serve(resp)), request(t, "GET", nil))
	})
	require.EqualValues(t, 1, b.closes.Load())
}

func TestWhenMayRepeatAPOSTThatWasNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		anyError := func(_ *http.Request, _ *http.Response, err error) retry.Verdict {
			if err != nil {
				return retry.Retry
			}
			return retry.Default
		}
		r := newRetrier(t, retry.Config{When: anyError})
		s := serve(refusal{}, 200)
		status, _, err := send(t, r.Transport(s), request(t, "POST", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 2, s.count())
	})
}

// A stuck body has no end until it is closed.
type stuck struct {
	once sync.Once
	done chan struct{}
}

func (b *stuck) Read([]byte) (int, error) {
	<-b.done
	return 0, io.ErrUnexpectedEOF
}

func (b *stuck) Close() error {
	b.once.Do(func() { close(b.done) })
	return nil
}

// What an answer that is thrown away costs is a part of the wait.
func TestTheRestOfAFailedAnswerCostsNoTimeOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		resp := answer(503)
		resp.Body, resp.ContentLength = &stuck{done: make(chan struct{})}, -1
		s := serve(resp, 200)
		r := newRetrier(t, retry.Config{})
		r.SetRandom(func(int64) int64 { return int64(10 * time.Millisecond) })
		ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
		defer cancel()
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 10*time.Millisecond, time.Since(start))
	})
}

// A deadline that the caller was told of is out of date where the request has none.
func TestAStaleDeadlineIsNotPassedOn(t *testing.T) {
	s := serve(200)
	req := request(t, "GET", nil)
	req = req.WithContext(context.WithoutCancel(req.Context()))
	req.Header.Set("X-Deadline", "5000")
	_, _, err := send(t, newRetrier(t, retry.Config{DeadlineField: "X-Deadline"}).Transport(s), req)
	require.NoError(t, err)
	require.NotContains(t, s.all()[0].req.Header, "X-Deadline")
	require.Equal(t, "5000", req.Header.Get("X-Deadline"))
}

// The longer one of two waits counts, also where the attempt has asked for it.
func TestAFailedHedgeShortensNoWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		later := func(d time.Duration, wait string) func(*http.Request) (*http.Response, error) {
			return func(*http.Request) (*http.Response, error) {
				time.Sleep(d)
				return answer(503, "Retry-After", wait), nil
			}
		}
		s := serve(later(5*usual, "20"), later(usual, "5"), 200)
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 3, s.count())
		require.GreaterOrEqual(t, time.Since(start), 20*time.Second)
	})
}

// A tardy body takes a moment to its end.
type tardy struct {
	takes  time.Duration
	closed atomic.Bool
	whole  bool
}

func (b *tardy) Read([]byte) (int, error) {
	time.Sleep(b.takes)
	b.whole = !b.closed.Load()
	return 0, io.EOF
}

func (b *tardy) Close() error {
	b.closed.Store(true)
	return nil
}

// What is thrown away is read to its end, so that its connection can be used again, also before a
// retry at once; of a length that is known, up to 4 KiB.
func TestFailedAnswersAreReadToTheirEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		takes  time.Duration
		length int64
		whole  bool
	}{
		{"a moment", time.Millisecond, -1, true},
		{"too long", time.Second, -1, false},
		{"the most", 0, 4096, true},
		{"more", 0, 4097, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{})
				r.SetRandom(func(int64) int64 { return 0 })
				b := &tardy{takes: tt.takes}
				resp := answer(503)
				resp.Body, resp.ContentLength = b, tt.length
				status, _, err := send(t, r.Transport(serve(resp, 200)), request(t, "GET", nil))
				require.NoError(t, err)
				require.Equal(t, 200, status)
				require.True(t, b.closed.Load())
				require.Equal(t, tt.whole, b.whole)
			})
		})
	}
}

// A caller that leaves while the next attempt is made ready is not waited for by it.
func TestNoAttemptForACallerThatHasLeft(t *testing.T) {
	for range 30 {
		bubble(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r := newRetrier(t, retry.Config{})
			r.SetRandom(func(int64) int64 {
				cancel()
				return 0
			})
			s := serve(503)
			_, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, 1, s.count())
			require.Equal(t, 10.0, r.Stats().Budget["a.test"])
			require.Equal(t, map[string]uint64{"canceled": 1}, r.Stats().GaveUp)
		})
	}
}
