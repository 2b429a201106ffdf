package balancer_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A front is a server with a [balancer.Balancer.Handler].
type front struct {
	*httptest.Server
	b      *balancer.Balancer
	client *http.Client
}

// newFront returns a front that speaks HTTP/1.1, or HTTP/2 too if h2 is true, with b's Handler to
// the target "app.test", around which wrap (nil for nothing) is.
func newFront(
	t *testing.T, h2 bool, b *balancer.Balancer, cfg balancer.HandlerConfig,
	wrap func(http.Handler) http.Handler,
) *front {
	t.Helper()
	return newFrontTo(t, h2, b, &url.URL{Scheme: "http", Host: "app.test"}, cfg, wrap)
}

func newFrontTo(
	t *testing.T, h2 bool, b *balancer.Balancer, target *url.URL, cfg balancer.HandlerConfig,
	wrap func(http.Handler) http.Handler,
) *front {
	t.Helper()
	h, err := b.Handler(target, cfg)
	require.NoError(t, err)
	if wrap != nil {
		h = wrap(h)
	}
	f := &front{Server: httptest.NewUnstartedServer(h), b: b}
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	if h2 {
		f.EnableHTTP2 = true
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	f.client = f.Client()
	f.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return f
}

// serving returns the configuration of an upstream that answers with h.
func serving(h http.HandlerFunc) backend.Config { return backend.Config{Handler: h} }

// overProtocols runs test with every pair of protocols before and behind the Handler.
func overProtocols(t *testing.T, h http.Handler, test func(t *testing.T, f *front)) {
	for _, h2 := range []bool{false, true} {
		for _, up := range []backend.Protocol{backend.HTTP1, backend.HTTP2, backend.H2C} {
			t.Run(fmt.Sprintf("h2=%v/upstream=%s", h2, up), func(t *testing.T) {
				be := backend.Start(t, backend.Config{Protocol: up, Handler: h})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(be.Addr), Transport: backend.Transport(up),
				})
				target := &url.URL{Scheme: be.URL.Scheme, Host: "app.test"}
				test(t, newFrontTo(t, h2, b, target, balancer.HandlerConfig{}, nil))
			})
		}
	}
}

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

func TestHandlerPassesRequestsOn(t *testing.T) {
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.Host, r.URL, r.Header.Get("X-Forwarded-For"), body)
	}), func(t *testing.T, f *front) {
		req, err := http.NewRequest("PATCH", f.URL+"/x%2fy/a/../z?q=1&q=2", strings.NewReader("payload"))
		require.NoError(t, err)
		req.Host = "public.example"
		req.Header.Set("X-Forwarded-For", "6.6.6.6")
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		require.Equal(t, "PATCH public.example /x%2fy/z?q=1&q=2 127.0.0.1 payload", readAll(t, resp))
	})
	t.Run("behind the target's path", func(t *testing.T) {
		be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Host, " ", r.URL)
		}))
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
		target := &url.URL{Scheme: "http", Host: "app.test", Path: "/base", RawQuery: "k=v"}
		f := newFrontTo(t, false, b, target, balancer.HandlerConfig{TargetHost: true}, nil)
		resp, err := f.client.Get(f.URL + "/x?y=1")
		require.NoError(t, err)
		require.Equal(t, "app.test /base/x?k=v&y=1", readAll(t, resp))
	})
}

func TestHandlerPassesTrailersOfRequestsOn(t *testing.T) {
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprint(w, string(body), err, r.Trailer, r.Header["Te"])
	}), func(t *testing.T, f *front) {
		for _, length := range []int64{-1, 2} {
			req, err := http.NewRequest(http.MethodPost, f.URL, io.MultiReader(strings.NewReader("hi")))
			require.NoError(t, err)
			if f.EnableHTTP2 {
				req.ContentLength = length
			}
			req.Trailer = http.Header{"Sum": {"42"}}
			req.Header.Set("Te", "trailers")
			resp, err := f.client.Do(req)
			require.NoError(t, err)
			require.Equal(t, "hi<nil> map[Sum:[42]] [trailers]", readAll(t, resp))
		}
	})
	t.Run("unless they were not announced", func(t *testing.T) {
		be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, r.Trailer)
		}))
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		answer := exchange(t, f.Listener.Addr().String(),
			"POST / HTTP/1.1\r\nHost: a\r\nTrailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"+
				"0\r\nSum: 42\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
		require.Contains(t, answer, "map[Sum:[42]]")
	})
}

func TestHandlerStreams(t *testing.T) {
	read := make(chan struct{})
	gone := make(chan time.Time, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-read: // the next is not written before this one has been read
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/known", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		for range 2 {
			_, _ = io.WriteString(w, "tick\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-read:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("Sum", "42")
		w.Header().Set(http.TrailerPrefix+"Unannounced", "43")
	})
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begin")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- time.Now()
	})
	mux.HandleFunc("/empty", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"1"`)
		w.WriteHeader(http.StatusNotModified)
	})
	mux.HandleFunc("/size", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		if r.Method != http.MethodHead {
			_, _ = w.Write(make([]byte, 1_000_000))
		}
	})
	overProtocols(t, mux, func(t *testing.T, f *front) {
		t.Run("events arrive as they are written", func(t *testing.T) {
			resp, err := f.client.Get(f.URL + "/events")
			require.NoError(t, err)
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				line, err := lines.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
				_, _ = lines.ReadString('\n')
				read <- struct{}{}
			}
		})
		t.Run("so does what has a length and no such type", func(t *testing.T) {
			resp, err := f.client.Get(f.URL + "/known")
			require.NoError(t, err)
			defer resp.Body.Close()
			for range 2 {
				line := make([]byte, 5)
				_, err := io.ReadFull(resp.Body, line)
				require.NoError(t, err)
				require.Equal(t, "tick\n", string(line))
				read <- struct{}{}
			}
		})
		t.Run("early hints, body and trailers", func(t *testing.T) {
			var hints []string
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					hints = append(hints, fmt.Sprint(code, h.Get("Link")))
					return nil
				},
			})
			req, err := http.NewRequestWithContext(ctx, "POST", f.URL+"/hints",
				io.MultiReader(strings.NewReader("chunked")))
			require.NoError(t, err)
			resp, err := f.client.Do(req)
			require.NoError(t, err)
			require.Equal(t, "chunked", readAll(t, resp))
			require.Equal(t, []string{"103</a.css>"}, hints)
			require.Equal(t, "42", resp.Trailer.Get("Sum"))
			require.Equal(t, "43", resp.Trailer.Get("Unannounced"))
		})
		t.Run("no body", func(t *testing.T) {
			resp, err := f.client.Get(f.URL + "/empty")
			require.NoError(t, err)
			require.Equal(t, 304, resp.StatusCode)
			require.Equal(t, `"1"`, resp.Header.Get("Etag"))
			require.Empty(t, readAll(t, resp))
			resp, err = f.client.Head(f.URL + "/size")
			require.NoError(t, err)
			require.Equal(t, int64(1_000_000), resp.ContentLength)
			require.Empty(t, readAll(t, resp))
			resp, err = f.client.Get(f.URL + "/size")
			require.NoError(t, err)
			require.Len(t, readAll(t, resp), 1_000_000)
		})
		t.Run("L25", func(t *testing.T) { checkL25(t, f) })
		t.Run("L33", func(t *testing.T) { checkL33(t, f, gone) })
	})
}

// A response that breaks off upstream breaks off here: the client must not take half of it for the
// whole.
func checkL25(t *testing.T, f *front) {
	t.Helper()
	before := f.b.Stats().Failures
	resp, err := f.client.Get(f.URL + "/abort")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.Error(t, err)
	require.Equal(t, "half", string(body))
	require.Equal(t, before+1, f.b.Stats().Failures)
}

// Whatever a client does, the upstream request ends with it.
func checkL33(t *testing.T, f *front, gone <-chan time.Time) {
	t.Helper()
	before := f.b.Stats()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/wait", nil)
	require.NoError(t, err)
	resp, err := f.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 5))
	require.NoError(t, err)
	left := time.Now()
	cancel()
	require.Less(t, (<-gone).Sub(left), 100*time.Millisecond)
	require.Eventually(t, func() bool { return f.b.Stats().InFlight == 0 }, time.Minute, time.Millisecond)
	after := f.b.Stats()
	require.Equal(t, before.Failures, after.Failures, "that is nobody's failure")
	require.Zero(t, after.Ejections)
}

func TestL25_CutResponsesAreCut(t *testing.T) {
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/abort") {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}), checkL25)
}

func TestL33_ClientsThatLeaveTakeTheirRequestsAlong(t *testing.T) {
	gone, arrived := make(chan time.Time, 1), make(chan struct{}, 1)
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/header" {
			arrived <- struct{}{}
		} else {
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		gone <- time.Now()
	}), func(t *testing.T, f *front) {
		checkL33(t, f, gone)
		// The same before the header.
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/header", nil)
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := f.client.Do(req)
			done <- err
		}()
		<-arrived
		left := time.Now()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Less(t, (<-gone).Sub(left), 100*time.Millisecond)
		require.Zero(t, f.b.Stats().Failures)
	})
}

// Early answers to long uploads: the response is written while the request is still being read.
func TestL26_AnswersBeforeTheBodyHasEnded(t *testing.T) {
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // an error means that it is so anyway
		w.Header().Set("Early", "yes")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	}), func(t *testing.T, f *front) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 3 {
					body := io.MultiReader(bytes.NewReader(make([]byte, 300_000)))
					req, err := http.NewRequest("POST", f.URL, body)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := f.client.Do(req)
					if err != nil {
						continue // HTTP/1.1 servers may close what they have answered
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
		require.NotZero(t, f.b.Stats().Requests)
		require.Eventually(t, func() bool { return f.b.Stats().InFlight == 0 }, time.Minute,
			time.Millisecond)
	})
}

func TestHandlerLeavesContentAlone(t *testing.T) {
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Asked", strings.Join(r.Header["Accept-Encoding"], "|"))
		w.Header().Set("Agent", strings.Join(r.Header["User-Agent"], "|"))
		w.Header().Set("Etag", `"1"`)
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("not even gzip"))
		} else {
			_, _ = w.Write([]byte("plain"))
		}
	}), func(t *testing.T, f *front) {
		f.client.Transport.(*http.Transport).DisableCompression = true
		get := func(encoding string) *http.Response {
			req, err := http.NewRequest("GET", f.URL, nil)
			require.NoError(t, err)
			req.Header["User-Agent"] = nil
			if encoding != "" {
				req.Header.Set("Accept-Encoding", encoding)
			}
			resp, err := f.client.Do(req)
			require.NoError(t, err)
			return resp
		}
		resp := get("")
		require.Equal(t, "plain", readAll(t, resp))
		require.NotContains(t, resp.Header.Get("Asked"), "gzip", "the transport asks for nothing by itself")
		require.Empty(t, resp.Header.Get("Agent"))
		resp = get("gzip")
		require.Equal(t, "not even gzip", readAll(t, resp), "and unpacks nothing")
		require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
	})
}

func TestHandlerKeepsOuterFields(t *testing.T) {
	be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("Vary", "Cookie")
	}))
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", "7")
			w.Header().Set("Vary", "Origin")
			next.ServeHTTP(w, r)
		})
	})
	resp, err := f.client.Get(f.URL)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "7", resp.Header.Get("X-Request-Id"),
		"what middleware around has set outlives informational responses")
	require.ElementsMatch(t, []string{"Origin", "Cookie"}, resp.Header["Vary"])
}

func TestHandlerLeavesTheRequestAlone(t *testing.T) {
	wrap := upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
		resp := answer(200)
		resp.Header.Set("Got", r.Header.Get("X-Forwarded-For"))
		return resp, nil
	}).wrap
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), Wrap: wrap})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	})
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "[::ffff:10.0.0.1]:5" // as listeners on both protocols say
	r.Header = http.Header{"Upgrade": {"h2c"}, "Connection": {"upgrade"}, "X-Forwarded-For": {"192.0.2.1"}}
	before := r.Header.Clone()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, before, r.Header)
	require.Contains(t, w.Header().Get("Got"), "192.0.2.1, ")
}

func TestHandlerDoesNotAnswerClientsThatHaveGone(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: mute{}})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	})
}

// A response that a transport has made may lack a header.
func TestModifyResponseHasAHeader(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	f := newFront(t, false, b, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200}, nil
			})
		},
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Set("X-A", "1")
			return nil
		},
	}, nil)
	resp, err := f.client.Get(f.URL)
	require.NoError(t, err)
	require.Equal(t, "1", resp.Header.Get("X-A"))
	require.Empty(t, readAll(t, resp))
}
