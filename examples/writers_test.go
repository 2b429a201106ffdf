package examples_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

// A wrapper puts a middleware around a handler that gets a ResponseWriter of the middleware's own.
type wrapper struct {
	name string
	wrap func(http.Handler) http.Handler
}

// wrappers returns the middlewares that wrap the ResponseWriter, and all of them in a row.
func wrappers(t *testing.T) []wrapper {
	t.Helper()
	one := func(*http.Request) (string, bool) { return "all", true }
	tel, err := telemetry.New(telemetry.Config{RequestID: "X-Request-Id", ServerTiming: true})
	require.NoError(t, err)
	concurrency, err := ratelimit.NewConcurrency(ratelimit.ConcurrencyConfig{
		Limit: 100, Key: one, Missing: ratelimit.MissingReject,
	})
	require.NoError(t, err)
	limiter, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{{
		Name: "failures", Rate: ratelimit.PerSecond(1e6), Key: one, Missing: ratelimit.MissingReject,
		CountIf: func(status int) bool { return status >= 500 },
	}}})
	require.NoError(t, err)
	deadline, err := retry.NewDeadline(retry.DeadlineConfig{Timeout: time.Hour})
	require.NoError(t, err)
	br, err := breaker.New(breaker.Config{MinRequests: 1 << 30})
	require.NoError(t, err)
	versions, err := versioning.New(versioning.Config{
		Versions: []versioning.Version{{Name: "1"}, {Name: "2"}}, Default: versioning.Current,
		Sources: []versioning.Source{versioning.Path("/v")},
	})
	require.NoError(t, err)
	converting, err := versioning.New(versioning.Config{
		Versions: []versioning.Version{{Name: "1"}, {Name: "2"}}, Default: versioning.Oldest,
		Sources: []versioning.Source{versioning.Header("Version")},
		Changes: []versioning.Change{{
			Version: "2", Name: "field", Response: func(r *versioning.Response) error { return nil },
		}},
	})
	require.NoError(t, err)
	rollout, err := versioning.NewRollout(versioning.RolloutConfig{
		Name: "shop", Release: "2", TagField: "Cache-Tag", Missing: versioning.MissingStable,
		Steps: []versioning.Step{{Weight: 1}},
		Key:   func(*http.Request) (string, bool) { return "all", true },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = rollout.Close(context.Background()) })
	shadow, err := versioning.NewShadow(versioning.ShadowConfig{
		Name: "shop", Candidate: http.NotFoundHandler(), Credentials: versioning.CredentialsStrip, Learn: -1,
		Methods: []string{"POST"}, MaxBody: 1 << 20,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = shadow.Close(context.Background()) })
	all := []wrapper{
		{"telemetry", tel.Middleware},
		{"concurrency", concurrency.Middleware},
		{"limiter", limiter.Middleware},
		{"deadline", deadline.Middleware},
		{"breaker", br.Middleware},
		{"versions", versions.Middleware},
		{"conversion", converting.Middleware},
		{"reporter", balancer.Reporter},
		{"rollout", func(h http.Handler) http.Handler { return rollout.Handler(h, h) }},
		{"shadow", shadow.Middleware},
	}
	row := wrapper{"all of them", func(h http.Handler) http.Handler {
		for _, w := range all {
			h = w.wrap(h)
		}
		return h
	}}
	return append(all, row)
}

// said returns what a call came to: net/http's own writers lack a method that ours have and that
// returns http.ErrNotSupported.
func said(has bool, call func() error) string {
	if !has {
		return "not supported"
	}
	switch err := call(); {
	case err == nil:
		return "done"
	case errors.Is(err, http.ErrNotSupported):
		return "not supported"
	default:
		return err.Error()
	}
}

type closeNotifier interface{ CloseNotify() <-chan bool } // http.CloseNotifier is deprecated

// calls are what handlers do with a ResponseWriter; each writes what it came to.
var calls = map[string]http.HandlerFunc{
	"CloseNotify, as gin's streams": func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-w.(closeNotifier).CloseNotify():
		default:
			fmt.Fprint(w, "still there")
		}
	},
	"Push": func(w http.ResponseWriter, r *http.Request) {
		p, ok := w.(http.Pusher)
		fmt.Fprint(w, said(ok, func() error { return p.Push("/x", nil) }))
	},
	"deadlines": func(w http.ResponseWriter, r *http.Request) {
		type deadlines interface {
			SetReadDeadline(time.Time) error
			SetWriteDeadline(time.Time) error
		}
		d, ok := w.(deadlines)
		at := time.Now().Add(time.Hour)
		fmt.Fprintln(w, said(ok, func() error { return d.SetReadDeadline(at) }))
		fmt.Fprintln(w, said(ok, func() error { return d.SetWriteDeadline(at) }))
		fmt.Fprintln(w, said(true, func() error { return http.NewResponseController(w).SetReadDeadline(at) }))
	},
	"full duplex": func(w http.ResponseWriter, r *http.Request) {
		d, ok := w.(interface{ EnableFullDuplex() error })
		fmt.Fprint(w, said(ok, func() error { return d.EnableFullDuplex() }))
	},
	"ReadFrom": func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", 9000)), 9000))
		fmt.Fprint(w, n, err)
	},
	"flush": func(w http.ResponseWriter, r *http.Request) {
		f, ok := w.(http.Flusher)
		fmt.Fprint(w, said(ok, func() error { f.Flush(); return nil }))
	},
	"hijack": func(w http.ResponseWriter, r *http.Request) {
		h, ok := w.(http.Hijacker)
		result := said(ok, func() error {
			conn, rw, err := h.Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			fmt.Fprint(rw, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\nhijacked")
			return rw.Flush()
		})
		fmt.Fprint(w, result) // goes nowhere after a hijack
	},
	"a second header": func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		w.WriteHeader(http.StatusTeapot)
	},
	"early hints": func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "nothing")
	},
}

// startServer starts a server of h whose log is the returned text.
func startServer(t *testing.T, h2 bool, h http.Handler) (s *httptest.Server, logged func() string) {
	t.Helper()
	var mu sync.Mutex
	var lines strings.Builder
	s = httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return lines.Write(p)
	}), "", 0)
	if s.EnableHTTP2 = h2; h2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, func() string {
		mu.Lock()
		defer mu.Unlock()
		return lines.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestO17_WritersDoWhatNetHTTPsDo: each call, over each version of HTTP, does what it does without
// a middleware.
func TestO17_WritersDoWhatNetHTTPsDo(t *testing.T) {
	do := func(h2 bool, h http.Handler) string {
		s, _ := startServer(t, h2, h)
		resp, err := s.Client().Get(s.URL + "/v1/x")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %q %v", resp.StatusCode, body, err)
	}
	for name, call := range calls {
		for _, h2 := range []bool{false, true} {
			want := do(h2, call)
			for _, w := range wrappers(t) {
				require.Equal(t, want, do(h2, w.wrap(call)), "%s within %s, HTTP/2: %t", name, w.name, h2)
			}
		}
	}
}

// TestO17_CloseNotifyTellsOfClientsWhoLeave, as without a middleware.
func TestO17_CloseNotifyTellsOfClientsWhoLeave(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, w := range wrappers(t) {
			told := make(chan bool)
			begun := make(chan struct{})
			s, _ := startServer(t, h2, w.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				gone := w.(closeNotifier).CloseNotify()
				close(begun)
				told <- <-gone
			})))
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-begun
				cancel()
			}()
			req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/x", nil)
			require.NoError(t, err)
			_, err = s.Client().Do(req)
			require.Error(t, err)
			require.True(t, <-told, w.name)
		}
	}
}

// TestO09_ASecondHeaderIsToldWithTheHandlersLine, once, whatever is around the handler. Where
// answers are converted, what the handler sends is not what the server sends, and nothing is told.
func TestO09_ASecondHeaderIsToldWithTheHandlersLine(t *testing.T) {
	for _, w := range wrappers(t) {
		if w.name == "conversion" {
			continue
		}
		s, logged := startServer(t, false, w.wrap(calls["a second header"]))
		resp, err := s.Client().Get(s.URL + "/v1/x")
		require.NoError(t, err)
		resp.Body.Close()
		s.Close()
		require.Equal(t, 1, strings.Count(logged(), "superfluous response.WriteHeader call from "), w.name)
		require.Contains(t, logged(), "(writers_test.go:", w.name)
	}
}

// TestO18_TooLargeIsAnsweredAtOnce: http.MaxBytesReader has the connection closed, and its answer
// does not wait for the rest of the upload.
func TestO18_TooLargeIsAnsweredAtOnce(t *testing.T) {
	tooLarge := func(status int, own bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := http.MaxBytesReader(w, r.Body, 10)
			if own {
				r.Body = body // where a middleware can see it
			}
			var limit *http.MaxBytesError
			if _, err := io.ReadAll(body); errors.As(err, &limit) {
				w.WriteHeader(status)
				fmt.Fprint(w, "no")
			}
		})
	}
	bare := wrapper{"nothing", func(h http.Handler) http.Handler { return h }}
	for name, h := range map[string]http.Handler{
		"413":             tooLarge(http.StatusRequestEntityTooLarge, false),
		"400 of the body": tooLarge(http.StatusBadRequest, true),
		"200 of the body": tooLarge(http.StatusOK, true),
	} {
		for _, w := range append(wrappers(t), bare) {
			s, _ := startServer(t, false, w.wrap(h))
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			require.NoError(t, err)
			_, err = fmt.Fprintf(conn, "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s",
				strings.Repeat("x", 5000)) // and no more
			require.NoError(t, err)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err, "%s within %s", name, w.name)
			require.True(t, resp.Close, "%s within %s", name, w.name)
			conn.Close()

			// What is not too large keeps its connection.
			resp, err = s.Client().Post(s.URL+"/v1/x", "text/plain", strings.NewReader("short"))
			require.NoError(t, err)
			resp.Body.Close()
			require.False(t, resp.Close, "%s within %s", name, w.name)
		}
	}
}

// frameworks returns the same service written with each of the usual routers: /stream streams three
// events, /items/7 answers its id, /json an object, and /missing is not there.
func frameworks() map[string]http.Handler {
	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	g.GET("/items/:id", func(c *gin.Context) { c.String(http.StatusOK, "item %s", c.Param("id")) })
	g.GET("/json", func(c *gin.Context) { c.JSON(http.StatusCreated, gin.H{"a": 1}) })
	g.GET("/stream", func(c *gin.Context) {
		n := 0
		c.Stream(func(w io.Writer) bool {
			n++
			fmt.Fprintf(w, "data: %d\n\n", n)
			return n < 3
		})
	})

	stream := func(w http.ResponseWriter) {
		for n := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", n+1)
			w.(http.Flusher).Flush()
		}
	}
	object := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"a":1}`)
	}
	c := chi.NewRouter()
	c.Use(chimiddleware.RequestID, chimiddleware.Compress(5), telemetry.Route)
	c.Get("/items/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "item %s", chi.URLParam(r, "id"))
	})
	c.Get("/json", func(w http.ResponseWriter, r *http.Request) { object(w) })
	c.Get("/stream", func(w http.ResponseWriter, r *http.Request) { stream(w) })

	m := mux.NewRouter()
	m.HandleFunc("/items/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "item %s", mux.Vars(r)["id"])
	})
	m.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) { object(w) })
	m.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) { stream(w) })

	e := echo.New()
	e.GET("/items/:id", func(c echo.Context) error { return c.String(http.StatusOK, "item "+c.Param("id")) })
	e.GET("/json", func(c echo.Context) error { return c.JSON(http.StatusCreated, map[string]int{"a": 1}) })
	e.GET("/stream", func(c echo.Context) error {
		for n := range 3 {
			fmt.Fprintf(c.Response(), "data: %d\n\n", n+1)
			c.Response().Flush()
		}
		return nil
	})
	return map[string]http.Handler{"gin": g, "chi": c, "gorilla": m, "echo": e}
}

// TestO17_RoutersOfOthers: services written with gin, chi, gorilla/mux and echo answer within our
// middlewares what they answer without.
func TestO17_RoutersOfOthers(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{TracerProvider: noop.NewTracerProvider()})
	require.NoError(t, err)
	all := wrappers(t)
	row := all[len(all)-1]
	for name, service := range frameworks() {
		for _, h2 := range []bool{false, true} {
			answers := func(h http.Handler) (all []string) {
				s, logged := startServer(t, h2, h)
				for _, path := range []string{"/items/7", "/json", "/stream", "/missing"} {
					resp, err := s.Client().Get(s.URL + path)
					require.NoError(t, err, "%s %s", name, path)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err, "%s %s", name, path)
					resp.Body.Close()
					all = append(all, fmt.Sprintf("%s: %d %s %q", path, resp.StatusCode,
						resp.Header.Get("Content-Type"), strings.TrimSpace(string(body))))
				}
				require.Empty(t, logged(), name)
				return all
			}
			want := answers(service)
			require.Contains(t, want[2], `data: 1\n\ndata: 2\n\ndata: 3`)
			require.Equal(t, want, answers(row.wrap(service)), name)
			require.Equal(t, want, answers(tel.Middleware(service)), name)
		}
	}
}
