package ratelimit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/ratelimit"
)

func newConcurrency(t testing.TB, cfg ratelimit.ConcurrencyConfig) *ratelimit.Concurrency {
	t.Helper()
	if cfg.Key == nil {
		cfg.Key = constant
	}
	if cfg.Missing == "" {
		cfg.Missing = ratelimit.MissingReject
	}
	c, err := ratelimit.NewConcurrency(cfg)
	require.NoError(t, err)
	return c
}

func requireEmpty(t testing.TB, c *ratelimit.Concurrency) {
	t.Helper()
	require.Eventually(t, func() bool {
		s := c.Stats()
		return s.InFlight == 0 && s.Keys == 0
	}, time.Minute, time.Millisecond, "%+v", c.Stats())
}

func TestNewConcurrencyNamesEveryFault(t *testing.T) {
	_, err := ratelimit.NewConcurrency(ratelimit.ConcurrencyConfig{})
	for _, want := range []string{"Limit: 0 is less than 1", "Key: is required", "Missing: is required"} {
		require.ErrorContains(t, err, "ratelimit: ConcurrencyConfig."+want)
	}
}

func TestConcurrencyAcquire(t *testing.T) {
	c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 2})
	one, err := c.Acquire("a")
	require.NoError(t, err)
	two, err := c.Acquire("a")
	require.NoError(t, err)
	_, err = c.Acquire("a")
	require.ErrorIs(t, err, ratelimit.ErrBusy)
	other, err := c.Acquire("b")
	require.NoError(t, err, "keys have places of their own")
	one()
	one()
	one()
	require.Equal(t, ratelimit.ConcurrencyStats{Admitted: 3, Busy: 1, InFlight: 2, Keys: 2}, c.Stats())
	three, err := c.Acquire("a")
	require.NoError(t, err)
	_, err = c.Acquire("a")
	require.ErrorIs(t, err, ratelimit.ErrBusy, "a place is released once")
	two()
	three()
	other()
	requireEmpty(t, c)
}

// TestR31_ReleasedOnce: whatever becomes of the request, over real servers, the place is free
// again, and once only.
func TestR31_ReleasedOnce(t *testing.T) {
	for _, p := range protocols {
		t.Run("protocol="+string(p), func(t *testing.T) {
			c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 1})
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/panic":
					panic(http.ErrAbortHandler) // any other would only fill the log
				case "/abort":
					fmt.Fprint(w, "half")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				case "/wait":
					<-r.Context().Done()
				case "/stream":
					for range 3 {
						fmt.Fprint(w, "x")
						if err := http.NewResponseController(w).Flush(); err != nil {
							t.Error(err)
						}
					}
				}
			})
			b := backend.Start(t, backend.Config{Protocol: p, Handler: c.Middleware(handler)})
			transport := backend.Transport(p)
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			for range 20 {
				for _, path := range []string{"/", "/panic", "/abort", "/stream"} {
					resp, err := client.Get(b.URL.String() + path)
					if err == nil {
						require.Equal(t, 200, resp.StatusCode, path)
						_, _ = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
					requireEmpty(t, c)
				}
				ctx, cancel := context.WithCancel(t.Context())
				r, err := http.NewRequestWithContext(ctx, "GET", b.URL.String()+"/wait", nil)
				require.NoError(t, err)
				var wg sync.WaitGroup
				wg.Go(func() {
					if resp, err := client.Do(r); err == nil {
						resp.Body.Close()
					}
				})
				require.Eventually(
					t, func() bool { return c.Stats().InFlight == 1 }, time.Minute, time.Millisecond,
				)
				resp, body := get(t, client, b.URL.String()+"/")
				require.Equal(t, 429, resp.StatusCode, "the place is taken")
				require.JSONEq(t, `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded",`+
					`"title":"Too many requests in flight","status":429}`, body)
				cancel()
				wg.Wait()
				requireEmpty(t, c)
			}
			require.GreaterOrEqual(
				t, c.Stats().Admitted, uint64(100), "net/http repeats what fails on a used connection",
			)
			require.EqualValues(t, 20, c.Stats().Busy)
		})
	}
}

// TestR31_HijackedConnections hold their place until they are closed.
func TestR31_HijackedConnections(t *testing.T) {
	c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 1})
	var taken atomic.Pointer[net.Conn]
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		taken.Store(&conn)
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		switch r.URL.Path {
		case "/panic":
			defer conn.(interface{ NetConn() net.Conn }).NetConn().Close() // not told to us
			panic(http.ErrAbortHandler)
		case "/echo":
			_, _ = io.Copy(conn, rw)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			_ = conn.Close()
		case "/later": // another goroutine keeps it
		}
	})
	b := backend.Start(t, backend.Config{Handler: c.Middleware(handler)})
	dial := func(path string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", b.Addr)
		require.NoError(t, err)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", path)
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		return conn, in
	}
	busy := func() {
		t.Helper()
		resp, err := http.Get("http://" + b.Addr + "/echo")
		require.NoError(t, err)
		require.Equal(t, 429, resp.StatusCode)
		resp.Body.Close()
	}
	defer http.DefaultClient.CloseIdleConnections()
	for range 5 {
		conn, in := dial("/echo")
		busy()
		fmt.Fprint(conn, "hello\n")
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "hello\n", line)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		_, err = in.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		conn.Close()
		requireEmpty(t, c)

		conn, _ = dial("/later")
		busy()
		kept := *taken.Load()
		require.NoError(t, kept.Close())
		_ = kept.Close()
		conn.Close()
		requireEmpty(t, c)

		conn, _ = dial("/panic")
		conn.Close()
		requireEmpty(t, c)
	}

	// HTTP/2 cannot hand over its connection: nothing changes.
	handler = func(w http.ResponseWriter, r *http.Request) {
		_, _, err := http.NewResponseController(w).Hijack()
		fmt.Fprint(w, errors.Is(err, http.ErrNotSupported))
	}
	h2 := backend.Start(t, backend.Config{Protocol: backend.HTTP2, Handler: c.Middleware(handler)})
	transport := backend.Transport(backend.HTTP2)
	defer transport.CloseIdleConnections()
	_, body := get(t, &http.Client{Transport: transport}, h2.URL.String())
	require.Equal(t, "true", body)
	requireEmpty(t, c)
}

// A stuckConn cannot be closed without an error.
type stuckConn struct{ net.Conn }

func (stuckConn) Close() error { return errors.New("stuck") }

// A stuckWriter hands out a stuckConn.
type stuckWriter struct{ http.ResponseWriter }

func (w stuckWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return stuckConn{}, nil, nil }

// TestR31_ConnectionsThatCloseWithAnError: the place is given back all the same.
func TestR31_ConnectionsThatCloseWithAnError(t *testing.T) {
	c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 1})
	h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		require.Equal(t, 1, c.Stats().InFlight)
		require.EqualError(t, conn.Close(), "stuck")
	}))
	h.ServeHTTP(stuckWriter{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
	require.Zero(t, c.Stats().InFlight)
	require.Zero(t, c.Stats().Keys)
}

// serve returns the status of a request through c to h.
func serve(c *ratelimit.Concurrency, h http.Handler) int {
	w := httptest.NewRecorder()
	c.Middleware(h).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w.Code
}

// TestR31_PanicsOfCallbacks: those of the user's own too.
func TestR31_PanicsOfCallbacks(t *testing.T) {
	var outcomes []ratelimit.Outcome
	observe := func(_ context.Context, e ratelimit.ConcurrencyEvent) {
		outcomes = append(outcomes, e.Outcome)
		panic("observer")
	}
	c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 1, Observe: observe})
	for range 3 {
		require.PanicsWithValue(t, "observer", func() { serve(c, nothing) })
		requireEmpty(t, c)
	}
	require.Equal(t, []ratelimit.Outcome{"admitted", "admitted", "admitted"}, outcomes)
	require.PanicsWithValue(t, "ratelimit: nil handler", func() { c.Middleware(nil) })
}

func TestConcurrencyMissingKeys(t *testing.T) {
	none := func(*http.Request) (string, bool) { return "ignored", false }
	reject := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 1, Key: none})
	require.Equal(t, 400, serve(reject, nothing))
	require.EqualValues(t, 1, reject.Stats().NoKey)
	for missing, want := range map[ratelimit.Missing]int{
		ratelimit.MissingSkip: 200, ratelimit.MissingShared: 429,
	} {
		c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 1, Key: none, Missing: missing})
		inner := 0
		nested := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inner = serve(c, nothing) })
		require.Equal(t, 200, serve(c, nested))
		require.Equal(t, want, inner)
	}
}

func TestConcurrencyUnderLoad(t *testing.T) {
	c := newConcurrency(t, ratelimit.ConcurrencyConfig{Limit: 3})
	var now, most [8]atomic.Int64
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			k := g % 8
			for range 300 {
				release, err := c.Acquire(fmt.Sprint(k))
				if err != nil {
					continue
				}
				n := now[k].Add(1)
				for m := most[k].Load(); n > m && !most[k].CompareAndSwap(m, n); m = most[k].Load() {
				}
				now[k].Add(-1)
				release()
			}
		})
	}
	wg.Wait()
	for k := range most {
		require.LessOrEqual(t, most[k].Load(), int64(3))
	}
	requireEmpty(t, c)
}
