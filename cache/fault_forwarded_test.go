package cache_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// negotiating answers in JSON those who accept that, and in HTML the others.
func negotiating() *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept")
		body := "html"
		if r.Header.Get("Accept") == "application/json" {
			body = "json"
		}
		_, _ = io.WriteString(w, body)
	}}
}

// askRaw sends a GET with those lines on a connection of its own.
func askRaw(t *testing.T, server *httptest.Server, target, lines string) string {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: example.com\r\n%s\r\n", target, lines)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return text(t, resp)
}

// A proxy behind the cache does not send what the client names in Connection.
func TestC55_WhatConnectionNamesChoosesNoVariant(t *testing.T) {
	for name, connection := range map[string]string{
		"a field": "Connection: Accept\r\n", "beside others": "Connection: keep-alive , ACCEPT\r\n",
		"two lines": "Connection: close\r\nConnection: x, accept\r\n", "quotes": "Connection: \", Accept\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			upstream := httptest.NewServer(negotiating())
			defer upstream.Close()
			target, err := url.Parse(upstream.URL)
			require.NoError(t, err)
			proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
			server := httptest.NewServer(newCache(t, cache.Config{}).Middleware(proxy))
			defer server.Close()
			const json = "Accept: application/json\r\n"
			require.Equal(t, "html", askRaw(t, server, "/doc", json+connection))
			require.Equal(t, "json", askRaw(t, server, "/doc", json))
		})
	}
}

// What connections of HTTP/1.1 say of themselves is no reason to pass.
func TestC55_OrdinaryConnectionsAreAnsweredFromTheCache(t *testing.T) {
	origin := negotiating()
	h := newCache(t, cache.Config{}).Middleware(origin)
	for _, connection := range []string{
		"", "close", "keep-alive", "Keep-Alive, TE", "te, close", "upgrade, HTTP2-Settings",
		"Proxy-Connection", ",",
	} {
		require.Equal(t, "html", text(t, get(h, "/doc", "Connection", connection)))
	}
	require.EqualValues(t, 1, origin.calls.Load())
}

// sayingLike answers with the values of all fields that CGI, or a server that tells no sign from
// another, takes for name.
func sayingLike(name string) *counted {
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r
			}
			return '_'
		}, strings.ToLower(s))
	}
	return echoing(func(r *http.Request) string {
		var said []string
		for field, values := range r.Header {
			if plain(field) == plain(name) {
				said = append(said, values...)
			}
		}
		return strings.Join(said, ",")
	})
}

func TestC01_C02_C09_NoSpellingOfAFieldShapesAnothersAnswer(t *testing.T) {
	for _, name := range []string{
		"X_Forwarded_Host", "X-Forwarded_Host", "X.Forwarded.Host", "X_FORWARDED_PROTO",
		"X_Http_Method_Override",
		"X_HTTP_Method", "X-Method_Override", "X_Original_Url", "X_Host", "X-Forwarded-Protocol",
		"X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-User", "X_Forwarded_User", "X-Forwarded",
		"X-Forwarded-For-Host", "X-Forwarded-Fox", "X-Url-Scheme", "Front-End-Https", "Front_End_Https",
		"Proxy",
	} {
		for _, unkeyed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, unkeyed), func(t *testing.T) {
				cfg := cache.Config{}
				if unkeyed {
					cfg.Unkeyed = cache.UnkeyedDrop
				}
				origin := sayingLike(name)
				h := newCache(t, cfg).Middleware(origin)
				require.Equal(t, unkeyed, text(t, get(h, "/", name, "evil")) == "")
				passed := do(h, request("/pass", "If-Match", "x", name, "evil"))
				require.Equal(t, unkeyed, text(t, passed) == "")
				require.Empty(t, text(t, get(h, "/")))
				require.NotContains(t, text(t, get(h, "/", name, "good")), "evil")
				calls := origin.calls.Load()
				get(h, "/", name, "good")
				require.Equal(t, calls, origin.calls.Load(), "it is keyed, and does not pass")
			})
		}
	}
}

func TestC02_C09_NoSpellingShapesAnothersAnswerOverAConnection(t *testing.T) {
	for _, second := range []bool{false, true} {
		server := httptest.NewUnstartedServer(
			newCache(t, cache.Config{}).Middleware(sayingLike("X-Forwarded-Host")))
		server.EnableHTTP2 = second
		server.StartTLS()
		ask := func(value string) string {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
			require.NoError(t, err)
			if value != "" {
				r.Header["x_forwarded_host"] = []string{value}
			}
			resp, err := server.Client().Do(r)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, second, resp.ProtoMajor == 2)
			return text(t, resp)
		}
		require.Equal(t, "evil", ask("evil"))
		require.Empty(t, ask(""))
		server.Close()
	}
}

// More of them than a key takes in pass.
func TestC01_ManyFieldsShapeNoOthersAnswer(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(echoing(func(r *http.Request) string {
		return r.Header.Get("X-Forwarded-Z")
	}))
	var pairs []string
	for i := range 40 {
		pairs = append(pairs, fmt.Sprint("X-Forwarded-", i), "x")
	}
	require.Equal(t, "evil", text(t, get(h, "/", append(pairs, "X-Forwarded-Z", "evil")...)))
	require.Equal(t, "good", text(t, get(h, "/", append(pairs, "X-Forwarded-Z", "good")...)))
}

// Where proxies tell the client's address makes no key, in whatever spelling.
func TestC02_XForwardedForMakesNoKeyOfItsOwn(t *testing.T) {
	origin := echoing(func(*http.Request) string { return "x" })
	h := newCache(t, cache.Config{}).Middleware(origin)
	for i, name := range []string{
		"X-Forwarded-For", "X_Forwarded_For", "X-Forwarded_For", "X-Real-Ip", "From",
	} {
		get(h, "/", name, fmt.Sprint("192.0.2.", i))
	}
	require.EqualValues(t, 1, origin.calls.Load())
}

// Some parsers of Forwarded look for semicolons and commas before they look for quotes.
func TestC02_NoPartOfForwardedHidesInAPeer(t *testing.T) {
	for _, evil := range []string{
		`for="a;host=evil.example`, `for="a;host=evil.example"`, `for="a;host=evil.example;b"`,
		`for=a\";host=evil.example`, `for="a\";host=evil.example"`, `for="a\";host=evil.example;b"`,
		`for="a,host=evil.example;b"`, `by="a;host=evil.example`, `for=x host=evil.example`,
		`for=host=evil.example`, "for=x\thost=evil.example", `host=evil.example, for=x`,
	} {
		t.Run(evil, func(t *testing.T) {
			h := newCache(t, cache.Config{}).Middleware(echoing(func(r *http.Request) string {
				return strings.Join(r.Header["Forwarded"], ",")
			}))
			require.Contains(t, text(t, get(h, "/", "Forwarded", evil)), "evil")
			require.NotContains(t, text(t, get(h, "/")), "evil")
			require.NotContains(t, text(t, get(h, "/", "Forwarded", "for=192.0.2.1")), "evil")
			require.NotContains(t, text(t, get(h, "/", "Forwarded", `for="a"`)), "evil")
		})
	}
	origin := echoing(func(*http.Request) string { return "x" })
	h := newCache(t, cache.Config{}).Middleware(origin)
	for _, peers := range []string{
		`for=192.0.2.43;proto=https`, `for="192.0.2.43:47011"; proto=https`, `proto=https;by=_SEVKISEK`,
		`for="[2001:db8:cafe::17]:4711" ; proto=https ; by=unknown`, `For="_gazonk-1.2";proto=https`,
		`for=[2001:db8::1];proto=https`,
	} {
		get(h, "/", "Forwarded", peers)
	}
	require.EqualValues(t, 1, origin.calls.Load(), "peers make no key")
	// Which of several elements a handler believes is its own affair.
	last := newCache(t, cache.Config{}).Middleware(echoing(func(r *http.Request) string {
		elements := strings.Split(strings.Join(r.Header["Forwarded"], ","), ",")
		return elements[len(elements)-1]
	}))
	require.Equal(t, " for=x", text(t, get(last, "/", "Forwarded", "host=a, for=x")))
	require.Equal(t, "host=a", text(t, get(last, "/", "Forwarded", "host=a")))
}

// Some servers begin a parameter behind a semicolon too.
func TestC03_NoParameterHidesInAnIgnoredOne(t *testing.T) {
	for _, fields := range [][]string{nil, {"No-Vary-Search", `params=("utm_a")`}} {
		cfg := cache.Config{IgnoreQuery: []string{"utm_*"}}
		if fields != nil {
			cfg = cache.Config{}
		}
		h := newCache(t, cfg).Middleware(saying(func(r *http.Request) string { return r.URL.RawQuery },
			append(fields, "Cache-Control", "max-age=60")...))
		require.Equal(t, "utm_a=0", text(t, get(h, "/?utm_a=0")))
		require.Equal(t, "utm_a=0", text(t, get(h, "/?utm_a=1")))
		require.Equal(t, "utm_a=1;id=evil", text(t, get(h, "/?utm_a=1;id=evil")))
		require.Equal(t, "utm_a=0", text(t, get(h, "/?utm_a=2")))
		require.Equal(t, "utm_a;id=2", text(t, get(h, "/?utm_a;id=2")))
	}
}
