//go:build unix

package balancer_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// hinting answers each request with two informational responses and a final one.
func hinting(t *testing.T) string {
	return serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(buf); err != nil {
				return
			}
			_, err := io.WriteString(c,
				"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Private\r\n"+
					"X-Private: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: foo\r\n"+
					"Trivet-Load: in-flight=1\r\n\r\n"+
					"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if err != nil {
				return
			}
		}
	})
}

func TestL42_InformationalResponsesPassTheRulesOfFields(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(hinting(t))})
	for _, h2 := range []bool{false, true} {
		f := newFront(t, h2, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Outer", "1")
				next.ServeHTTP(w, r)
			})
		})
		var seen []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				seen = append(seen, fmt.Sprint(code, h))
				return nil
			},
		})
		req, err := http.NewRequestWithContext(ctx, "GET", f.URL, nil)
		require.NoError(t, err)
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		require.Equal(t, "ok", readAll(t, resp))
		require.Equal(t, []string{"103 map[Link:[</a.css>]]", "102 map[]"}, seen)
		require.Equal(t, "1", resp.Header.Get("X-Outer"), "it is the final response's")
		require.NotContains(t, resp.Header, "Link")
	}
}

// The client is invited, and informed, by one goroutine at a time: the transport reads the body on
// one of its own.
func TestL42_InvitationsAndHintsDoNotMix(t *testing.T) {
	hint := "HTTP/1.1 103 Early Hints\r\nLink: <" + strings.Repeat("a", 3000) + ">\r\n\r\n"
	for name, tt := range map[string]struct {
		before, after string        // what the server sends, and a pause between them
		pause         time.Duration // so long that the client has been invited without the server
		times         int
		codes         []int
	}{
		"together": {"HTTP/1.1 100 Continue\r\n\r\n", hint + hint, 0, 100, []int{100, 103, 103, 200}},
		"a late hint": {
			"HTTP/1.1 1", hint[len("HTTP/1.1 1"):], 1100 * time.Millisecond, 3, []int{100, 103, 200},
		},
		"late hints": {"", hint + hint, 999 * time.Millisecond, 3, []int{100, 103, 103, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serveRaw(t, func(c net.Conn) {
				buf := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(buf)
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, tt.before)
					<-time.After(tt.pause)
					_, _ = io.WriteString(c, tt.after)
					body, _ := io.ReadAll(req.Body)
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}
			})
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(addr), Transport: &http.Transport{},
			})
			f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
			conn, err := net.Dial("tcp", f.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(2*time.Minute)))
			in := bufio.NewReader(conn)
			for range tt.times {
				fmt.Fprint(conn,
					"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
				var seen []int
				for {
					resp, err := http.ReadResponse(in, nil)
					require.NoError(t, err)
					seen = append(seen, resp.StatusCode)
					switch resp.StatusCode {
					case http.StatusContinue:
						require.Empty(t, resp.Header)
						fmt.Fprint(conn, "ab")
					case http.StatusEarlyHints:
						require.Len(t, resp.Header.Get("Link"), 3002)
					default:
						require.Equal(t, "ab", readAll(t, resp))
					}
					if resp.StatusCode >= 200 {
						break
					}
				}
				require.Len(t, seen, len(tt.codes))
				require.ElementsMatch(t, tt.codes, seen)
			}
		})
	}
}

// A panic of a ResponseWriter at the invitation goes on in the handler, too, and no body is sent.
func TestInvitationsThatPanic(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				_ = httptrace.ContextClientTrace(r.Context()).Got1xxResponse(100, nil)
				_, err := io.ReadAll(r.Body)
				return nil, err
			})
		},
	})
	require.NoError(t, err)
	r := httptest.NewRequest("PUT", "/", strings.NewReader("body"))
	r.Header.Set("Expect", "100-continue")
	require.PanicsWithValue(t, "a bug around the proxy", func() {
		h.ServeHTTP(connWriter{&codes{ResponseRecorder: httptest.NewRecorder(), bad: 100}}, r)
	})
}

// A connWriter is taken for net/http's.
type connWriter struct{ *codes }

func (connWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// http.TimeoutHandler takes an informational response for the final one. There net/http invites the
// client, at the first Read.
func TestL42_InvitationsWithinATimeoutHandler(t *testing.T) {
	up := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
	}))
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(up.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, func(h http.Handler) http.Handler {
		return http.TimeoutHandler(h, time.Minute, "")
	})
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*time.Minute)))
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	for _, want := range []int{http.StatusContinue, http.StatusTeapot} {
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, want, resp.StatusCode)
		fmt.Fprint(conn, "ab")
	}
}

// Nothing is written for a transport that has panicked: the writer may be another request's.
func TestInformationalResponsesAfterAPanic(t *testing.T) {
	var trace *httptrace.ClientTrace
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				trace = httptrace.ContextClientTrace(r.Context())
				panic("a bug in a transport")
			})
		},
	})
	require.NoError(t, err)
	w := &codes{ResponseRecorder: httptest.NewRecorder()}
	require.Panics(t, func() { h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil)) })
	require.NoError(t, trace.Got1xxResponse(103, textproto.MIMEHeader{"Link": {"1"}}))
	require.Empty(t, w.codes)
}

// RFC 9110, section 15.2: an HTTP/1.0 client takes the first answer for the last.
func TestL42_HTTP10ClientsGetNoInformationalResponses(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(hinting(t))})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	got := exchange(t, f.Listener.Addr().String(), "GET / HTTP/1.0\r\n\r\n")
	require.True(t, strings.HasPrefix(got, "HTTP/1.0 200 OK\r\n"), "%q", got)
	require.True(t, strings.HasSuffix(got, "\r\n\r\nok"), "%q", got)
	require.Equal(t, 1, strings.Count(got, "HTTP/1."))
}

// An informational response that comes when the final one has been returned, of a hedged attempt
// perhaps, touches nothing.
func TestInformationalResponsesThatComeLate(t *testing.T) {
	var trace *httptrace.ClientTrace
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				trace = httptrace.ContextClientTrace(r.Context())
				require.NoError(t, trace.Got1xxResponse(103, textproto.MIMEHeader{"Link": {"1"}}))
				return answer(200), nil
			})
		},
		ModifyResponse: func(*http.Response) error {
			return trace.Got1xxResponse(103, textproto.MIMEHeader{"Link": {"2"}})
		},
	})
	require.NoError(t, err)
	w := &codes{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, []int{103, 200}, w.codes)
	require.NotContains(t, w.Header(), "Link")
}

type codes struct {
	*httptest.ResponseRecorder
	codes []int
	bad   int // where it panics
}

func (w *codes) WriteHeader(code int) {
	w.codes = append(w.codes, code)
	if code == w.bad {
		panic("a bug around the proxy")
	}
}

// A panic of a ResponseWriter on the transport's goroutine goes on in the handler's.
func TestInformationalResponsesThatPanic(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(hinting(t))})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	require.PanicsWithValue(t, "a bug around the proxy", func() {
		w := &codes{ResponseRecorder: httptest.NewRecorder(), bad: 102}
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	})
}
