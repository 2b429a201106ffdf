//go:build unix

package balancer_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// sentTo returns what a Handler to target does with a request for uri: its status, and the path and
// query that it sends, "" if it sends nothing.
func sentTo(t require.TestingT, target, uri string, cfg balancer.HandlerConfig) (status int, sent string) {
	cfg.Transport = func(http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = r.URL.RequestURI()
			return answer(200), nil
		})
	}
	b, err := balancer.New(balancer.Config{Resolver: balancer.NewPushed()})
	require.NoError(t, err)
	u, err := url.Parse(target)
	require.NoError(t, err)
	h, err := b.Handler(u, cfg)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RequestURI = uri
	if r.URL, err = url.ParseRequestURI(uri); err != nil {
		return 0, ""
	}
	if uri == "*" {
		r.Method = http.MethodOptions
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, sent
}

func TestL35_NothingLeadsOutOfTheTargetsPath(t *testing.T) {
	for _, tt := range []struct{ target, uri, sent string }{
		{"http://x/public", "/page", "/public/page"},
		{"http://x/public/", "/page", "/public/page"},
		{"http://x/public", "http://a", "/public/"},
		{"http://x", "http://a", "/"},
		{"http://x", "/", "/"},
		{"http://x/a%2Fb", "/c%2fd", "/a%2Fb/c%2fd"},
		{"http://x/a", "//b//c", "/a//b//c"},
		{"http://x", "//b//c", "//b//c"},
		{"http://x", "*", "*"},
		{"http://x/base", "*", "/base"},

		// Resolved.
		{"http://x/public", "/../secret", "/public/secret"},
		{"http://x/public", "/a/../../secret", "/public/secret"},
		{"http://x/public", "/a/b/../../../../secret", "/public/secret"},
		{"http://x/public", "/..", "/public/"},
		{"http://x/public", "/a/..", "/public/"},
		{"http://x/public", "/a/b/.", "/public/a/b/"},
		{"http://x/public", "/./a/./b", "/public/a/b"},
		{"http://x/public", "/a//../b", "/public/a/b"},
		{"http://x/public", "/x%2fy/./../z?q=/../", "/public/z?q=/../"},
		{"http://x", "/../secret", "/secret"},

		// Names, and no dot segments.
		{"http://x/p", "/.well-known/a", "/p/.well-known/a"},
		{"http://x/p", "/...", "/p/..."},
		{"http://x/p", "/..a/a../.a", "/p/..a/a../.a"},
		{"http://x/p", "/100%25", "/p/100%25"},
		{"http://x/p", "/%252e%252e%252f", ""}, // to whoever decodes twice it is one
		{"http://x/p", "/a;v=1/b", "/p/a;v=1/b"},
		{"http://x/p", "/%2ea", "/p/%2ea"},
		{"http://x/p", "/a%2eb", "/p/a%2eb"},
		{"http://x/p", `/a\b`, `/p/a%5Cb`},

		// Spelt otherwise.
		{"http://x/p", "/%2e%2e/x", ""}, {"http://x/p", "/.%2E/x", ""}, {"http://x/p", "/%2e/x", ""},
		{"http://x/p", "/a/%2e%2e%2fx", ""}, {"http://x/p", "/a%2f..%2fx", ""}, {"http://x/p", "/..%2f", ""},
		{"http://x/p", "/..%5cx", ""}, {"http://x/p", `/..\x`, ""}, {"http://x/p", `/a\..\x`, ""},
		{"http://x/p", "/..;/x", ""}, {"http://x/p", "/..;a=b/x", ""}, {"http://x/p", "/.;/x", ""},
		{"http://x/p", "/%252e%252e/x", ""}, {"http://x/p", "/%25252e./x", ""},
		{"http://x/p", "/%2525252525252e./x", ""}, {"http://x/p", "/%c0%ae%c0%ae/x", ""},
		{"http://x/p", "/%c0%ae./x", ""}, {"http://x/p", "/..%c0%afx", ""}, {"http://x/p", "/..%3bx", ""},
		{"http://x/p", "/a%c1%9c..%c1%9cx", ""}, {"http://x/p", "/..%00/x", ""},
		{"http://x/p", "/..%20/x", ""}, {"http://x/p", "/..%00.png", ""},
		{"http://x", "/%2e%2e/x", ""},
		{"http://x", "*a", ""},
	} {
		status, sent := sentTo(t, tt.target, tt.uri, balancer.HandlerConfig{})
		require.Equal(t, tt.sent, sent, "%s behind %s", tt.uri, tt.target)
		if tt.sent == "" && status != 0 {
			require.Equal(t, 400, status, "%s behind %s", tt.uri, tt.target)
		}
		if u, err := url.ParseRequestURI(tt.uri); err == nil && tt.uri[0] == '/' {
			require.Equal(t, tt.sent == "", balancer.HiddenDots(u), tt.uri)
		}
	}
	for path, hidden := range map[string]bool{
		"..;": true, "..": false, "a/..;": true, "": false, ".a": false,
	} {
		require.Equal(t, hidden, balancer.HiddenDots(&url.URL{Path: path}), path)
	}
	// Whatever the path is, and whatever a lenient server makes of it, it stays behind the
	// target's.
	rapid.Check(t, func(rt *rapid.T) {
		uri := "/" + strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{
			"a", ".", "..", "/", "%2e", "%2E", "%2f", "%5c", `\`, ";", ";x=1", "%25", "%", "2e", "%c0%ae",
			"b",
		})).Draw(rt, "parts"), "")
		_, sent := sentTo(rt, "http://x/public", uri, balancer.HandlerConfig{})
		if sent == "" {
			return
		}
		for range 5 {
			sent = strings.ReplaceAll(sent, `\`, "/")
			var plain []string
			for s := range strings.SplitSeq(sent, "/") {
				s, _, _ = strings.Cut(s, ";")
				plain = append(plain, s)
			}
			resolved := path.Clean(strings.Join(plain, "/"))
			require.True(rt, resolved == "/public" || strings.HasPrefix(resolved, "/public/"),
				"%q leads to %q", uri, resolved)
			decoded, err := url.PathUnescape(sent)
			if err != nil {
				break
			}
			sent = strings.ReplaceAll(decoded, "\xc0\xae", ".")
		}
	})
}

// A real server does not find what lies beside the target's path.
func TestL35_BehindAServerThatResolves(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/public/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "public") })
	mux.HandleFunc("/secret", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the secret") })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path, r.URL.RawPath = path.Clean(r.URL.Path), ""
		mux.ServeHTTP(w, r)
	}))
	defer s.Close()
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrOf(s))})
	f := newFrontTo(t, false, b, &url.URL{Scheme: "http", Host: "app.test", Path: "/public"},
		balancer.HandlerConfig{}, nil)
	for _, uri := range []string{
		"/../secret", "/%2e%2e/secret", "/a/../../secret", "/..%2fsecret", "http://a/../secret",
		"/./../secret",
	} {
		answer := exchange(t, f.Listener.Addr().String(), "GET "+uri+" HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NotContains(t, answer, "the secret", uri)
	}
}

func TestL43_QueriesGoOnAsTheyAreOrNotAtAll(t *testing.T) {
	many := strings.Repeat("x=1&", 10_000) + "y=2"
	for _, tt := range []struct {
		query  string
		strict bool // sent on by default too
	}{
		{"z=1&b=2&a=3", true}, {"b&a&b=&=x", true}, {"q=%20+%41%e4", true}, {"q=a/b?c=d", true},
		{"a=1&&b", true},
		{"sig=A%2Fb+c%3D&X-Amz-Date=1", true}, {strings.Repeat("x=1&", 9_999) + "y=2", true},
		{"q=a[0]&b={}|^`\"", true},
		{"z=1&b=2;c=3", false}, {"z=1&b=100%&a=2", false}, {"q=50%+off", false}, {"q=%zz", false}, {"%4",
			false},
		{"%", false}, {";", false}, {many, false},
	} {
		status, sent := sentTo(t, "http://x/", "/a?"+tt.query, balancer.HandlerConfig{})
		if tt.strict {
			require.Equal(t, "/a?"+tt.query, sent)
		} else {
			require.Equal(t, 400, status, tt.query)
			require.Empty(t, sent)
		}
		_, sent = sentTo(t, "http://x/", "/a?"+tt.query, balancer.HandlerConfig{LenientQuery: true})
		require.Equal(t, "/a?"+tt.query, sent)
	}
	_, sent := sentTo(t, "http://x/?k=v", "/a?z=1&b=2", balancer.HandlerConfig{})
	require.Equal(t, "/a?k=v&z=1&b=2", sent, "behind the target's")
	_, sent = sentTo(t, "http://x/?k=v", "/a", balancer.HandlerConfig{})
	require.Equal(t, "/a?k=v", sent)
	_, sent = sentTo(t, "http://x/", "/a?", balancer.HandlerConfig{})
	require.Equal(t, "/a?", sent)
}

// A URI without a slash after its scheme has no path that could be put behind the target's.
func TestRequestTargetsStayBehindTheTargetsPath(t *testing.T) {
	be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RequestURI)
	}))
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFrontTo(t, false, b, &url.URL{Scheme: "http", Host: "app.test", Path: "/base"},
		balancer.HandlerConfig{}, nil)
	for target, want := range map[string]string{
		"x:admin": "400 ", "http:admin": "400 ", "http:/admin": "200 ", "http://a/admin": "200 ",
	} {
		before := b.Stats().Requests
		answer := exchange(t, f.Listener.Addr().String(), "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		require.Regexp(t, "^HTTP/1.1 "+want, answer, target)
		if want == "200 " {
			require.Contains(t, answer, "/base/admin", target)
		} else {
			require.Equal(t, before, b.Stats().Requests, "no endpoint hears of it")
		}
	}
}
