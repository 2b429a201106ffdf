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

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
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
}

func (w *codes) WriteHeader(code int) {
	w.codes = append(w.codes, code)
	if code == 102 {
		panic("a bug around the proxy")
	}
}

// A panic of a ResponseWriter on the transport's goroutine goes on in the handler's.
func TestInformationalResponsesThatPanic(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(hinting(t))})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	require.PanicsWithValue(t, "a bug around the proxy", func() {
		h.ServeHTTP(&codes{ResponseRecorder: httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
	})
}
