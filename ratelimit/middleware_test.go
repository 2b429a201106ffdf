package ratelimit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/ratelimit"
)

// protocols are those that handlers are tried over.
var protocols = []backend.Protocol{backend.HTTP1, backend.HTTP2}

// eachProtocol runs f with a real server of h over each protocol.
func eachProtocol(t *testing.T, h func() http.Handler, f func(t *testing.T, url string, c *http.Client)) {
	for _, p := range protocols {
		t.Run("protocol="+string(p), func(t *testing.T) {
			b := backend.Start(t, backend.Config{Protocol: p, Handler: h()})
			transport := backend.Transport(p)
			defer transport.CloseIdleConnections()
			f(t, b.URL.String(), &http.Client{Transport: transport})
		})
	}
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(body)
}

func TestMiddlewareOverRealServers(t *testing.T) {
	eachProtocol(t, func() http.Handler {
		p := policyOf("day", ratelimit.PerDay(1).WithBurst(3))
		p.Key = ratelimit.ByPeer
		return limiterOf(t, p).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "hello")
		}))
	}, func(t *testing.T, url string, c *http.Client) {
		for i := range 3 {
			resp, body := get(t, c, url)
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, "hello", body)
			require.Equal(t, `"day";q=1;w=86400`, resp.Header.Get("RateLimit-Policy"))
			require.Equal(
				t, fmt.Sprintf(`"day";r=%d;t=%d`, 2-i, max(2-i, 1)*86400), resp.Header.Get("RateLimit"),
			)
			require.Empty(t, resp.Header.Get("Retry-After"))
		}
		resp, body := get(t, c, url)
		require.Equal(t, 429, resp.StatusCode)
		require.Equal(t, "86400", resp.Header.Get("Retry-After"))
		require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		require.JSONEq(t, `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded",
			"title":"Request quota exceeded","status":429,"violated-policies":["day"]}`, body)
	})
}

// An endlessBody notes whether it was read.
type endlessBody struct{ read atomic.Int64 }

func (b *endlessBody) Read(p []byte) (int, error) {
	b.read.Add(int64(len(p)))
	return len(p), nil
}

// TestR24_RefusesBeforeTheBody: ten gigabytes announced, and a client that waits for 100 Continue
// sends none of them.
func TestR24_RefusesBeforeTheBody(t *testing.T) {
	reached := new(atomic.Int64)
	handler := func() http.Handler {
		return limiterOf(t, policyOf("p", ratelimit.PerDay(1))).Middleware(
			http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	}
	eachProtocol(t, handler, func(t *testing.T, url string, c *http.Client) {
		reached.Store(0)
		get(t, c, url)
		for _, expect := range []bool{false, true} {
			body := new(endlessBody)
			r, err := http.NewRequest("POST", url, body)
			require.NoError(t, err)
			r.ContentLength = 10 << 30
			if expect {
				r.Header.Set("Expect", "100-continue")
			}
			resp, err := c.Do(r)
			// a client that writes on may find the connection reset before it reads the answer
			if err == nil {
				require.Equal(t, 429, resp.StatusCode)
				resp.Body.Close()
			}
			require.Less(t, body.read.Load(), int64(64<<20))
		}
		require.EqualValues(t, 1, reached.Load())
		resp, _ := get(t, c, url)
		require.Equal(t, 429, resp.StatusCode, "the client goes on, be it on another connection")
	})

	// Over HTTP/1.1 no 100 is sent, and the answer comes at once.
	b := backend.Start(t, backend.Config{Handler: handler()})
	conn, err := net.Dial("tcp", b.URL.Host)
	require.NoError(t, err)
	defer conn.Close()
	in := bufio.NewReader(conn)
	for i := range 2 {
		fmt.Fprintf(
			conn, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n",
			[]int64{0, 1 << 34}[i],
		)
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, []int{200, 429}[i], resp.StatusCode)
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, i == 1, resp.Close, "what follows on the connection would be the body")
	}
}

// TestR25_ChargedOnce: what is known afterwards is added once for each call, saturating, and never
// given back, whatever becomes of the handler.
func TestR25_ChargedOnce(t *testing.T) {
	requests := policyOf("requests", ratelimit.PerDay(100).WithBurst(100))
	units := policyOf("bytes", ratelimit.PerDay(1000).WithBurst(1000))
	l := newLimiter(t, ratelimit.Config{Policies: []ratelimit.Policy{requests, units}, PassDecision: true})
	left := func() (int64, int64) {
		w := httptest.NewRecorder()
		l.Middleware(nothing).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		_, p := items(t, w.Header()["Ratelimit"])
		return p[0]["r"], p[1]["r"]
	}
	charge := func(cost int64, policies ...string) (err error) {
		defer func() { require.Equal(t, http.ErrAbortHandler, recover()) }()
		l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, ok := ratelimit.FromContext(r.Context())
			require.True(t, ok)
			err = d.Charge(r.Context(), cost, policies...)
			panic(http.ErrAbortHandler)
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		return err
	}
	require.NoError(t, charge(200, "bytes"))
	r, b := left()
	require.EqualValues(t, 98, r)
	require.EqualValues(t, 1000-200-2, b)
	require.EqualError(t, charge(-200), "ratelimit: Charge: -200 is negative")
	require.EqualError(t, charge(1, "byte"), `ratelimit: Charge: there is no policy "byte"`)
	require.NoError(t, charge(0))
	r, b = left()
	require.EqualValues(t, 94, r)
	require.EqualValues(t, 1000-200-6, b)
	require.NoError(t, charge(10))
	r, b = left()
	require.EqualValues(t, 94-10-2, r)
	require.EqualValues(t, 794-10-2, b)
	require.NoError(t, charge(math.MaxInt64, "bytes"))
	d, err := l.TakeKeys(t.Context(), []string{"all", "all"})
	require.NoError(t, err)
	require.Equal(t, []string{"bytes"}, d.Violated())
	require.NoError(t, d.Charge(t.Context(), 1000), "a refused request is charged nothing")
	require.EqualValues(t, 94-10-2-1, d.Claims()[0].Remaining)

	_, ok := ratelimit.FromContext(t.Context())
	require.False(t, ok)
	require.NoError(t, new(ratelimit.Decision).Charge(t.Context(), 1))
}

// TestR27_OrderInAChain: a limit outside a cache counts its hits, one inside does not; and one
// inside retry counts repeats.
func TestR27_OrderInAChain(t *testing.T) {
	stored := map[string]string{}
	cache := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if body, ok := stored[r.URL.Path]; ok {
				fmt.Fprint(w, body)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			if rec.Code == 200 {
				stored[r.URL.Path] = rec.Body.String()
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		})
	}
	byAddress := limiterOf(t, policyOf("address", ratelimit.PerDay(1).WithBurst(5)))
	byUser := limiterOf(t, policyOf("user", ratelimit.PerDay(1).WithBurst(2)))
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	h := byAddress.Middleware(cache(byUser.Middleware(echo)))
	status := func(path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code
	}
	for i := range 4 {
		require.Equal(t, 200, status("/a"), i)
	}
	require.EqualValues(t, 4, byAddress.Stats().Admitted, "hits count outside")
	require.EqualValues(t, 1, byUser.Stats().Admitted, "and not inside")
	require.Equal(t, 200, status("/b"))
	require.Equal(t, 429, status("/b"))
}

// TestR29_EachStreamCounts: many requests of one HTTP/2 connection.
func TestR29_EachStreamCounts(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP2, backend.H2C} {
		policy := policyOf("p", ratelimit.PerDay(1).WithBurst(10))
		policy.Key = ratelimit.ByPeer
		l := limiterOf(t, policy)
		conns := sync.Map{}
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conns.Store(r.RemoteAddr, true)
			l.Middleware(nothing).ServeHTTP(w, r)
		})
		b := backend.Start(t, backend.Config{Protocol: p, Handler: handler})
		transport := backend.Transport(p)
		c := &http.Client{Transport: transport}
		get(t, c, b.URL.String()) // one connection
		var wg sync.WaitGroup
		var refused atomic.Int64
		for range 50 {
			wg.Go(func() {
				resp, err := c.Get(b.URL.String())
				if err != nil {
					t.Error(err)
					return
				}
				if resp.StatusCode == 429 {
					refused.Add(1)
				}
				resp.Body.Close()
			})
		}
		wg.Wait()
		transport.CloseIdleConnections()
		n := 0
		conns.Range(func(any, any) bool { n++; return true })
		require.Equal(t, 1, n, "connections")
		require.EqualValues(t, 41, refused.Load())
		require.EqualValues(t, 10, l.Stats().Admitted)
	}
}

// TestR30_EveryMethodCounts: and whatever the handler makes of it.
func TestR30_EveryMethodCounts(t *testing.T) {
	p := policyOf("p", ratelimit.PerDay(1).WithBurst(8))
	p.Key = ratelimit.ByPeer
	mux := http.NewServeMux()
	mux.HandleFunc("GET /a", func(http.ResponseWriter, *http.Request) {})
	l := limiterOf(t, p)
	h := l.Middleware(mux)
	for i, r := range []string{
		"OPTIONS *", "HEAD /a", "GET /nowhere", "BREW /a", "OPTIONS /a", "POST /a", "TRACE /a", "GET /a",
		"GET /a", "OPTIONS /a", "BREW /a",
	} {
		method, target, _ := strings.Cut(r, " ")
		w := httptest.NewRecorder()
		req := httptest.NewRequest(method, target, nil)
		req.Header.Set("Origin", "https://example.org")
		req.Header.Set("Access-Control-Request-Method", "GET")
		h.ServeHTTP(w, req)
		require.Equal(t, i >= 8, w.Code == 429, "%s: %d", r, w.Code)
	}
	free := policyOf("p", ratelimit.PerDay(1))
	free.Cost = func(r *http.Request) int64 {
		if r.Method == "OPTIONS" {
			return 0
		}
		return 1
	}
	h = limiterOf(t, free).Middleware(nothing)
	for _, method := range []string{"OPTIONS", "GET", "OPTIONS"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		require.Equal(t, 200, w.Code, "unless configured")
	}
}

func TestMiddlewareAnswers(t *testing.T) {
	boom := errors.New("boom")
	reject := policyOf("key", ratelimit.PerDay(10))
	reject.Key = ratelimit.ByHeader("X-Key")
	closed := policyOf("closed", ratelimit.PerDay(10))
	closed.OnError = ratelimit.FailClosed
	bad := policyOf("bad", ratelimit.PerDay(10))
	bad.Cost = func(*http.Request) int64 { return -1 }
	bad.RateFor = func(*http.Request) ratelimit.Rate { return ratelimit.Rate{Limit: -1, Window: -1} }
	for _, tt := range []struct {
		name   string
		cfg    ratelimit.Config
		status int
		body   string
		is     error
	}{
		{
			"no key", ratelimit.Config{Policies: []ratelimit.Policy{reject}}, 400,
			`{"status":400,"title":"Bad Request"}`, ratelimit.ErrNoKey,
		},
		{"closed", ratelimit.Config{
			Policies: []ratelimit.Policy{closed}, Store: &brokenStore{err: boom},
		}, 503,
			`{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",` +
				`"title":"Temporarily reduced capacity","status":503,"violated-policies":["closed"]}`,
			ratelimit.ErrUnavailable},
		{
			"bad", ratelimit.Config{Policies: []ratelimit.Policy{bad}}, 500,
			`{"status":500,"title":"Internal Server Error"}`, nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			newLimiter(t, tt.cfg).Middleware(nothing).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			require.Equal(t, tt.status, w.Code)
			require.JSONEq(t, tt.body, w.Body.String())
			if tt.status == 503 {
				require.Equal(t, "1", w.Header().Get("Retry-After"))
			}
			var got error
			tt.cfg.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
				got = err
				w.WriteHeader(418)
			}
			l := newLimiter(t, tt.cfg)
			w = httptest.NewRecorder()
			l.Middleware(nothing).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			require.Equal(t, 418, w.Code)
			if tt.is != nil {
				require.ErrorIs(t, got, tt.is)
				require.NotErrorIs(t, got, ratelimit.ErrLimited)
			} else {
				require.ErrorContains(t, got, "ratelimit: Config.Policies[0].Cost: returned -1")
				require.ErrorContains(
					t, got, "ratelimit: Config.Policies[0].RateFor.Limit: -1 is less than 1",
				)
				require.EqualValues(t, 1, l.Stats().Errors)
			}
		})
	}
	require.PanicsWithValue(t, "ratelimit: nil handler", func() {
		limiterOf(t, policyOf("p", ratelimit.PerDay(1))).Middleware(nil)
	})
}

// TestMiddlewarePassesThrough: it wraps no writer, so nothing of it is lost, over both protocols.
func TestMiddlewarePassesThrough(t *testing.T) {
	aborted := make(chan struct{}, 1)
	eachProtocol(t, func() http.Handler {
		l := limiterOf(t, policyOf("p", ratelimit.PerSecond(1000)))
		return l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/stream":
				w.Header().Set("Trailer", "X-End")
				for range 3 {
					fmt.Fprint(w, "x")
					if err := http.NewResponseController(w).Flush(); err != nil {
						t.Error(err)
					}
				}
				w.Header().Set("X-End", "yes")
			case "/hints":
				w.Header().Set("Link", "</style.css>; rel=preload")
				w.WriteHeader(103)
				w.WriteHeader(200)
			case "/abort":
				fmt.Fprint(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case "/gone":
				<-r.Context().Done()
				aborted <- struct{}{}
			}
		}))
	}, func(t *testing.T, url string, c *http.Client) {
		resp, body := get(t, c, url+"/stream")
		require.Equal(t, "xxx", body)
		require.Equal(t, "yes", resp.Trailer.Get("X-End"))
		require.NotEmpty(t, resp.Header.Get("RateLimit"))
		resp, _ = get(t, c, url+"/hints")
		require.Equal(t, 200, resp.StatusCode)
		resp, err := c.Get(url + "/abort")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		require.Error(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "GET", url+"/gone", nil)
		require.NoError(t, err)
		_, err = c.Do(r)
		require.Error(t, err)
		<-aborted
	})
}
