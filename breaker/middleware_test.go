package breaker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

// handled returns how a breaker counts what a handler does with a request.
func handled(
	t *testing.T,
	cfg breaker.Config,
	h http.HandlerFunc,
	serve func(t *testing.T, h http.Handler),
) breaker.Outcome {
	t.Helper()
	var got breaker.Outcome
	synctest.Test(t, func(t *testing.T) {
		cfg.Key = func(*http.Request) (string, bool) { return "up", true }
		b := newBreaker(t, cfg)
		trip(t, b, "up")
		time.Sleep(5 * time.Second)
		if serve == nil {
			serve = func(t *testing.T, h http.Handler) {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
			}
		}
		serve(t, b.Middleware(h))
		require.EqualValues(t, 1, b.Stats().Probes)
		switch stateOf(b, "up") {
		case breaker.Ramping:
			got = breaker.Success
		case breaker.Open:
			got = breaker.Failure
		case breaker.HalfOpen:
			got = breaker.Neutral
			require.True(t, ask(b, "up", breaker.Neutral), "a neutral probe gives its place back")
		}
	})
	return got
}

func TestMiddlewareClassifies(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
		want breaker.Outcome
	}{
		{"nothing", func(http.ResponseWriter, *http.Request) {}, breaker.Success},
		{"a body", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }, breaker.Success},
		{"404", status(404), breaker.Success},
		{"429", status(429), breaker.Success},
		{"500", status(500), breaker.Failure},
		{"501", status(501), breaker.Success},
		{"503", status(503), breaker.Failure},
		{"500 after 103", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(500)
		}, breaker.Failure},
		{"500 too late", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			w.WriteHeader(500)
		}, breaker.Success},
		{"500 after a flush", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.WriteHeader(500)
		}, breaker.Success},
		{"500 as a stream", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(500)
		}, breaker.Failure},
		{"500 with a body", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "x")
		}, breaker.Failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, handled(t, breaker.Config{}, tt.h, nil))
		})
	}
}

// serveOnce serves one request that nobody waits for.
func serveOnce(h http.Handler) {
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

// TestB07: a panic is a failure, gives a probe's place back, and passes.
func TestB07_PanicsOfHandlersCountAndPass(t *testing.T) {
	for _, sent := range []bool{false, true} {
		got := handled(t, breaker.Config{}, func(w http.ResponseWriter, _ *http.Request) {
			if sent {
				fmt.Fprint(w, "half")
			}
			panic("boom")
		}, func(t *testing.T, h http.Handler) {
			require.PanicsWithValue(t, "boom", func() { serveOnce(h) })
		})
		require.Equal(t, breaker.Failure, got)
	}
	exit := func(http.ResponseWriter, *http.Request) { runtime.Goexit() }
	got := handled(t, breaker.Config{}, exit, func(t *testing.T, h http.Handler) {
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			serveOnce(h)
		}()
		<-gone
	})
	require.Equal(t, breaker.Failure, got, "nor is a goroutine that ends an answer")
}

// TestB08: an aborted answer is a failure, unless the client has left; the abort passes untouched.
func TestB08_AbortsPassUntouched(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	got := handled(t, breaker.Config{}, abort, func(t *testing.T, h http.Handler) {
		require.PanicsWithValue(t, http.ErrAbortHandler, func() { serveOnce(h) })
	})
	require.Equal(t, breaker.Failure, got)

	abandoned := func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	got = handled(t, breaker.Config{}, abandoned, func(t *testing.T, h http.Handler) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	})
	require.Equal(t, breaker.Neutral, got)
}

func TestMiddlewareContexts(t *testing.T) {
	for _, tt := range []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		h    http.HandlerFunc
		want breaker.Outcome
	}{
		{"the client leaves", context.WithCancel, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(502)
		}, breaker.Neutral},
		{"its time ends by a cancellation", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(context.DeadlineExceeded) }
		}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, breaker.Failure},
		{"no answer in time", nil, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}, breaker.Failure},
		{"half an answer, and time is over", nil, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "ok")
			<-r.Context().Done()
		}, breaker.Failure},
		{"writes after its time", nil, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "ok")
			<-r.Context().Done()
			fmt.Fprint(w, "ok")
			w.(http.Flusher).Flush()
		}, breaker.Failure},
		{"a hint after its time", nil, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(103)
			fmt.Fprint(w, "ok")
		}, breaker.Failure},
		{"an event stream, and time is over", nil, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: x\n\n")
			<-r.Context().Done()
		}, breaker.Success},
		{"a failure that the client has got, and it leaves", context.WithCancel, func(
			w http.ResponseWriter, r *http.Request,
		) {
			w.WriteHeader(500)
			<-r.Context().Done()
		}, breaker.Failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, handled(t, breaker.Config{}, tt.h, func(t *testing.T, h http.Handler) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if tt.ctx != nil {
					ctx, cancel = tt.ctx(t.Context())
					time.AfterFunc(time.Second, cancel)
				}
				defer cancel()
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			}))
		})
	}
}

// http.TimeoutHandler cuts an answer off that has begun, since nobody has seen it yet.
func TestAnswersThatATimeoutHandlerCutsOff(t *testing.T) {
	got := handled(t, breaker.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		<-r.Context().Done()
	}, func(t *testing.T, h http.Handler) {
		w := httptest.NewRecorder()
		http.TimeoutHandler(h, time.Second, "late").ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 503, w.Code)
		synctest.Wait()
	})
	require.Equal(t, breaker.Failure, got)
}

// TestB09: a client that reads slowly keeps a handler from ending in time.
func TestB09_DeadlinesThatPassInAWrite(t *testing.T) {
	for name, write := range map[string]func(w http.ResponseWriter){
		"Write":       func(w http.ResponseWriter) { _, _ = w.Write([]byte("x")) },
		"WriteString": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "x") },
		"ReadFrom": func(w http.ResponseWriter) {
			_, _ = io.Copy(w, io.LimitReader(strings.NewReader("x"), 1))
		},
	} {
		got := handled(t, breaker.Config{}, func(w http.ResponseWriter, _ *http.Request) {
			write(w)
		}, func(t *testing.T, h http.Handler) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			h.ServeHTTP(
				slowWriter{httptest.NewRecorder()}, httptest.NewRequestWithContext(ctx, "GET", "/", nil),
			)
		})
		require.Equal(t, breaker.Neutral, got, name)
	}
}

// A slowWriter is a client that reads slowly.
type slowWriter struct{ http.ResponseWriter }

func (w slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return w.ResponseWriter.Write(p)
}

func TestB12_SlowHandlersAndSlowClients(t *testing.T) {
	late := time.Second + 1
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
		want breaker.Outcome
	}{
		{"quick", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second) }, breaker.Success},
		{"slow", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(late) }, breaker.Failure},
		{"slow to begin", func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(late)
			w.WriteHeader(200)
		}, breaker.Failure},
		{"slow to write", func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(late)
			_, _ = w.Write([]byte("x"))
		}, breaker.Failure},
		{"slow to write a string", func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(late)
			_, _ = io.WriteString(w, "x")
		}, breaker.Failure},
		{"slow to copy", func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(late)
			_, _ = io.Copy(w, io.LimitReader(strings.NewReader("x"), 1))
		}, breaker.Failure},
		{"slow to flush", func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(late)
			w.(http.Flusher).Flush()
		}, breaker.Failure},
		{"a hint is no answer", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			time.Sleep(late)
		}, breaker.Failure},
		{"quick to begin", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			time.Sleep(4 * time.Second)
		}, breaker.Success},
		{"a stream that waits for its first event", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			time.Sleep(4 * time.Second)
			fmt.Fprint(w, "data: x\n\n")
		}, breaker.Success},
		{"a stream that is flushed and aborted", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, breaker.Success},
		{"a stream that is copied and aborted", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.Copy(w, io.LimitReader(strings.NewReader("data: x"), 7))
			panic(http.ErrAbortHandler)
		}, breaker.Success},
		{"a stream that is aborted", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			time.Sleep(4 * time.Second)
			panic(http.ErrAbortHandler)
		}, breaker.Success},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := breaker.Config{SlowAfter: time.Second}
			got := handled(t, cfg, tt.h, func(t *testing.T, h http.Handler) {
				defer func() { _ = recover() }()
				serveOnce(h)
			})
			require.Equal(t, tt.want, got)
		})
	}
	t.Run("slow to read", func(t *testing.T) {
		for name, h := range map[string]http.HandlerFunc{
			"write":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) },
			"string": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") },
			"copy": func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.Copy(w, io.LimitReader(strings.NewReader("x"), 1))
			},
		} {
			got := handled(t, breaker.Config{SlowAfter: time.Second}, h, func(t *testing.T, h http.Handler) {
				h.ServeHTTP(slowWriter{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
			})
			require.Equal(t, breaker.Success, got, name)
		}
	})
	t.Run("a probe that is still answering is not lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{})
			trip(t, b, "")
			time.Sleep(5 * time.Second)
			h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, "x")
				time.Sleep(time.Minute)
			}))
			go h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
			time.Sleep(5 * time.Second)
			ask(b, "", breaker.Neutral)
			require.Equal(t, breaker.Ramping, stateOf(b, ""))
			time.Sleep(time.Hour)
		})
	})
}

func TestMiddlewareRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "")
		time.Sleep(1500 * time.Millisecond)
		h := b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("called") }))
		rec := httptest.NewRecorder()
		rec.Header().Set("ETag", `"x"`)
		rec.Header().Set("X-Request-Id", "7")
		h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 503, rec.Code)
		require.Equal(t, "4", rec.Header().Get("Retry-After"), "3.5 s, rounded up")
		require.Equal(t, "application/problem+json", rec.Header().Get("Content-Type"))
		require.Equal(t, "no-store", rec.Header().Get("Cache-Control"))
		require.Equal(t, "7", rec.Header().Get("X-Request-Id"))
		require.Empty(t, rec.Header().Get("ETag"))
		require.JSONEq(t, `{"title":"Service Unavailable","status":503}`, rec.Body.String())

		b.Isolate("")
		rec = httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 503, rec.Code)
		require.Empty(t, rec.Header().Get("Retry-After"))
	})
}

func TestErrorHandlerIsTheFallback(t *testing.T) {
	b := newBreaker(t, breaker.Config{ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
		var e *breaker.OpenError
		require.ErrorAs(t, err, &e)
		fmt.Fprint(w, "stale ", e.Key, r.URL.Path)
	}})
	b.Isolate("")
	rec := httptest.NewRecorder()
	b.Middleware(http.NotFoundHandler()).ServeHTTP(rec, httptest.NewRequest("GET", "/x", nil))
	require.Equal(t, "stale /x", rec.Body.String())
}

func TestNilHandlerPanics(t *testing.T) {
	require.PanicsWithValue(t, "breaker: nil handler",
		func() { newBreaker(t, breaker.Config{}).Middleware(nil) })
}

// Inside a ServeMux each route has its own state.
func TestRoutesAreKeys(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	mux := http.NewServeMux()
	mux.Handle(
		"GET /bad/{id}",
		b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })),
	)
	mux.Handle("GET /good/{id}", b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	codes := map[int]int{}
	for i := range 40 {
		for _, path := range []string{"/bad/", "/good/"} {
			rec := httptest.NewRecorder()
			mux.ServeHTTP(rec, httptest.NewRequest("GET", path+fmt.Sprint(i), nil))
			codes[rec.Code]++
		}
	}
	require.Equal(t, map[int]int{200: 40, 500: 20, 503: 20}, codes)
	require.Equal(t, map[string]breaker.KeyStats{
		"GET /bad/{id}": {State: breaker.Open}, "GET /good/{id}": {State: breaker.Closed, Share: 1},
	}, b.Stats().Keys)

	around := newBreaker(t, breaker.Config{})
	around.Middleware(mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/good/1", nil))
	require.Contains(t, around.Stats().Keys, "", "around the mux all share one state")
}

func TestMiddlewareKeySkipAndDryRun(t *testing.T) {
	b := newBreaker(t, breaker.Config{
		Key:    func(r *http.Request) (string, bool) { return "k", r.URL.Path != "/unguarded" },
		Skip:   func(r *http.Request) bool { return r.URL.Path == "/healthz" },
		DryRun: true,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic("refused")
		},
	})
	var wrapped bool
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, bare := w.(*httptest.ResponseRecorder)
		wrapped = !bare
		w.WriteHeader(500)
	}))
	serve := func(path string) { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)) }
	serve("/healthz")
	require.False(t, wrapped)
	serve("/unguarded")
	require.False(t, wrapped)
	require.Empty(t, b.Stats().Keys)
	for range 30 {
		serve("/")
	}
	require.EqualValues(t, 10, b.Stats().Refusals)
	require.Equal(t, breaker.Open, stateOf(b, "k"))
}

// What a server refuses of its own accord, outside the breaker, the breaker does not see.
func TestOuterRefusalsAreNotSeen(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	inner := b.Middleware(http.NotFoundHandler())
	shed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Critical") == "" {
			w.WriteHeader(503)
			return
		}
		inner.ServeHTTP(w, r)
	})
	for range 100 {
		shed.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	require.Empty(t, b.Stats().Keys)
}

func TestStatsAsJSON(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	b.Isolate("a")
	ask(b, "b", breaker.Success)
	text, err := json.Marshal(b.Stats())
	require.NoError(t, err)
	require.JSONEq(t, `{"keys":{"a":{"state":"isolated","share":0},"b":{"state":"closed","share":1}},
		"shared":{"state":"closed","share":1},"open":1,"refusals":0,"probes":0,"overflowed":0}`, string(text))
}
