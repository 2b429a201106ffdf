package retry_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

func newDeadline(t testing.TB, cfg retry.DeadlineConfig) *retry.Deadline {
	t.Helper()
	d, err := retry.NewDeadline(cfg)
	require.NoError(t, err)
	return d
}

// get serves a request with the given deadline field; none if it is nil.
func get(d *retry.Deadline, h http.Handler, field ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	for _, v := range field {
		r.Header.Add("Request-Timeout", v)
	}
	w := httptest.NewRecorder()
	d.Middleware(h).ServeHTTP(w, r)
	return w
}

func TestNewDeadlineNamesEveryInvalidField(t *testing.T) {
	_, err := retry.NewDeadline(retry.DeadlineConfig{Timeout: -1, Field: "a:b"})
	require.ErrorContains(t, err, "retry: DeadlineConfig.Timeout: -1ns is negative")
	require.ErrorContains(t, err, `retry: DeadlineConfig.Field: "a:b" is not the name of a header field`)
	require.PanicsWithValue(
		t,
		"retry: nil handler",
		func() { newDeadline(t, retry.DeadlineConfig{}).Middleware(nil) },
	)
}

// Whose deadline a request gets.
func TestDeadlineOfARequest(t *testing.T) {
	tests := []struct {
		name   string
		field  []string
		want   time.Duration // 0: the handler does not run
		status int
	}{
		{"the configured one", nil, 2 * time.Second, 200},
		{"the caller's", []string{"1500"}, 1500 * time.Millisecond, 200},
		{"the caller's, with zeros", []string{"0001500"}, 1500 * time.Millisecond, 200},
		{"the same", []string{"2000"}, 2 * time.Second, 200},
		{"more than the configured one", []string{"2001"}, 2 * time.Second, 200},
		{"more than a number holds", []string{strings.Repeat("9", 40)}, 2 * time.Second, 200},
		{"over before it began", []string{"0"}, 0, 504},
		{"negative", []string{"-1"}, 0, 400},
		{"signed", []string{"+1"}, 0, 400},
		{"empty", []string{""}, 0, 400},
		{"a fraction", []string{"1.5"}, 0, 400},
		{"a unit", []string{"1s"}, 0, 400},
		{"two", []string{"100", "100"}, 0, 400},
		{"a list", []string{"100, 100"}, 0, 400},
		{"spaces", []string{" 100"}, 0, 400},
		{"other digits", []string{"١"}, 0, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := newDeadline(t, retry.DeadlineConfig{Timeout: 2 * time.Second, Field: "request-timeout"})
				var got time.Duration
				w := get(d, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					deadline, ok := r.Context().Deadline()
					require.True(t, ok)
					got = time.Until(deadline)
				}), tt.field...)
				require.Equal(t, tt.want, got)
				require.Equal(t, tt.status, w.Code)
				if tt.status != 200 {
					require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
				}
			})
		})
	}
}

func TestDeadlineFieldIsNotReadUnlessNamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := get(
			newDeadline(t, retry.DeadlineConfig{}),
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				deadline, _ := r.Context().Deadline()
				require.Equal(t, 30*time.Second, time.Until(deadline))
			}),
			"nonsense",
		)
		require.Equal(t, 200, w.Code)
	})
}

// The earlier deadline of a context around it stays.
func TestDeadlineWithinAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		outer := newDeadline(t, retry.DeadlineConfig{Timeout: time.Second})
		inner := newDeadline(t, retry.DeadlineConfig{Timeout: time.Minute})
		w := get(outer, inner.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		})))
		require.Equal(t, 504, w.Code)
	})
}

// sleep ends with its request.
func sleep(_ http.ResponseWriter, r *http.Request) {
	<-r.Context().Done()
}

func TestLateWithNothingSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var events []retry.DeadlineEvent
		d := newDeadline(
			t,
			retry.DeadlineConfig{
				Timeout: time.Second,
				Observe: func(ctx context.Context, e retry.DeadlineEvent) {
					require.NoError(t, ctx.Err())
					events = append(events, e)
				},
			},
		)
		var cause error
		w := get(d, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.Header().Set("Content-Type", "text/plain")
			sleep(w, r)
			cause = context.Cause(r.Context())
			time.Sleep(time.Second) // late even so: nobody else answers meanwhile
		}))
		require.ErrorIs(t, cause, retry.ErrDeadline)
		require.ErrorIs(t, cause, context.DeadlineExceeded)
		require.Equal(t, 504, w.Code)
		require.NotEqual(t, "5", w.Header().Get("Content-Length"))
		var doc map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		require.Equal(t, map[string]any{"title": "Gateway Timeout", "status": 504.0}, doc)
		require.Equal(
			t,
			[]retry.DeadlineEvent{{Outcome: retry.Expired, Duration: 2 * time.Second}},
			events,
		)
		require.Equal(t, retry.DeadlineStats{Requests: 1, Expired: 1}, d.Stats())
	})
}

func TestLateWithAnAnswerBegun(t *testing.T) {
	tests := []struct {
		name    string
		method  string
		handler func(w http.ResponseWriter)
		aborted bool
	}{
		{"a part", "GET", func(w http.ResponseWriter) { fmt.Fprint(w, "part") }, true},
		{"a header", "GET", func(w http.ResponseWriter) { w.WriteHeader(200) }, true},
		{"a flush", "GET", func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }, true},
		{"less than declared", "GET", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5")
			fmt.Fprint(w, "part")
		}, true},
		{"all that was declared", "GET", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5")
			fmt.Fprint(w, "whole")
		}, false},
		{"no content", "GET", func(w http.ResponseWriter) { w.WriteHeader(204) }, false},
		{"not modified", "GET", func(w http.ResponseWriter) { w.WriteHeader(304) }, false},
		{"to HEAD", "HEAD", func(w http.ResponseWriter) { w.WriteHeader(200) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := newDeadline(t, retry.DeadlineConfig{Timeout: time.Second})
				h := d.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					tt.handler(w)
					sleep(w, r)
				}))
				serve := func() {
					h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(tt.method, "/", nil))
				}
				if tt.aborted {
					require.PanicsWithValue(t, http.ErrAbortHandler, serve)
					require.Equal(t, retry.DeadlineStats{Requests: 1, Aborted: 1}, d.Stats())
				} else {
					serve()
					require.Equal(t, retry.DeadlineStats{Requests: 1}, d.Stats())
				}
			})
		})
	}
}

// A handler that is late and says so itself, as a proxy does, is left alone.
func TestLateAnswerOfTheHandlersOwn(t *testing.T) {
	begin := map[string]func(w http.ResponseWriter){
		"header":   func(w http.ResponseWriter) { w.WriteHeader(502) },
		"write":    func(w http.ResponseWriter) { w.Write([]byte("late")) },
		"string":   func(w http.ResponseWriter) { io.WriteString(w, "late") },
		"copy":     func(w http.ResponseWriter) { io.Copy(w, stream("late")) },
		"flush":    func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"ctl":      func(w http.ResponseWriter) { http.NewResponseController(w).Flush() },
		"informed": func(w http.ResponseWriter) { w.WriteHeader(103); w.WriteHeader(502) },
	}
	for name, f := range begin {
		t.Run(name, func(t *testing.T) {
			for _, late := range []bool{true, false} {
				bubble(t, func(t *testing.T) {
					d := newDeadline(t, retry.DeadlineConfig{Timeout: time.Second})
					serve := func() {
						get(d, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if !late {
								f(w)
							}
							sleep(w, r)
							f(w)
						}))
					}
					if late {
						serve()
						require.Equal(t, retry.DeadlineStats{Requests: 1, Expired: 1}, d.Stats())
					} else {
						require.PanicsWithValue(t, http.ErrAbortHandler, serve)
					}
				})
			}
		})
	}
}

// Informational responses are no answer.
func TestLateAfterEarlyHints(t *testing.T) {
	b := backend.Start(
		t,
		backend.Config{Handler: newDeadline(t, retry.DeadlineConfig{Timeout: time.Millisecond}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusEarlyHints)
				sleep(w, r)
			}))},
	)
	status, _, err := send(t, testTransport(t, backend.HTTP1), requestTo(t, b, "GET", nil))
	require.NoError(t, err)
	require.Equal(t, 504, status)
}

func TestPanicsOfHandlersPass(t *testing.T) {
	for _, value := range []any{http.ErrAbortHandler, "boom"} {
		for _, late := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				var events []retry.DeadlineEvent
				d := newDeadline(
					t,
					retry.DeadlineConfig{
						Timeout: time.Second,
						Observe: func(_ context.Context, e retry.DeadlineEvent) {
							events = append(events, e)
						},
					},
				)
				require.PanicsWithValue(t, value, func() {
					get(d, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if late {
							sleep(w, r)
						}
						panic(value)
					}))
				})
				require.Equal(t, retry.Failure, events[0].Outcome)
			})
		}
	}
}

// A client that leaves is nobody's deadline.
func TestClientLeavesBeforeTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var events []retry.DeadlineEvent
		d := newDeadline(t, retry.DeadlineConfig{Observe: func(ctx context.Context, e retry.DeadlineEvent) {
			require.NoError(t, ctx.Err(), "what is observed does not hang on the client")
			events = append(events, e)
		}})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		w := httptest.NewRecorder()
		d.Middleware(http.HandlerFunc(sleep)).
			ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		require.Empty(t, w.Body.String())
		require.Equal(t, retry.Canceled, events[0].Outcome)
		require.Equal(t, retry.DeadlineStats{Requests: 1, Canceled: 1}, d.Stats())
	})
}

func TestDeadlineEndsWithTheHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ctx context.Context
		get(
			newDeadline(t, retry.DeadlineConfig{}),
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { ctx = r.Context() }),
		)
		require.ErrorIs(t, ctx.Err(), context.Canceled, "its timer is stopped")
	})
}

func TestDeadlineSkip(t *testing.T) {
	d := newDeadline(
		t,
		retry.DeadlineConfig{Field: "Request-Timeout", Skip: func(*http.Request) bool { return true }},
	)
	w := get(d, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, ok := r.Context().Deadline()
		require.False(t, ok)
	}), "nonsense")
	require.Equal(t, 200, w.Code)
	require.Zero(t, d.Stats())
}

func TestDeadlineErrorHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []error
		d := newDeadline(
			t,
			retry.DeadlineConfig{
				Field: "Request-Timeout",
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
					got = append(got, err)
					w.WriteHeader(599)
				},
			},
		)
		require.Equal(t, 599, get(d, http.HandlerFunc(sleep)).Code)
		require.Equal(t, 599, get(d, http.HandlerFunc(sleep), "x").Code)
		require.True(t, errors.Is(got[0], retry.ErrDeadline) && errors.Is(got[1], retry.ErrDeadlineField))
		require.Equal(t, retry.DeadlineStats{Requests: 2, Expired: 1, Invalid: 1}, d.Stats())
	})
}

// The route that the handler's copy of the request got is the request's.
func TestDeadlineSetsThePattern(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(_ http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "panic" {
			panic("boom")
		}
	})
	h := newDeadline(t, retry.DeadlineConfig{}).Middleware(mux)
	r := httptest.NewRequest("GET", "/items/7", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, "GET /items/{id}", r.Pattern)
	r = httptest.NewRequest("GET", "/items/panic", nil)
	require.Panics(t, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	require.Equal(t, "GET /items/{id}", r.Pattern)
}

// Over real connections: a late answer is 504, a part of one is cut off, and a stream comes as it
// is written.
func TestDeadlineOverTheWire(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(p), func(t *testing.T) {
			goroutine := make(chan bool, 1)
			b := backend.Start(t, backend.Config{Protocol: p, Handler: newDeadline(t, retry.DeadlineConfig{
				Timeout: time.Minute, Field: "Request-Timeout",
			}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/late":
					sleep(w, r)
				case "/part":
					fmt.Fprint(w, "part")
					http.NewResponseController(w).Flush()
					sleep(w, r)
				case "/stream":
					fmt.Fprint(w, "first\n")
					http.NewResponseController(w).Flush()
					<-goroutine
					fmt.Fprint(w, "second\n")
				}
			}))})
			rt := testTransport(t, p)
			ask := func(path string, ms string) *http.Request {
				req := requestTo(t, b, "GET", nil)
				req.URL.Path = path
				if ms != "" {
					req.Header.Set("Request-Timeout", ms)
				}
				return req
			}
			status, _, err := send(t, rt, ask("/late", "1"))
			require.NoError(t, err)
			require.Equal(t, 504, status)
			_, text, err := send(t, rt, ask("/part", "50"))
			if err == nil {
				t.Fatalf("a part of an answer looks whole: %q", text)
			}
			resp, err := rt.RoundTrip(ask("/stream", ""))
			require.NoError(t, err)
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "first\n", line)
			goroutine <- true
			rest, err := io.ReadAll(lines)
			require.NoError(t, err)
			require.Equal(t, "second\n", string(rest))
		})
	}
}

// A connection that the handler has taken over is its own.
func TestDeadlineOfAHijackedConnection(t *testing.T) {
	outcome := make(chan retry.Outcome, 1)
	observe := func(_ context.Context, e retry.DeadlineEvent) { outcome <- e.Outcome }
	b := backend.Start(
		t,
		backend.Config{
			Handler: newDeadline(
				t,
				retry.DeadlineConfig{Timeout: time.Millisecond, Observe: observe},
			).Middleware(
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					<-r.Context().Done()
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nmine")
				})),
		},
	)
	status, text, err := send(t, testTransport(t, backend.HTTP1), requestTo(t, b, "GET", nil))
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, "mine", text)
	require.Equal(t, retry.Success, <-outcome)
}

// What one service's Retrier says is what the next one's Deadline reads.
func TestDeadlinesArePassedOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var left time.Duration
		h := newDeadline(t, retry.DeadlineConfig{Field: "Request-Timeout"}).Middleware(
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				deadline, _ := r.Context().Deadline()
				left = time.Until(deadline)
			}))
		service := roundTripper(func(req *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req.Clone(context.Background()))
			return w.Result(), nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		time.Sleep(time.Second)
		_, _, err := send(
			t,
			newRetrier(t, retry.Config{DeadlineField: "Request-Timeout"}).Transport(service),
			request(t, "GET", nil).WithContext(ctx),
		)
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, left)
		synctest.Wait()
	})
}

func TestDeadlineEventIsBounded(t *testing.T) {
	e := retry.DeadlineEvent{Outcome: retry.Expired, Duration: time.Second, Passed: true}
	require.Equal(t, "[event=deadline outcome=expired passed=true duration=1s]", e.LogValue().String())
}

// A client that is refused by its deadline field gets its answer though it is still sending.
func TestRefusalByTheFieldReachesAClientThatStillSends(t *testing.T) {
	for field, status := range map[string]int{"x": 400, "0": 504} {
		t.Run(field, func(t *testing.T) { testRefusalReachesASender(t, field, status) })
	}
}

func testRefusalReachesASender(t *testing.T, field string, status int) {
	t.Helper()
	const size = 8 << 20
	b := backend.Start(t, backend.Config{Handler: newDeadline(t, retry.DeadlineConfig{
		Field: "Request-Timeout",
	}).Middleware(http.HandlerFunc(sleep))})
	conn, err := net.Dial("tcp", b.Addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nRequest-Timeout: %s\r\n"+
		"Content-Length: %d\r\n\r\n", field, size)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, status, resp.StatusCode)
	_, err = io.CopyN(conn, readerFunc(func(p []byte) (int, error) { return len(p), nil }), size)
	require.NoError(t, err, "what is left is read")
}
