package versioning_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// allCanary returns a rollout in whose last step canary has full weight.
func allCanary(t testing.TB, change ...func(*versioning.RolloutConfig)) *versioning.Rollout {
	cfg := rolloutOf(1)
	cfg.Floor = -1
	for _, f := range change {
		f(&cfg)
	}
	return newRollout(t, cfg)
}

// seen looks and returns what canary did.
func seen(t testing.TB, r *versioning.Rollout) versioning.ArmReport {
	require.NoError(t, r.Pause(t.Context())) // whoever acts looks
	defer func() { require.NoError(t, r.Resume(t.Context())) }()
	return r.Verdict().Canary
}

func TestWhatCountsAsAnError(t *testing.T) {
	answer := func(status int, fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(fields); i += 2 {
				w.Header().Set(fields[i], fields[i+1])
			}
			w.WriteHeader(status)
		}
	}
	type context_ = func(context.Context) (context.Context, context.CancelFunc)
	gone := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return ctx, cancel
	}
	late := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithDeadline(ctx, time.Now().Add(-1))
	}
	lateByCause := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(context.DeadlineExceeded)
		return ctx, func() {}
	}
	for _, tt := range []struct {
		name    string
		h       http.HandlerFunc
		context context_
		want    versioning.ArmReport
	}{
		{"a status", answer(200), nil, versioning.ArmReport{Requests: 1}},
		{"no answer at all", func(http.ResponseWriter, *http.Request) {}, nil,
			versioning.ArmReport{Requests: 1}},
		{"a client's error", answer(404), nil, versioning.ArmReport{Requests: 1}},
		{"an error", answer(500), nil, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"after an interim answer", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(502)
			w.WriteHeader(200)
		}, nil, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"a limit that comes too late", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			w.WriteHeader(429)
		}, nil, versioning.ArmReport{Requests: 1}},
		{"an outage", answer(503), nil, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"a limit", answer(429), nil, versioning.ArmReport{Shed: 1}},
		{"an overload", answer(503, "Retry-After", "1"), nil, versioning.ArmReport{Shed: 1}},
		{"a panic", func(http.ResponseWriter, *http.Request) { panic("x") }, nil,
			versioning.ArmReport{Requests: 1, Failed: 1}},
		{"a panic in the answer", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			panic(http.ErrAbortHandler)
		}, nil, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"the client has left", answer(502), gone, versioning.ArmReport{Canceled: 1}},
		{"a panic after it", func(http.ResponseWriter, *http.Request) { panic("x") }, gone,
			versioning.ArmReport{Canceled: 1}},
		{"its time is over", func(http.ResponseWriter, *http.Request) {}, late,
			versioning.ArmReport{Requests: 1, Failed: 1}},
		{"its time was over before the answer began", answer(200), late,
			versioning.ArmReport{Requests: 1, Failed: 1}},
		{"its time is over by cause", func(http.ResponseWriter, *http.Request) {}, lateByCause,
			versioning.ArmReport{Requests: 1, Failed: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := allCanary(t)
			req := request("GET", "/", "User", "a")
			if tt.context != nil {
				ctx, cancel := tt.context(t.Context())
				defer cancel()
				req = req.WithContext(ctx)
			}
			func() {
				defer func() { _ = recover() }()
				r.Handler(answer(200), tt.h).ServeHTTP(httptest.NewRecorder(), req)
			}()
			got := seen(t, r)
			got.P50, got.P95, got.P99 = 0, 0, 0
			require.Equal(t, tt.want, got)
			require.Zero(t, r.Stats().InFlight["canary"])
		})
	}
}

// TestLatencyEndsWhenTheAnswerBegins: who streams for long, or writes to a slow client, is not
// slow.
func TestLatencyEndsWhenTheAnswerBegins(t *testing.T) {
	begin := map[string]func(w http.ResponseWriter){
		"write":  func(w http.ResponseWriter) { _, _ = w.Write([]byte("a")) },
		"string": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "a") },
		"flush":  func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
		"copy":   func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("a")) },
		"header": func(w http.ResponseWriter) { w.WriteHeader(200) },
	}
	for name, f := range begin {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := allCanary(t)
				serve(r.Handler(telling, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(time.Second)
					f(w)
					time.Sleep(time.Minute)
				})), request("GET", "/", "User", "a"))
				require.InEpsilon(t, time.Second, seen(t, r).P50, 0.03)
			})
		})
	}
}

// TestV16_AnswersAreTagged: what a cache in front has from the bad arm can be purged.
func TestV16_AnswersAreTagged(t *testing.T) {
	for _, tt := range []struct {
		field string
		sets  []string
		want  []string
	}{
		{"Surrogate-Key", nil, []string{"shop:v2:canary"}},
		{"surrogate-key", []string{"a b"}, []string{"a b shop:v2:canary"}},
		{"Cache-Tag", []string{"a", "b"}, []string{"a, b, shop:v2:canary"}},
		{"", []string{"a"}, nil},
	} {
		own := make([]string, len(tt.sets), 8) // a list that the handler uses again
		copy(own, tt.sets)
		set := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tt.sets != nil {
				w.Header()[http.CanonicalHeaderKey(tt.field)] = own
			}
			w.WriteHeader(103)
			w.WriteHeader(200)
		})
		for _, weight := range []float64{0.9999, 1} {
			cfg := rolloutOf(weight)
			cfg.TagField = tt.field
			r := newRollout(t, cfg)
			for range 2 {
				w := serve(r.Handler(telling, set), request("GET", "/", "User", "a"))
				if tt.field == "" {
					require.NotContains(t, w.Header(), "Surrogate-Key")
					continue
				}
				require.Equal(t, tt.want, w.Header().Values(tt.field))
			}
			if tt.field != "" {
				require.NoError(t, r.Rollback(t.Context(), ""))
				w := serve(r.Handler(telling, set), request("GET", "/", "User", "a"))
				require.Equal(t, []string{"shop:v2:stable"}, w.Header().Values(tt.field))
				require.Equal(t, r.Tag(versioning.Stable), w.Header().Get(tt.field))
			}
		}
	}
}

// TestOnRollbackIsCalledAgainWhenCanaryIsDrained: a request that was in flight may have given a
// cache its answer after the first purge.
func TestOnRollbackIsCalledAgainWhenCanaryIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var calls []versioning.Rollback
		var at []time.Time
		r := allCanary(t, func(c *versioning.RolloutConfig) {
			c.OnRollback = func(_ context.Context, b versioning.Rollback) {
				mu.Lock()
				defer mu.Unlock()
				calls, at = append(calls, b), append(at, time.Now())
				if len(calls) == 3 {
					panic("purge failed")
				}
			}
		})
		begun := time.Now()
		slow := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Minute) })
		h := r.Handler(telling, slow)
		go serve(h, request("GET", "/", "User", "a"))
		time.Sleep(time.Second)
		require.NoError(t, r.Rollback(t.Context(), "purge it"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, r.Drained(ctx), context.DeadlineExceeded)
		require.NoError(t, r.Drained(t.Context()))
		require.InDelta(t, time.Minute, time.Since(begun), float64(time.Second))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, calls, 2)
		want := versioning.Rollback{
			Release: "v2", Tag: "shop:v2:canary", Reason: versioning.ReasonOperator, Text: "purge it",
		}
		require.Equal(t, want, calls[0])
		want.Drained = true
		require.Equal(t, want, calls[1])
		require.InDelta(t, time.Minute, at[1].Sub(begun), float64(time.Second))

		require.NoError(t, r.Retry(t.Context()))
		require.NoError(t, r.Rollback(t.Context(), ""))
		synctest.Wait()
		require.Len(t, calls, 3, "nothing was in flight, so once is enough")
		require.True(t, calls[2].Drained)
		require.EqualValues(t, 1, r.Stats().Panics)
	})
}

func TestDrainedNeedsAnArmWithoutRequests(t *testing.T) {
	require.ErrorIs(t, newRollout(t, rolloutOf(0.5)).Drained(t.Context()), versioning.ErrPhase)
}

// TestRolloutOverServers: what passes through a rollout is what the arm does.
func TestRolloutOverServers(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		r := allCanary(t, func(c *versioning.RolloutConfig) { c.TagField = "Surrogate-Key" })
		read := make(chan struct{})
		mux := http.NewServeMux()
		mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, "line\n")
				w.(http.Flusher).Flush()
				<-read
			}
			w.Header().Set(http.TrailerPrefix+"End", "yes")
		})
		mux.HandleFunc("/abort", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		mux.HandleFunc("/upgrade", func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				http.Error(w, "", http.StatusHTTPVersionNotSupported)
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n" +
				"Connection: Upgrade\r\n\r\nhello\n")
			_ = rw.Flush()
		})
		var pattern atomic.Value
		handler := r.Handler(telling, mux)
		srv := server(t, h2, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer func() { pattern.Store(req.Pattern) }()
			handler.ServeHTTP(w, req)
		}))
		ask := func(path string) *http.Response {
			req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+path, nil)
			require.NoError(t, err)
			req.Header.Set("User", "a")
			resp, err := srv.Client().Do(req)
			require.NoError(t, err)
			t.Cleanup(func() { resp.Body.Close() })
			return resp
		}
		resp := ask("/stream")
		require.Equal(t, r.Tag(versioning.Canary), resp.Header.Get("Surrogate-Key"))
		lines := bufio.NewReader(resp.Body)
		for range 3 {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "line\n", line)
			read <- struct{}{}
		}
		_, err := lines.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, "yes", resp.Trailer.Get("End"))

		_, err = io.ReadAll(ask("/abort").Body)
		require.Error(t, err)
		drained := func() bool { return r.Stats().InFlight["canary"] == 0 }
		require.Eventually(t, drained, 20*time.Second, time.Millisecond)
		require.EqualValues(t, 1, seen(t, r).Failed)
		told := func() bool { return pattern.Load() == "/abort" }
		require.Eventually(t, told, 20*time.Second, time.Millisecond)
		if h2 {
			require.Equal(t, 505, ask("/upgrade").StatusCode)
			return
		}
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nUser: a\r\n"+
			"Connection: Upgrade\r\nUpgrade: x\r\n\r\n")
		text, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(string(text), "\r\n\r\nhello\n"), "%q", text)
		require.Eventually(t, drained, 20*time.Second, time.Millisecond)
		require.EqualValues(t, 3, seen(t, r).Requests)
		require.EqualValues(t, 1, seen(t, r).Failed)
	})
}

// A tripper is a RoundTripper.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An unsentError says that a request was not sent, and when it may be.
type unsentError struct{ wait time.Duration }

func (e unsentError) Error() string             { return "unsent" }
func (e unsentError) NotSent() bool             { return true }
func (e unsentError) RetryAfter() time.Duration { return e.wait }

// A brokenBody breaks off.
type brokenBody struct {
	io.Reader
	closed int
}

func (b *brokenBody) Close() error { b.closed++; return nil }

func TestTransportOutcomes(t *testing.T) {
	broken := func() io.Reader { return io.MultiReader(strings.NewReader("half"), errReader{}) }
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   io.Reader
		err    error
		cancel bool
		want   versioning.ArmReport
	}{
		{"an answer", 200, nil, strings.NewReader("a"), nil, false, versioning.ArmReport{Requests: 1}},
		{"without a body", 204, nil, nil, nil, false, versioning.ArmReport{Requests: 1}},
		{"an error status", 500, nil, strings.NewReader("a"), nil, false,
			versioning.ArmReport{Requests: 1, Failed: 1}},
		{"an overload", 503, http.Header{"Retry-After": {"1"}}, nil, nil, false,
			versioning.ArmReport{Shed: 1}},
		{"an error", 0, nil, nil, errors.New("refused"), false, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"nothing at all", 0, nil, nil, nil, false, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"a breaker's", 0, nil, nil, unsentError{time.Second}, false, versioning.ArmReport{Shed: 1}},
		{"no endpoints", 0, nil, nil, unsentError{}, false, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"a canceled one", 0, nil, nil, context.Canceled, true, versioning.ArmReport{Canceled: 1}},
		{"a body that breaks", 200, nil, broken(), nil, false, versioning.ArmReport{Requests: 1, Failed: 1}},
		{"after its caller has left", 200, nil, broken(), nil, true, versioning.ArmReport{Canceled: 1}},
		{"of an overload", 429, nil, broken(), nil, false, versioning.ArmReport{Shed: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := allCanary(t)
			body := &brokenBody{Reader: tt.body}
			rt := r.Transport(nil, tripper(func(*http.Request) (*http.Response, error) {
				if tt.status == 0 {
					return nil, tt.err
				}
				resp := &http.Response{StatusCode: tt.status, Header: tt.header}
				if tt.body != nil {
					resp.Body = body
				}
				return resp, nil
			}))
			req := request("GET", "http://x/", "User", "a")
			if tt.cancel {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				req = req.WithContext(ctx)
			}
			resp, err := rt.RoundTrip(req)
			require.Equal(t, tt.err, err)
			if resp != nil && resp.Body != nil {
				require.Equal(t, 1, r.Stats().InFlight["canary"], "until the body has ended")
				_, _ = io.ReadAll(resp.Body)
				require.NoError(t, resp.Body.Close())
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 2, body.closed)
			}
			require.Zero(t, r.Stats().InFlight["canary"])
			got := seen(t, r)
			got.P50, got.P95, got.P99 = 0, 0, 0
			require.Equal(t, tt.want, got)
		})
	}
}

// A client that breaks off its upload through a proxy, and one whose request cannot be sent to
// anybody, say nothing about a release.
func TestTransportsBlameNoReleaseForARequest(t *testing.T) {
	t.Run("its body", func(t *testing.T) {
		r := allCanary(t)
		body := &brokenBody{Reader: errReader{}}
		var sent *http.Request
		rt := r.Transport(nil, tripper(func(req *http.Request) (*http.Response, error) {
			sent = req
			_, err := io.ReadAll(req.Body)
			_ = req.Body.Close()
			return nil, err
		}))
		req := request("POST", "http://x/", "User", "a")
		req.Body = body
		_, err := rt.RoundTrip(req)
		require.EqualError(t, err, "reset")
		require.NotSame(t, req, sent)
		require.Equal(t, 1, body.closed)
		require.Equal(t, 1, int(seen(t, r).Canceled))
		require.Zero(t, seen(t, r).Requests)
	})
	t.Run("itself", func(t *testing.T) {
		r := allCanary(t)
		req := request("GET", "http://x/", "User", "a")
		req.Header["A B"] = []string{"x"}
		_, err := r.Transport(nil, nil).RoundTrip(req)
		require.ErrorContains(t, err, "invalid header field name")
		require.Equal(t, 1, int(seen(t, r).Canceled))
		require.Zero(t, seen(t, r).Requests)
	})
	t.Run("and the answer is that of the request given", func(t *testing.T) {
		r := allCanary(t)
		req := request("POST", "http://x/", "User", "a")
		req.Body = io.NopCloser(strings.NewReader("x"))
		resp, err := r.Transport(nil, tripper(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 204, Request: req}, nil
		})).RoundTrip(req)
		require.NoError(t, err)
		require.Same(t, req, resp.Request)
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("reset") }

// An idler counts calls of CloseIdleConnections.
type idler struct {
	tripper
	closed int
}

func (i *idler) CloseIdleConnections() { i.closed++ }

func TestTransportKeepsWhatIsSpecial(t *testing.T) {
	cfg := rolloutOf(1)
	cfg.TagField, cfg.Floor = "Cache-Tag", -1
	key := byUser
	cfg.Key = func(r *http.Request) (string, bool) { return key(r) }
	r := newRollout(t, cfg)
	type duplex struct {
		io.ReadCloser
		io.Writer
	}
	next := &idler{tripper: func(*http.Request) (*http.Response, error) {
		body := duplex{io.NopCloser(strings.NewReader("")), io.Discard}
		return &http.Response{StatusCode: 101, Body: body}, nil
	}}
	rt := r.Transport(next, next)
	resp, err := rt.RoundTrip(request("GET", "http://x/", "User", "a"))
	require.NoError(t, err)
	require.Implements(t, (*io.Writer)(nil), resp.Body)
	require.Equal(t, "shop:v2:canary", resp.Header.Get("Cache-Tag"))
	require.NoError(t, resp.Body.Close())
	rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	require.Equal(t, 2, next.closed)

	// Whoever panics, the body is closed and nothing stays in flight.
	next.tripper = func(*http.Request) (*http.Response, error) { panic("next") }
	require.Panics(t, func() { _, _ = rt.RoundTrip(request("GET", "http://x/", "User", "a")) })
	require.EqualValues(t, 1, seen(t, r).Failed)
	require.Zero(t, r.Stats().InFlight["canary"])
	key = func(*http.Request) (string, bool) { panic("key") }
	body := &brokenBody{Reader: strings.NewReader("a")}
	req := request("POST", "http://x/")
	req.Body = body
	require.Panics(t, func() { _, _ = rt.RoundTrip(req) })
	require.Equal(t, 1, body.closed)

	cfg.Missing = versioning.MissingCookie
	cfg.Skip = func(r *http.Request) bool { return r.URL.Path == "/skip" }
	cfg.Steps[0].Weight, cfg.Key = 0.5, byUser
	r = newRollout(t, cfg)
	rt = r.Transport(tripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200}, nil
	}), tripper(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, nil }))
	resp, err = rt.RoundTrip(request("GET", "http://x/"))
	require.NoError(t, err)
	require.Contains(t, resp.Header.Get("Set-Cookie"), "trivet_rollout=")
	resp, err = rt.RoundTrip(request("GET", "http://x/skip"))
	require.NoError(t, err)
	require.Nil(t, resp.Header)
}

// TestAPanicAfterTheClientHasLeft says nothing: net/http itself lets a write fail then.
func TestAPanicAfterTheClientHasLeft(t *testing.T) {
	r := allCanary(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := r.Handler(telling, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		cancel()
		panic(http.ErrAbortHandler)
	}))
	require.Panics(t, func() { serve(h, request("GET", "/", "User", "a").WithContext(ctx)) })
	require.EqualValues(t, 1, seen(t, r).Canceled)
	require.Zero(t, seen(t, r).Requests)
}

// TestATagIsSetOnce, also if a flush that is not supported has completed the header before.
func TestATagIsSetOnce(t *testing.T) {
	r := allCanary(t, func(c *versioning.RolloutConfig) { c.TagField = "Cache-Tag" })
	w := &nullWriter{header: http.Header{"Cache-Tag": {"a"}}}
	r.Handler(telling, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		require.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrNotSupported)
		_, _ = io.WriteString(w, "answer")
	})).ServeHTTP(w, request("GET", "/", "User", "a"))
	require.Equal(t, []string{"a, shop:v2:canary"}, w.header["Cache-Tag"])
}
