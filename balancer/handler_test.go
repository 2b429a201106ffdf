package balancer_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
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
	require.Eventually(t, func() bool { return f.b.Stats().InFlight == 0 }, 10*time.Second, time.Millisecond)
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
		require.Eventually(t, func() bool { return f.b.Stats().InFlight == 0 }, 10*time.Second,
			time.Millisecond)
	})
}

// echo answers with the header it got, as JSON.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Host", r.Host)
	_ = json.NewEncoder(w).Encode(r.Header)
})

// ask sends raw to f and returns the answer's status and what the echo upstream got.
func ask(t *testing.T, f *front, raw string) (int, http.Header) {
	t.Helper()
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, raw)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	var got http.Header
	_ = json.NewDecoder(resp.Body).Decode(&got)
	return resp.StatusCode, got
}

func TestHandlerForwardingFields(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: echo})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	claims := "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Host: bank.example\r\n" +
		"X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n"
	for name, tt := range map[string]struct {
		trust []netip.Prefix
		want  [3]string
	}{
		"nobody": {nil, [3]string{"127.0.0.1", "a.example", "http"}},
		"others": {[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			[3]string{"127.0.0.1", "a.example", "http"}},
		"this peer": {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			[3]string{"6.6.6.6, 7.7.7.7, 127.0.0.1", "bank.example", "https"}},
		"IPv6 peers": {[]netip.Prefix{netip.MustParsePrefix("::/0")},
			[3]string{"127.0.0.1", "a.example", "http"}},
	} {
		t.Run("trusted="+name, func(t *testing.T) {
			f := newFront(t, false, b, balancer.HandlerConfig{TrustedProxies: tt.trust}, nil)
			_, got := ask(t, f, "GET / HTTP/1.1\r\nHost: a.example\r\n"+claims+"\r\n")
			require.Equal(t, tt.want, [3]string{
				strings.Join(got["X-Forwarded-For"], "|"), strings.Join(got["X-Forwarded-Host"], "|"),
				strings.Join(got["X-Forwarded-Proto"], "|"),
			})
			require.Empty(t, got["Forwarded"])
			require.Equal(t, "a.example", got.Get("Host"))
			_, got = ask(t, f, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
			require.Equal(t, "127.0.0.1 a.example http", got.Get("X-Forwarded-For")+" "+
				got.Get("X-Forwarded-Host")+" "+got.Get("X-Forwarded-Proto"))
		})
	}
}

// proxied returns the header with which a Handler sends on a request of peer.
func proxied(t *testing.T, cfg balancer.HandlerConfig, peer string, header http.Header) http.Header {
	t.Helper()
	var got http.Header
	cfg.Transport = func(http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			got = r.Header
			return answer(200), nil
		})
	}
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, cfg)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "http://asked.test/", nil)
	r.RemoteAddr, r.Header = peer, header
	before := header.Clone()
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, before, header, "the request is the caller's")
	for _, name := range []string{"Accept-Encoding", "User-Agent"} {
		got.Del(name)
	}
	return got
}

func TestHandlerRemovesWhatStrangersSayOfForwarding(t *testing.T) {
	trusted := balancer.HandlerConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")},
	}
	const proxy, stranger = "10.0.0.1:1", "192.0.2.1:1"
	added := func(peer string) http.Header {
		host, _, _ := net.SplitHostPort(peer)
		return http.Header{
			"X-Forwarded-For": {host}, "X-Forwarded-Host": {"asked.test"}, "X-Forwarded-Proto": {"http"},
		}
	}
	with := func(h http.Header, name string) http.Header {
		h[name] = []string{"said"}
		return h
	}
	for name, from := range map[string]struct{ trusted, stranger bool }{
		// Sent on for trusted peers only.
		"X-Forwarded-Port": {true, false}, "X-Forwarded-Prefix": {true, false},
		"X-Forwarded-Uri":                      {true, false},
		"X-Forwarded-Anything-At-All-And-More": {true, false}, "X-Forwarded": {true, false},
		"X-Real-Ip": {true, false}, "True-Client-Ip": {true, false}, "X-Client-Ip": {true, false},
		"X-Cluster-Client-Ip": {true, false}, "Cf-Connecting-Ip": {true, false},
		"Fastly-Client-Ip": {true, false},
		"X-Proxyuser-Ip":   {true, false}, "X-Envoy-External-Address": {true, false},
		"Forwarded-For":            {true, false},
		"X-Original-Forwarded-For": {true, false}, "X-Host": {true, false}, "X-Original-Host": {true, false},
		"X-Original-Url": {true, false}, "X-Rewrite-Url": {true, false}, "X-Url-Scheme": {true, false},
		"Front-End-Https": {true, false},

		// Sent on for nobody.
		"Forwarded": {}, "Proxy": {}, "forwarded": {}, "PROXY": {},
		"X_forwarded_for": {}, "X-Forwarded_for": {}, "X.forwarded.host": {}, "X~Forwarded~Proto": {},
		"x-forwarded-for": {}, "X-FORWARDED-PORT": {}, "X_forwarded_port": {}, "X-Forwarded-Client_cert": {},
		"X_real_ip": {}, "x-real-ip": {}, "X-Real.ip": {}, "X-Cluster_client~ip": {}, "True_client_ip": {},
		"Cf_connecting_ip": {}, "Front_end_https": {}, "X_original_url": {}, "X_forwarded": {},

		// Sent on for everybody.
		"X-Forward": {true, true}, "X-Real-Ips": {true, true}, "X-Realip": {true, true},
		"Forwarder":                  {true, true},
		"X-Envoy-External-Addresses": {true, true}, "Via": {true, true}, "Proxyx": {true, true},
		"X-Other": {true, true}, "X_other": {true, true}, "X": {true, true}, "Cookie": {true, true},
		"From": {true, true}, "Traceparent": {true, true}, "-X-Real-Ip": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			for peer, sent := range map[string]bool{proxy: from.trusted, stranger: from.stranger} {
				want := added(peer)
				if sent {
					want = with(want, name)
				}
				require.Equal(t, want, proxied(t, trusted, peer, with(http.Header{}, name)), peer)
			}
		})
	}
}

func TestHandlerSaysWhoAsked(t *testing.T) {
	tests := []struct {
		name string
		peer string
		unix bool
		said []string // X-Forwarded-For
		want []string
	}{
		{"a stranger", "192.0.2.1:1", true, []string{"203.0.113.9"}, []string{"192.0.2.1"}},
		{"a proxy", "10.0.0.1:1", true, []string{"203.0.113.9"}, []string{"203.0.113.9, 10.0.0.1"}},
		{"in IPv6 form", "[::ffff:10.0.0.1]:1", false, []string{"203.0.113.9"},
			[]string{"203.0.113.9, 10.0.0.1"}},
		{"without a port", "10.0.0.1", false, []string{"203.0.113.9"}, []string{"203.0.113.9, 10.0.0.1"}},
		{"with a zone", "[fe80::1%eth0]:1", false, []string{"203.0.113.9"}, []string{"fe80::1"}},
		{"several lines", "10.0.0.1:1", false, []string{"1.1.1.1", "203.0.113.9, "},
			[]string{"1.1.1.1, 203.0.113.9, , 10.0.0.1"}},
		{"too many hops", "10.0.0.1:1", false, []string{"203.0.113.9" + strings.Repeat(", 10.0.0.2", 40)},
			[]string{"10.0.0.2, 10.0.0.1"}},
		{"a socket", "@", false, []string{"203.0.113.9"}, nil},
		{"a trusted socket", "@", true, []string{"203.0.113.9"}, []string{"203.0.113.9"}},
		{"a trusted socket that says nothing", "", true, nil, nil},
		{"no address", "pipe", true, []string{"203.0.113.9"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			if tt.said != nil {
				h["X-Forwarded-For"] = tt.said
			}
			got := proxied(t, balancer.HandlerConfig{
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, TrustUnix: tt.unix,
			}, tt.peer, h)
			require.Equal(t, tt.want, got["X-Forwarded-For"])
		})
	}
}

// Fields of the connection go before ours are added, so nobody can name ours away.
func TestL21_HopByHopFieldsAreRemovedFirst(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: echo})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Rewrite:        func(r *httputil.ProxyRequest) { r.Out.Header.Set("X-Auth-User", "anonymous") },
	}, nil)
	for name, connection := range map[string]string{
		"one line": "Connection: close, X-Forwarded-For, X-Auth-User, X-Own, X-Forwarded-Proto\r\n",
		"several lines": "Connection: close\r\nConnection: X-Forwarded-For\r\n" +
			"Connection: X-Auth-User, X-Own\r\n",
		"first is empty":   "Connection: \r\nConnection: ,,x-own,X-Forwarded-For, X-Auth-User\r\n",
		"lower case":       "connection: x-forwarded-for, x-auth-user, x-own\r\n",
		"upper case":       "CONNECTION: X-FORWARDED-FOR, X-AUTH-USER, X-OWN\r\n",
		"proxy connection": "Proxy-Connection: keep-alive\r\nConnection: X-Own,X-Auth-User\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			status, got := ask(t, f,
				"GET / HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\nX-Auth-User: root\r\nKeep-Alive: 5\r\n"+
					"TE: trailers, gzip\r\nProxy-Authorization: Basic eA==\r\n"+connection+"\r\n")
			require.Equal(t, 200, status)
			require.Equal(t, "anonymous", got.Get("X-Auth-User"), "ours cannot be named away")
			require.Equal(t, "127.0.0.1", got.Get("X-Forwarded-For"))
			require.Equal(t, "http", got.Get("X-Forwarded-Proto"))
			for _, field := range []string{
				"X-Own", "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authorization",
			} {
				require.Empty(t, got[field], field)
			}
		})
	}
	t.Run("of the response", func(t *testing.T) {
		be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Connection"] = []string{"X-Internal", "keep-alive"}
			w.Header().Set("X-Internal", "1")
			w.Header().Set("Keep-Alive", "timeout=1000")
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.Header().Set(balancer.LoadHeader, "in-flight=1")
			w.Header().Set("X-Public", "1")
		}))
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		resp, err := f.client.Get(f.URL)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, "1", resp.Header.Get("X-Public"))
		for _, field := range []string{
			"X-Internal", "Connection", "Keep-Alive", "Proxy-Authenticate", balancer.LoadHeader,
		} {
			require.Empty(t, resp.Header[field], field)
		}
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

type timeoutError struct{}

func (timeoutError) Error() string   { return "slow" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestHandlerErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		status int
		after  string
	}{
		"not sent":           {unsent{1500 * time.Millisecond}, 503, "2"},
		"not sent, no wait":  {notSentOnly{}, 503, "1"},
		"refused for good":   {unsent{}, 503, ""},
		"too many targets":   {balancer.ErrTooManyTargets, 503, ""},
		"broken":             {io.ErrUnexpectedEOF, 502, ""},
		"timeout":            {fmt.Errorf("read: %w", timeoutError{}), 504, ""},
		"deadline":           {context.DeadlineExceeded, 504, ""},
		"secret in the text": {errors.New("dial 10.1.2.3:80"), 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1")})
			f := newFront(t, false, b, balancer.HandlerConfig{
				Transport: func(http.RoundTripper) http.RoundTripper {
					return roundTripper(func(*http.Request) (*http.Response, error) { return nil, tt.err })
				},
			}, nil)
			resp, err := f.client.Get(f.URL)
			require.NoError(t, err)
			body := readAll(t, resp)
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, tt.after, resp.Header.Get("Retry-After"))
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			require.Contains(t, body, fmt.Sprintf(`"status":%d`, tt.status))
			require.NotContains(t, body, "10.1.2.3", "no internals")
		})
	}
	t.Run("real ones", func(t *testing.T) {
		be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}))
		tr := backend.Transport(backend.HTTP1)
		tr.ResponseHeaderTimeout = 50 * time.Millisecond
		p := balancer.NewPushed(balancer.Endpoint{Addr: be.Addr})
		b := newBalancer(t, balancer.Config{Resolver: p, Transport: tr})
		hc := balancer.HandlerConfig{ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path == "/bad" {
				return errors.New("refused by ModifyResponse")
			}
			return nil
		}}
		limit := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = http.MaxBytesReader(w, r.Body, 1000)
				if r.URL.Path == "/impatient" {
					_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				}
				next.ServeHTTP(w, r)
			})
		}
		f := newFront(t, false, b, hc, limit)
		status := func(raw string) int {
			s, _ := ask(t, f, raw)
			return s
		}
		require.Equal(t, 502, status("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n"))
		require.Equal(t, 413,
			status("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n"+strings.Repeat("x", 2000)))
		require.Equal(t, 400,
			status("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"))
		f2 := newFront(t, true, b, hc, limit) // HTTP/1.1 ends the connection when a read deadline has passed
		body, halt := io.Pipe()
		defer halt.Close()
		late, err := f2.client.Post(f2.URL+"/impatient", "text/plain", body)
		require.NoError(t, err)
		late.Body.Close()
		require.Equal(t, 408, late.StatusCode)
		require.Zero(t, b.Stats().Failures, "clients cannot have endpoints blamed")
		be.Set(backend.Behaviour{Hang: true})
		require.Equal(t, 504, status("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
		be.Set(backend.Behaviour{Abort: true})
		require.Equal(t, 502, status("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"))
		be.Close()
		resp, err := f.client.Get(f.URL)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 503, resp.StatusCode)
		require.Equal(t, "1", resp.Header.Get("Retry-After"))
	})
	t.Run("an ErrorHandler of one's own", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
		f := newFront(t, false, b, balancer.HandlerConfig{
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				if errors.Is(err, balancer.ErrNoEndpoints) {
					w.WriteHeader(http.StatusTeapot)
				}
			},
		}, nil)
		resp, err := f.client.Get(f.URL)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusTeapot, resp.StatusCode)
	})
	t.Run("configuration", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
		_, err := b.Handler(nil, balancer.HandlerConfig{})
		require.ErrorContains(t, err, "target is required")
		target := &url.URL{Scheme: "ftp", Host: "a", User: url.UserPassword("u", "secret")}
		_, err = b.Handler(target, balancer.HandlerConfig{TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), {},
			netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 90),
		}})
		require.ErrorContains(t, err, "balancer: Handler: target ")
		require.ErrorContains(t, err, "want scheme://host")
		require.ErrorContains(t, err, "balancer: HandlerConfig.TrustedProxies[1]: is not a prefix")
		require.ErrorContains(t, err,
			"balancer: HandlerConfig.TrustedProxies[2]: ::ffff:10.0.0.0/90 is an IPv4 address")
		require.NotContains(t, err.Error(), "secret")
	})
}

func TestErrorStatus(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		wait   time.Duration
	}{
		{unsent{1500 * time.Millisecond}, 503, 1500 * time.Millisecond},
		{fmt.Errorf("wrapped: %w", notSentOnly{}), 503, time.Second},
		{unsent{}, 503, 0},
		{&balancer.NoEndpointsError{Tried: 2, Err: unsent{}}, 503, 0},
		{&balancer.NoEndpointsError{Tried: 2, Err: unsent{-time.Second}}, 503, 0},
		{&balancer.NoEndpointsError{Tried: 2, Err: unsent{time.Minute}}, 503, time.Minute},
		{&balancer.NoEndpointsError{Tried: 2, Err: io.EOF}, 503, time.Second},
		{&balancer.NoEndpointsError{}, 503, time.Second},
		{balancer.ErrTooManyTargets, 503, 0},
		{balancer.ErrClosed, 503, 0},
		{&http.MaxBytesError{}, 413, 0},
		{timeoutError{}, 504, 0},
		{fmt.Errorf("wrapped: %w", context.DeadlineExceeded), 504, 0},
		{io.EOF, 502, 0},
		{nil, 502, 0},
	} {
		status, wait := balancer.ErrorStatus(tt.err)
		require.Equal(t, tt.status, status, "%v", tt.err)
		require.Equal(t, tt.wait, wait, "%v", tt.err)
	}
}

type notSentOnly struct{}

func (notSentOnly) Error() string { return "not sent" }
func (notSentOnly) NotSent() bool { return true }

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
