package retry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestNewNamesEveryInvalidField(t *testing.T) {
	_, err := retry.New(retry.Config{
		MaxAttempts: -1, Backoff: -1, MaxBackoff: -1, PerTry: -1, MaxRetryAfter: -1, MaxKeys: -1,
		HedgeRatio: -0.1, MinHedgeDelay: -1,
		Budget: retry.Budget{Ratio: 1.1, Reserve: math.MaxInt}, Hint: "a b", DeadlineField: "ä",
	})
	var fields []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		fields = append(fields, e.(interface{ Field() string }).Field())
	}
	require.ElementsMatch(t, []string{
		"MaxAttempts", "Backoff", "MaxBackoff", "PerTry", "MaxRetryAfter", "MaxKeys",
		"HedgeRatio", "MinHedgeDelay",
		"Budget.Ratio", "Budget.Reserve", "Hint", "DeadlineField",
	}, fields)
	require.ErrorContains(t, err, "retry: Config.MaxAttempts: -1 is negative")

	_, err = retry.New(retry.Config{Backoff: 6 * time.Second})
	require.ErrorContains(t, err, "retry: Config.Backoff: 6s is more than MaxBackoff, 5s")
	_, err = retry.New(retry.Config{HedgeRatio: 1.5})
	require.ErrorContains(t, err, "HedgeRatio")
	_, err = retry.New(retry.Config{Budget: retry.Budget{Ratio: -1, Reserve: -1}, MaxBody: -1})
	require.NoError(t, err)
}

// Which request is sent again after what (RFC 9110, section 9.2.2).
func TestWhatIsRepeated(t *testing.T) {
	broken := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	tests := []struct {
		name   string
		method string
		field  string // of the request
		answer any
		sent   int
	}{
		{"GET", "GET", "", 503, 3},
		{"no method is GET", "", "", 503, 3},
		{"HEAD", "HEAD", "", 503, 3},
		{"OPTIONS", "OPTIONS", "", 503, 3},
		{"TRACE", "TRACE", "", 503, 3},
		{"PUT", "PUT", "", 503, 3},
		{"DELETE", "DELETE", "", 503, 3},
		{"QUERY", "QUERY", "", 503, 3},
		{"POST", "POST", "", 503, 1},
		{"PATCH", "PATCH", "", 503, 1},
		{"CONNECT", "CONNECT", "", 503, 1},
		{"unknown", "FROBNICATE", "", 503, 1},
		{"methods are case-sensitive", "get", "", 503, 1},
		{"POST with a key", "POST", "Idempotency-Key", 503, 3},
		{"PATCH with a key", "PATCH", "Idempotency-Key", 503, 3},
		{"POST with a field that is no standard", "POST", "X-Idempotency-Key", 503, 1},
		{"POST after a broken connection", "POST", "", broken, 1},
		{"GET after a broken connection", "GET", "", broken, 3},
		{"POST after a failed dial", "POST", "", dial, 3},
		{"POST after a refusal with a time", "POST", "", refusal{time.Millisecond}, 3},
		{"POST after a refusal for good", "POST", "", refusal{}, 1},
		{"GET after a refusal for good", "GET", "", refusal{}, 1},
		{"GET after an end that is not the caller's", "GET", "", context.Canceled, 1},
		{"GET after a timeout that is not the caller's", "GET", "", context.DeadlineExceeded, 3},
		{"GET after an unexpected end", "GET", "", io.ErrUnexpectedEOF, 3},
		{"GET that cannot be sent", "GET", "", errors.New("net/http: invalid header field name \"a b\""), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(tt.answer)
				r := newRetrier(t, retry.Config{})
				req := request(t, tt.method, nil)
				req.Method = tt.method
				if tt.field != "" {
					req.Header.Set(tt.field, `"k"`)
				}
				status, _, err := send(t, r.Transport(s), req)
				if want, ok := tt.answer.(error); ok {
					require.ErrorIs(t, err, want)
				} else {
					require.Equal(t, tt.answer, status)
				}
				require.Equal(t, tt.sent, s.count())
			})
		})
	}
}

// An empty Idempotency-Key names nothing.
func TestAnEmptyKeyIsNoKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(503)
		req := request(t, "POST", nil)
		req.Header.Set("Idempotency-Key", "")
		send(t, newRetrier(t, retry.Config{}).Transport(s), req)
		require.Equal(t, 1, s.count())
	})
}

func TestMaxAttempts(t *testing.T) {
	for most, sent := range map[int]int{0: 3, 1: 1, 2: 2, 7: 7} {
		bubble(t, func(t *testing.T) {
			s := serve(503)
			r := newRetrier(t, retry.Config{MaxAttempts: most})
			status, text, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, 503, status)
			want := http.StatusText(http.StatusServiceUnavailable)
			require.Equal(t, want, text, "the last answer is readable")
			require.Equal(t, sent, s.count())
			require.Equal(t, uint64(1), r.Stats().GaveUp["attempts"])
			require.Equal(t, uint64(sent), r.Stats().Attempts)
		})
	}
}

func TestBackoffIsFullJitter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 10, MaxBackoff: time.Second})
		var most []time.Duration
		r.SetRandom(func(n int64) int64 {
			most = append(most, time.Duration(n))
			return n - 1
		})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		const ms = time.Millisecond
		require.Equal(
			t,
			[]time.Duration{
				50 * ms,
				100 * ms,
				200 * ms,
				400 * ms,
				800 * ms,
				1000 * ms,
				1000 * ms,
				1000 * ms,
				1000 * ms,
			},
			most,
		)
		require.Equal(t, 50*ms-1, s.gaps()[0])
	})
}

func TestWhenDecides(t *testing.T) {
	tests := []struct {
		name    string
		verdict retry.Verdict
		method  string
		answer  any
		sent    int
	}{
		{"default", retry.Default, "GET", 503, 2},
		{"default of 500", retry.Default, "GET", 500, 1},
		{"stop", retry.Stop, "GET", 503, 1},
		{"stop after an error", retry.Stop, "GET", io.EOF, 1},
		{"retry of 500", retry.Retry, "GET", 500, 2},
		{"retry does not repeat a POST", retry.Retry, "POST", 500, 1},
		{"unprocessed repeats a POST", retry.Unprocessed, "POST", 429, 2},
		{"retry of a refusal for good", retry.Retry, "GET", refusal{}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(tt.answer, 200)
				var got *http.Request
				r := newRetrier(
					t,
					retry.Config{When: func(req *http.Request, resp *http.Response, err error) retry.Verdict {
						got = req
						require.True(t, (resp == nil) != (err == nil))
						if resp != nil && resp.StatusCode == 200 {
							return retry.Default
						}
						return tt.verdict
					}},
				)
				req := request(t, tt.method, strings.NewReader("x"))
				send(t, r.Transport(s), req)
				require.Same(t, req, got, "the caller's request, not a copy")
				require.Equal(t, tt.sent, s.count())
			})
		})
	}
}

// What When asks for costs budget and obeys Retry-After like everything else.
func TestWhenIsWithinTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(answer(200, "Retry-After", "3"))
		r := newRetrier(t, retry.Config{
			MaxAttempts: 100,
			When: func(*http.Request, *http.Response, error) retry.Verdict {
				return retry.Unprocessed
			},
		})
		send(t, r.Transport(s), request(t, "POST", nil))
		require.Equal(t, 11, s.count())
		for _, gap := range s.gaps() {
			require.GreaterOrEqual(t, gap, 3*time.Second)
		}
	})
}

func TestRetryAfterIsAFloor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		s := serve(
			answer(429, "Retry-After", "7"),
			answer(503, "Retry-After", time.Now().Add(20*time.Second).UTC().Format(http.TimeFormat)),
			200,
		)
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		gaps := s.gaps()
		require.GreaterOrEqual(t, gaps[0], 7*time.Second)
		require.LessOrEqual(t, gaps[0], 7700*time.Millisecond)
		require.GreaterOrEqual(t, gaps[1], 12*time.Second)
		require.LessOrEqual(t, gaps[1], 14300*time.Millisecond)
	})
}

// A floor shorter than the backoff leaves it alone.
func TestRetryAfterBelowTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Backoff: 4 * time.Second})
		r.SetRandom(func(n int64) int64 { return n - 1 })
		s := serve(answer(503, "Retry-After", "1"), 200)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 4*time.Second-1, s.gaps()[0])
	})
}

// The jitter on top of a floor must not cost a request that the floor alone leaves time for.
func TestJitterOfRetryAfterStaysWithinTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		r.SetRandom(func(n int64) int64 { return n - 1 })
		s := serve(answer(503, "Retry-After", "10"), 200)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
		defer cancel()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 10*time.Second, s.gaps()[0])
	})
}

func TestRefusalsWaitAsTheySay(t *testing.T) {
	tests := []struct {
		name   string
		wait   time.Duration
		within time.Duration // the deadline; 0 for none
		sent   int
		gap    time.Duration
		gaveUp string
	}{
		{"longer than the backoff", 2 * time.Second, 0, 2, 2 * time.Second, ""},
		{"shorter than the backoff", time.Millisecond, 0, 2, 50*time.Millisecond - 1, ""},
		{"the most", 30 * time.Second, 0, 2, 30 * time.Second, ""},
		{"too long", 30*time.Second + 1, 0, 1, 0, "retry_after"},
		{"for ever", math.MaxInt64, 0, 1, 0, "retry_after"},
		{"beyond the deadline", 2 * time.Second, time.Second, 1, 0, "deadline"},
		{"final", 0, 0, 1, 0, "final"},
		{"final, said with a negative time", -1, 0, 1, 0, "final"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{})
				r.SetRandom(func(n int64) int64 { return n - 1 })
				s := serve(refusal{tt.wait}, 200)
				req := request(t, "POST", stream("body"))
				if tt.within > 0 {
					ctx, cancel := context.WithTimeout(t.Context(), tt.within)
					defer cancel()
					req = req.WithContext(ctx)
				}
				start := time.Now()
				_, _, err := send(t, r.Transport(s), req)
				require.Equal(t, tt.sent, s.count())
				if tt.sent == 1 {
					require.Equal(t, refusal{tt.wait}, err, "as it is")
					require.Zero(t, time.Since(start), "at once")
					require.Equal(t, uint64(1), r.Stats().GaveUp[tt.gaveUp])
					return
				}
				require.NoError(t, err)
				require.Equal(t, tt.gap, s.gaps()[0])
				require.Equal(t, "body", s.all()[1].body)
				require.Zero(t, s.all()[1].attempts, "a refusal was not sent")
				require.Equal(t, 10.0, r.Stats().Budget["a.test"], "and costs nothing")
			})
		})
	}
}

// A refusal costs nothing; the attempt after it does, if one before it was sent.
func TestRefusalAfterAnAttemptThatWasSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 4})
		s := serve(503, refusal{time.Second}, refusal{time.Second}, 404)
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 404, status)
		require.InDelta(t, 10-1+0.1, r.Stats().Budget["a.test"], 1e-9)
		require.Equal(
			t,
			[]int{0, 1, 1, 1},
			[]int{s.all()[0].attempts, s.all()[1].attempts, s.all()[2].attempts, s.all()[3].attempts},
		)
		require.Equal(t, uint64(2), r.Stats().Attempts)
	})
}

func TestBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		s := serve(503)
		rt := r.Transport(s)
		for range 100 {
			send(t, rt, request(t, "GET", nil))
		}
		require.Equal(t, 110, s.count(), "every request, and the reserve")
		require.Zero(t, r.Stats().Budget["a.test"])
		require.Equal(t, uint64(95), r.Stats().GaveUp["budget"])

		time.Sleep(25 * time.Second)
		send(t, rt, request(t, "GET", nil))
		require.Equal(t, 113, s.count(), "two tokens for 25 s of silence")

		time.Sleep(time.Hour)
		for range 100 {
			send(t, rt, request(t, "GET", nil))
		}
		require.Equal(t, 223, s.count(), "and never more than the reserve")
	})
}

// Requests that come more often than every 10 s leave no time to idle in.
func TestNoRefillWhileThereAreRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 2})
		s := serve(503)
		for range 200 {
			send(t, r.Transport(s), request(t, "GET", nil))
			time.Sleep(9 * time.Second)
		}
		require.Equal(t, 210, s.count())
	})
}

func TestBudgetIsEarnedBySuccesses(t *testing.T) {
	tests := []struct {
		answer any
		earns  bool
	}{
		{200, true}, {204, true}, {304, true}, {404, true}, {400, true},
		{500, false}, {501, false}, {503, false}, {429, false}, {io.EOF, false},
	}
	for _, tt := range tests {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{MaxAttempts: 2, Budget: retry.Budget{Ratio: 0.25, Reserve: 2}})
			send(t, r.Transport(serve(503, 503)), request(t, "GET", nil))
			require.Equal(t, 1.0, r.Stats().Budget["a.test"])
			send(t, r.Transport(serve(tt.answer)), request(t, "POST", nil))
			want := 1.0
			if tt.earns {
				want = 1.25
			}
			require.Equal(t, want, r.Stats().Budget["a.test"], "%v", tt.answer)
		})
	}
}

// A token is drawn before the backoff: requests that wait count.
func TestWaitingRequestsHoldTheirToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Budget: retry.Budget{Reserve: 1}})
		slow := serve(answer(503, "Retry-After", "5"), 200)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, _, err := send(t, r.Transport(slow), request(t, "GET", nil).WithContext(ctx))
			done <- err
		}()
		time.Sleep(time.Second)
		require.Zero(t, r.Stats().Budget["a.test"])
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 1, s.count())
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Equal(t, 1.0, r.Stats().Budget["a.test"], "given back, for it was not sent")
	})
}

// An attempt that reached no server gives its token back, and the first that does is the request's
// own.
func TestWhatIsNotSentCostsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		r := newRetrier(t, retry.Config{})
		s := serve(dial)
		for range 50 {
			_, _, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		require.Equal(t, 150, s.count())
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		require.Zero(t, r.Stats().Attempts)
		require.Equal(t, uint64(100), r.Stats().Retries["unsent"])

		s = serve(dial, dial, 500)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		require.Zero(t, s.all()[2].attempts)

		s = serve(503, dial, 500)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 9.0, r.Stats().Budget["a.test"])
		require.Equal(t, 1, s.all()[2].attempts)
	})
}

func TestBudgetsAreByKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxKeys: 2})
		s := serve(503)
		ask := func(url string) int {
			before := s.count()
			for range 30 {
				req := request(t, "GET", nil)
				req.URL, _ = req.URL.Parse(url)
				send(t, r.Transport(s), req)
			}
			return s.count() - before
		}
		require.Equal(t, 40, ask("http://a.test/"))
		require.Equal(t, 30, ask("http://A.TEST:80/"), "the same host")
		require.Equal(t, 40, ask("http://b.test/"))
		require.Equal(t, 40, ask("http://c.test/"), "the one that the rest share")
		require.Equal(t, 30, ask("http://d.test/"))
		require.Equal(t, uint64(60), r.Stats().Overflowed)
		require.Equal(t, map[string]float64{"a.test": 0, "b.test": 0, "*": 0}, r.Stats().Budget)
	})
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Key: func(req *http.Request) (string, bool) {
			k := req.Header.Get("Team")
			return k, k != ""
		}})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 1, s.count(), "without a key nothing pays")
		req := request(t, "GET", nil)
		req.Header.Set("Team", "red")
		send(t, r.Transport(s), req)
		require.Equal(t, 4, s.count())
		require.Equal(t, map[string]float64{"red": 8}, r.Stats().Budget)
	})
}

func TestHint(t *testing.T) {
	const field = "Should-Retry"
	tests := []struct {
		name   string
		cfg    retry.Config
		method string
		answer *http.Response
		sent   int
		hint   string
	}{
		{"set by who gives up", retry.Config{Hint: field}, "GET", answer(503), 3, "false"},
		{"off", retry.Config{}, "GET", answer(503), 3, ""},
		{"obeyed", retry.Config{Hint: field}, "GET", answer(503, field, "false"), 1, "false"},
		{"obeyed in any case", retry.Config{Hint: field}, "GET", answer(503, field, " False "), 1, " False "},
		{"another value is none", retry.Config{Hint: field}, "GET", answer(503, field, "true"), 3, "false"},
		{"not obeyed when off", retry.Config{}, "GET", answer(503, field, "false"), 3, "false"},
		{"left to others if no retry was possible", retry.Config{Hint: field}, "POST", answer(503), 1, ""},
		{
			"left to others by who never retries",
			retry.Config{Hint: field, MaxAttempts: 1},
			"GET",
			answer(503),
			1,
			"",
		},
		{"not on a success", retry.Config{Hint: field}, "GET", answer(200), 1, ""},
		{"not on a failure that nobody retries", retry.Config{Hint: field}, "GET", answer(500), 1, ""},
		{
			"name in any case",
			retry.Config{Hint: "should-retry"},
			"GET",
			answer(503, field, "false"),
			1,
			"false",
		},
		{
			"set where the wait is too long",
			retry.Config{Hint: field},
			"GET",
			answer(503, "Retry-After", "3600"),
			1,
			"false",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(tt.answer)
				resp, err := newRetrier(t, tt.cfg).Transport(s).RoundTrip(request(t, tt.method, nil))
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, tt.sent, s.count())
				require.Equal(t, tt.hint, resp.Header.Get(field))
			})
		})
	}
}

func TestScopeIsCalledOnceForEachRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		calls := 0
		r := newRetrier(t, retry.Config{Scope: func(ctx context.Context) context.Context {
			calls++
			return context.WithValue(ctx, key{}, calls)
		}})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 2, calls)
		for i, a := range s.all() {
			require.Equal(t, 1+i/3, a.req.Context().Value(key{}))
		}
	})
}

func TestAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		require.Zero(t, retry.Attempts(t.Context()))
		s := serve(503, 503, 200)
		send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "GET", nil))
		for i, a := range s.all() {
			require.Equal(t, i, a.attempts)
		}
	})
}

func TestDeadlineFieldSaysWhatRemains(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{DeadlineField: "request-timeout"})
		s := serve(answer(503, "Retry-After", "2"), 200)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req := request(t, "GET", nil).WithContext(ctx)
		req.Header.Set("Request-Timeout", "77")
		send(t, r.Transport(s), req)
		require.Equal(t, "5000", s.all()[0].req.Header.Get("Request-Timeout"))
		left, err := strconv.Atoi(s.all()[1].req.Header.Get("Request-Timeout"))
		require.NoError(t, err)
		require.LessOrEqual(t, left, 3000)
		require.Equal(t, "77", req.Header.Get("Request-Timeout"), "the caller's own header is not changed")

		s = serve(200)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.NotContains(t, s.all()[0].req.Header, "Request-Timeout", "without a deadline nothing is said")
	})
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{DeadlineField: "Request-Timeout", PerTry: 300 * time.Millisecond})
		s := serve(200)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(
			t,
			"300",
			s.all()[0].req.Header.Get("Request-Timeout"),
			"an attempt has no longer than PerTry",
		)
	})
}

func TestPerTry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		s := serve(after(time.Hour, 200), after(time.Millisecond, 200))
		start := time.Now()
		status, text, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "OK", text)
		require.Less(t, time.Since(start), 1100*time.Millisecond)
		require.Equal(t, map[string]uint64{"timeout": 1}, r.Stats().Retries)

		s = serve(after(time.Hour, 200))
		_, _, err = send(t, r.Transport(s), request(t, "GET", nil))
		require.ErrorIs(t, err, retry.ErrPerTry)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.Equal(t, 3, s.count())

		s = serve(after(time.Hour, 200))
		send(t, r.Transport(s), request(t, "POST", nil))
		require.Equal(t, 1, s.count(), "the server may have it")
	})
}

// PerTry's context ends with the body, not before, and not long after.
func TestPerTryLastsAsLongAsTheBody(t *testing.T) {
	for _, how := range []string{"read", "close", "none"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{PerTry: time.Minute})
				s := serve(200)
				if how == "none" {
					s = serve(func(*http.Request) (*http.Response, error) {
						resp := answer(204)
						resp.Body = http.NoBody
						return resp, nil
					})
				}
				resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
				require.NoError(t, err)
				ctx := s.all()[0].req.Context()
				switch how {
				case "none":
					require.Error(t, ctx.Err())
				case "read":
					time.Sleep(30 * time.Second)
					require.NoError(t, ctx.Err())
					_, _ = io.Copy(io.Discard, resp.Body)
					require.Error(t, ctx.Err())
				case "close":
					require.NoError(t, ctx.Err())
					resp.Body.Close()
					require.Error(t, ctx.Err())
				}
			})
		})
	}
}

// The context of an attempt that failed ends when its body is thrown away.
func TestPerTryEndsWithFailedAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Hour})
		s := serve(503, io.EOF, 200)
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
		require.Error(t, s.all()[1].req.Context().Err())
		require.NoError(t, s.all()[2].req.Context().Err())
	})
}

// A 101's body is the connection: it stays writable, and reading's end does not end it.
func TestUpgradeKeepsTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Minute})
		near, far := net.Pipe()
		defer far.Close()
		s := serve(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 101, Header: http.Header{}, Body: near}, nil
		})
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		conn, ok := resp.Body.(io.ReadWriteCloser)
		require.True(t, ok)
		go conn.Write([]byte("hi"))
		b := make([]byte, 2)
		_, err = io.ReadFull(far, b)
		require.NoError(t, err)
		require.Equal(t, "hi", string(b))
		require.ErrorIs(t, conn.(interface{ CloseWrite() error }).CloseWrite(), http.ErrNotSupported)
		resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
	})
}

// The caller's own trace goes on working beside ours.
func TestCallersTraceIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var conns []string
		ctx := httptrace.WithClientTrace(
			t.Context(),
			&httptrace.ClientTrace{GetConn: func(at string) { conns = append(conns, at) }},
		)
		lost := errors.New("lost")
		dialing := func(req *http.Request) (*http.Response, error) { // as net/http does
			httptrace.ContextClientTrace(req.Context()).GetConn("a.test:80")
			return nil, lost
		}
		r := newRetrier(t, retry.Config{})
		_, _, err := send(t, r.Transport(serve(dialing)), request(t, "POST", nil).WithContext(ctx))
		require.ErrorIs(t, err, lost)
		require.Equal(t, []string{"a.test:80", "a.test:80", "a.test:80"}, conns)
		require.Equal(t, uint64(2), r.Stats().Retries["unsent"])
	})
}

// Once net/http has had a connection there is no proof any more, whatever the error says.
func TestAConnectionIsNoProof(t *testing.T) {
	bubble(t, func(t *testing.T) {
		redial := func(req *http.Request) (*http.Response, error) {
			trace := httptrace.ContextClientTrace(req.Context())
			trace.GetConn("a.test:80")
			trace.GotConn(httptrace.GotConnInfo{})
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		s := serve(redial)
		r := newRetrier(t, retry.Config{})
		send(t, r.Transport(s), request(t, "POST", nil))
		require.Equal(t, 1, s.count())
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 4, s.count())
		require.Equal(t, 8.0, r.Stats().Budget["a.test"])
		require.Equal(t, uint64(4), r.Stats().Attempts)
	})
}

func TestResponseNamesTheCallersRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		req := request(t, "GET", nil)
		s := serve(503, func(r *http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Request = r
			return resp, nil
		})
		resp, err := newRetrier(t, retry.Config{}).Transport(s).RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Same(t, req, resp.Request)
	})
}

// A caller sets trailers while its body is read, and the attempts see them.
func TestTrailersThatAreSetWhileTheBodyIsRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		req := request(t, "PUT", nil)
		req.Trailer = http.Header{"Sum": nil}
		req.Body = io.NopCloser(io.MultiReader(stream("abc"), readerFunc(func([]byte) (int, error) {
			req.Trailer.Set("Sum", "6")
			return 0, io.EOF
		})))
		s := serve(503, 200)
		send(t, newRetrier(t, retry.Config{}).Transport(s), req)
		for _, a := range s.all() {
			require.Equal(t, "6", a.req.Trailer.Get("Sum"))
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCloseIdleConnectionsReachesNext(t *testing.T) {
	var closed bool
	rt := newRetrier(t, retry.Config{}).Transport(idleCloser{&closed})
	(&http.Client{Transport: rt}).CloseIdleConnections()
	require.True(t, closed)
	(&http.Client{Transport: newRetrier(t, retry.Config{}).Transport(serve(200))}).CloseIdleConnections()
}

type idleCloser struct{ closed *bool }

func (idleCloser) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.EOF }
func (c idleCloser) CloseIdleConnections()                         { *c.closed = true }

func TestRequestsThatNoTransportTakes(t *testing.T) {
	rt := newRetrier(t, retry.Config{}).Transport(nil)
	b := newBody("x")
	_, err := rt.RoundTrip(&http.Request{Header: http.Header{}, Body: b})
	require.Error(t, err)
	require.EqualValues(t, 1, b.closes.Load())
	b = newBody("x")
	req := request(t, "GET", nil)
	req.Header, req.Body = nil, b
	_, err = rt.RoundTrip(req)
	require.EqualError(t, err, "http: nil Request.Header")
	require.EqualValues(t, 1, b.closes.Load())
}

// A transport that breaks its contract gets no further than its own caller.
func TestNeitherResponseNorError(t *testing.T) {
	resp, err := newRetrier(
		t,
		retry.Config{PerTry: time.Second},
	).Transport(serve(func(*http.Request) (*http.Response, error) {
		return nil, nil
	})).
		RoundTrip(request(t, "GET", nil))
	require.Nil(t, resp)
	require.NoError(t, err)
	resp, err = newRetrier(
		t,
		retry.Config{PerTry: time.Second},
	).Transport(serve(&http.Response{StatusCode: 503})).
		RoundTrip(request(t, "GET", nil))
	require.NoError(t, err)
	require.Equal(t, 503, resp.StatusCode)
}

func TestObserve(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []retry.Event
		r := newRetrier(
			t,
			retry.Config{Observe: func(_ context.Context, e retry.Event) { got = append(got, e) }},
		)
		ask := func(answers ...any) retry.Event {
			got = nil
			send(t, r.Transport(serve(answers...)), request(t, "GET", nil))
			require.Len(t, got, 1, "one event for each request")
			return got[0]
		}
		e := ask(200)
		require.Equal(t, retry.Event{Outcome: retry.OutcomeSuccess, Key: "a.test"}, e)
		e = ask(answer(503, "Retry-After", "1"), 200)
		require.Equal(t, retry.OutcomeSuccess, e.Outcome)
		require.Equal(t, 1, e.Retries)
		require.GreaterOrEqual(t, e.Duration, time.Second)
		e = ask(503)
		require.Equal(t, retry.OutcomeFailure, e.Outcome)
		require.Equal(t, retry.GaveUpAttempts, e.GaveUp)
		e = ask(500)
		require.Equal(t, retry.OutcomeSuccess, e.Outcome, "the server answered, and no retry was called for")
		e = ask(io.EOF)
		require.Equal(t, retry.OutcomeFailure, e.Outcome)
		require.Equal(t, io.EOF, e.Err)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		got = nil
		send(t, r.Transport(serve(after(time.Hour, 200))), request(t, "GET", nil).WithContext(ctx))
		require.Equal(t, retry.OutcomeCanceled, got[0].Outcome)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got = nil
		send(t, r.Transport(serve(after(time.Hour, 200))), request(t, "GET", nil).WithContext(ctx))
		require.Equal(t, retry.OutcomeFailure, got[0].Outcome)
		require.Equal(t, retry.GaveUpDeadline, got[0].GaveUp)
	})
}

func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		send(t, r.Transport(serve(503, io.EOF, 200)), request(t, "GET", nil))
		send(t, r.Transport(serve(429)), request(t, "POST", nil))
		require.Equal(t, retry.Stats{
			Requests: 2, Attempts: 4, Retries: map[string]uint64{"503": 1, "error": 1},
			GaveUp: map[string]uint64{"method": 1},
			Budget: map[string]float64{"a.test": 8.1},
		}, r.Stats())
	})
}

// User code on the caller's goroutine passes its panic on, and leaves nothing behind.
func TestPanicsPassThrough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		boom := func(*http.Request) (*http.Response, error) { panic("boom") }
		b := newBody("abc")
		req := request(t, "PUT", nil)
		req.Body = b
		s := serve(boom)
		require.PanicsWithValue(t, "boom", func() {
			newRetrier(t, retry.Config{PerTry: time.Hour}).Transport(s).RoundTrip(req)
		})
		require.Error(t, s.all()[0].req.Context().Err())
		require.EqualValues(t, 1, b.closes.Load())
		require.Zero(t, retry.Buffered(0))
	})
}

func TestLargeBodyWithGetBodyIsNotCopied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("x"), 64<<10)
		req := request(t, "POST", bytes.NewReader(data))
		own := req.Body
		s := roundTripper(func(r *http.Request) (*http.Response, error) {
			require.True(t, own == r.Body, "the very body of the caller")
			require.NotNil(t, r.GetBody)
			r.Body.Close()
			return answer(200), nil
		})
		send(t, newRetrier(t, retry.Config{}).Transport(s), req)
	})
}

// Reading to the end of one direction leaves the other one open.
func TestUpgradeEndsWhenItIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := serve(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 101, Header: http.Header{}, Body: near}, nil
		})
		resp, err := newRetrier(
			t,
			retry.Config{PerTry: time.Minute},
		).Transport(s).
			RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		far.Close()
		_, err = resp.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, s.all()[0].req.Context().Err())
		resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
	})
}

// A connection that is thrown away is not read: it may never say anything.
func TestDiscardedUpgradeIsNotRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		r := newRetrier(
			t,
			retry.Config{When: func(_ *http.Request, resp *http.Response, _ error) retry.Verdict {
				if resp.StatusCode == 101 {
					return retry.Retry
				}
				return retry.Default
			}},
		)
		r.SetRandom(func(int64) int64 { return 0 })
		s := serve(&http.Response{StatusCode: 101, Header: http.Header{}, Body: near}, 200)
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Zero(t, time.Since(start))
	})
}

// A refusal stays one where it comes because the attempt's time is up.
func TestRefusalAtTheEndOfPerTry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		s := serve(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, refusal{time.Second}
		}, 200)
		status, _, err := send(t, r.Transport(s), request(t, "POST", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, map[string]uint64{"refused": 1}, r.Stats().Retries)
	})
}

// An attempt that never got a connection within PerTry was not sent.
func TestPerTryBeforeThereIsAConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		s := serve(func(req *http.Request) (*http.Response, error) {
			httptrace.ContextClientTrace(req.Context()).GetConn("a.test:80")
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		}, 200)
		status, _, err := send(t, r.Transport(s), request(t, "POST", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, map[string]uint64{"timeout": 1}, r.Stats().Retries)
	})
}

// A deadline that has passed leaves nothing, not less.
func TestDeadlineFieldOfALateRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.Sleep(time.Minute)
		s := serve(200)
		send(
			t,
			newRetrier(t, retry.Config{DeadlineField: "Request-Timeout"}).Transport(s),
			request(t, "GET", nil).WithContext(ctx),
		)
		require.Equal(t, "0", s.all()[0].req.Header.Get("Request-Timeout"))
	})
}

// A caller that is gone gets the answer that there is, and its retry is not paid for.
func TestFailureAfterTheCallerLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRetrier(t, retry.Config{Hint: "Should-Retry"})
		s := serve(func(*http.Request) (*http.Response, error) {
			cancel()
			return answer(503), nil
		})
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, 503, status)
		require.Equal(t, 1, s.count())
		require.Equal(t, map[string]uint64{"canceled": 1}, r.Stats().GaveUp)
	})
}
