package balancer_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

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
