package balancer_test

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A memoryServer answers at once from memory, so that what is measured is the proxy.
type memoryServer struct{ body []byte }

func (s memoryServer) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, ContentLength: int64(len(s.body)), Body: io.NopCloser(bytes.NewReader(s.body)),
		Header: http.Header{
			"Content-Type": {"application/json"}, "Content-Length": {"1024"}, "Etag": {`"1"`},
			"Date": {"Mon, 01 Jan 2024 00:00:00 GMT"},
		},
	}, nil
}

// discards is a ResponseWriter that keeps nothing.
type discards struct{ h http.Header }

func (w *discards) Header() http.Header         { return w.h }
func (w *discards) WriteHeader(int)             {}
func (w *discards) Write(p []byte) (int, error) { return len(p), nil }
func (w *discards) Flush()                      {}

// proxies returns Handler and the ReverseProxy as it is commonly set up, both in front of next.
func proxies(tb testing.TB, next http.RoundTripper) map[string]http.Handler {
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static("a:1")})
	require.NoError(tb, err)
	target := &url.URL{Scheme: "http", Host: "app.test"}
	h, err := b.Handler(target, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper { return next },
	})
	require.NoError(tb, err)
	return map[string]http.Handler{"handler": h, "reverseproxy": &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: next, FlushInterval: -1, BufferPool: &buffers{}, ErrorLog: log.New(io.Discard, "", 0),
	}}
}

// buffers is a pool for one goroutine.
type buffers struct{ b []byte }

func (p *buffers) Get() []byte {
	if p.b == nil {
		p.b = make([]byte, 32<<10)
	}
	return p.b
}

func (p *buffers) Put([]byte) {}

func browserRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/items?page=2", nil)
	r.Header = http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"Mozilla/5.0"}, "Cookie": {"a=1"},
		"Accept-Language": {"en"}, "Referer": {"https://example.com/"},
	}
	return r
}

// BenchmarkProxy measures a proxied GET of 1 KiB: the proxy alone, and between real sockets.
func BenchmarkProxy(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 1024)
	for _, name := range []string{"handler", "reverseproxy"} {
		b.Run("proxy="+name+"/net=none", func(b *testing.B) {
			h := proxies(b, memoryServer{body})[name]
			r := browserRequest()
			w := &discards{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				h.ServeHTTP(w, r)
			}
		})
		b.Run("proxy="+name+"/net=tcp", func(b *testing.B) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(body)
			}))
			defer s.Close()
			u, err := url.Parse(s.URL)
			require.NoError(b, err)
			tr := &http.Transport{MaxIdleConnsPerHost: 10, DisableCompression: true}
			defer tr.CloseIdleConnections()
			f := httptest.NewServer(proxies(b, redirected{tr, u.Host})[name])
			defer f.Close()
			client := f.Client()
			b.ReportAllocs()
			for b.Loop() {
				resp, err := client.Get(f.URL)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}

// redirected sends every request to one address.
type redirected struct {
	next http.RoundTripper
	host string
}

func (t redirected) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Host = t.host
	return t.next.RoundTrip(r)
}
