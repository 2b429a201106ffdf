package cache_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

// Whatever stands in one part of a request is never taken for another: each request gets what the
// handler says to just that one.
func TestC04_NoPartOfAKeyPassesForAnother(t *testing.T) {
	type parts struct{ Method, Host, Path, Query, Extra, Forwarded, Body, Type, Encoding string }
	of := func(r *http.Request, body string) parts {
		return parts{
			r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery,
			r.Header.Get("Extra"), r.Header.Get("X-Host"), body,
			r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"),
		}
	}
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprintf(w, "%+q", of(r, string(body)))
	}}
	c := newCache(t, cache.Config{KeyExtra: extra})
	h := c.Middleware(origin)
	short := rapid.StringOfN(rapid.SampledFrom([]rune{'a', '/', '|'}), 0, 2, -1)
	rapid.Check(t, func(t *rapid.T) {
		for range 40 {
			method := rapid.SampledFrom([]string{http.MethodGet, "QUERY"}).Draw(t, "method")
			r := httptest.NewRequest(method, "/", nil)
			r.Host = rapid.SampledFrom([]string{"a", "a:1"}).Draw(t, "host")
			r.URL = &url.URL{Path: "/" + short.Draw(t, "path"), RawQuery: short.Draw(t, "query")}
			body := ""
			if method == "QUERY" {
				body = short.Draw(t, "body")
				r.Body = io.NopCloser(strings.NewReader(body))
				r.ContentLength = int64(len(body))
				r.Header.Set("Content-Type", short.Draw(t, "type"))
			} else {
				r.Header.Set("Extra", short.Draw(t, "extra"))
				r.Header.Set("X-Host", short.Draw(t, "unkeyed"))
			}
			want := of(r, body)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if got := w.Body.String(); got != fmt.Sprintf("%+q", want) {
				t.Fatalf("%+q got %s", want, got)
			}
		}
	})
	require.Positive(t, c.Stats().Requests[cache.Hit], "some of the requests were the same")
}

// A store that finds another key's responses, as one with short or weak hashes would, is not
// believed.
func TestC05_WhatIsStoredIsComparedWithTheWholeKey(t *testing.T) {
	store := newSpyStore(t, cache.MemoryStoreConfig{})
	var first *cache.Resource
	store.lie = func(_ cache.Key, r *cache.Resource) *cache.Resource {
		if r != nil && first == nil {
			first = r
		}
		return first
	}
	origin := saying(func(r *http.Request) string { return r.URL.Path }, "Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{Store: store}).Middleware(origin)
	for range 2 {
		for _, path := range []string{"/a", "/b"} {
			require.Equal(t, path, text(t, get(h, path)))
		}
	}
	require.True(t, fromCache(get(h, "/a")))
}

// Targets that an origin may tell apart are not merged, and what is forwarded is what is keyed.
func TestC06_TargetsAreNotNormalised(t *testing.T) {
	origin := saying(func(r *http.Request) string { return r.Host + " " + r.RequestURI },
		"Cache-Control", "max-age=60")
	server := httptest.NewServer(newCache(t, cache.Config{}).Middleware(origin))
	defer server.Close()
	targets := []string{
		"/a%2f..%2fb", "/a%2F..%2Fb", "/a/../b", "/b", "//a", "/a", "/a/", "/A", "/%61", "/a;x", "/a%3bx",
		"/a%3Bx", "/a%00", "/a/.", "/a/./b", "/a//b", "/a/b", "/a%2fb", "/a?", "/a?/", "/a%3F", "/..;x=/a",
		"/a%5cb", "/",
	}
	hosts := []string{"example.com", "example.com.", "example.org", "example.com:8080", "a.example.com"}
	for range 2 {
		for _, host := range hosts {
			for _, target := range targets {
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				require.NoError(t, err)
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, host)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				require.Equal(t, host+" "+target, text(t, resp))
				conn.Close()
			}
		}
	}
}

// net/http refuses what would reach handlers in different forms.
func TestC11_FieldsWithControlCharactersStoreNothing(t *testing.T) {
	origin := saying(func(r *http.Request) string { return r.Header.Get("X-Meta") },
		"Cache-Control", "max-age=60")
	server := httptest.NewServer(newCache(t, cache.Config{}).Middleware(origin))
	defer server.Close()
	for _, value := range []string{"a\ab", "a\x00b", "a\rb", "a\x7fb"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		fmt.Fprintf(conn, "GET /meta HTTP/1.1\r\nHost: example.com\r\nX-Meta: %s\r\n\r\n", value)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, resp.StatusCode)
		conn.Close()
	}
	require.Zero(t, origin.calls.Load())
	resp, _ := askServer(t, server, http.MethodGet)
	require.False(t, fromCache(resp))
}

func TestC59_SchemeHostAndPortAreInTheKey(t *testing.T) {
	origin := saying(func(r *http.Request) string {
		return fmt.Sprint(r.TLS != nil, " ", r.Host)
	}, "Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{}).Middleware(origin)
	for range 2 {
		for _, host := range []string{"example.com", "example.com:81", "example.org", "www.example.com"} {
			for _, secure := range []bool{false, true} {
				r := request("/")
				r.Host = host
				if secure {
					r.TLS = &tls.ConnectionState{}
				}
				require.Equal(t, fmt.Sprint(secure, " ", host), text(t, do(h, r)))
			}
		}
	}
	calls := origin.calls.Load()
	// A target in absolute form is the same as one in origin form (RFC 9112, section 3.2.2).
	r := request("/")
	r.Host, r.URL.Scheme, r.URL.Host = "example.com", "http", "example.com"
	require.Equal(t, "false example.com", text(t, do(h, r)))
	require.Equal(t, calls, origin.calls.Load())
}

// In a Transport the URL tells the origin.
func TestC59_TransportsKeyTheURLsOrigin(t *testing.T) {
	sent := 0
	client := newCache(t, cache.Config{Private: true}).Transport(senderFunc(
		func(r *http.Request) (*http.Response, error) {
			sent++
			return reply(200, r.URL.String(), "Cache-Control", "max-age=60"), nil
		}))
	for range 2 {
		for _, target := range []string{
			"http://a/", "https://a/", "http://a:81/", "https://a:81/", "http://b/",
		} {
			r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, target, nil)
			require.NoError(t, err)
			resp, err := client.RoundTrip(r)
			require.NoError(t, err)
			require.Equal(t, target, text(t, resp))
			resp.Body.Close()
		}
	}
	require.Equal(t, 5, sent)
}

// A senderFunc is a RoundTripper.
type senderFunc func(*http.Request) (*http.Response, error)

func (f senderFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reply returns a response with those fields, names and values in turn.
func reply(status int, body string, fields ...string) *http.Response {
	w := httptest.NewRecorder()
	for i := 0; i < len(fields); i += 2 {
		w.Header().Add(fields[i], fields[i+1])
	}
	w.WriteHeader(status)
	_, _ = w.WriteString(body)
	return w.Result()
}

// What KeyExtra does not tell is no value, not even the empty one.
func TestC04_NoExtraIsNotAnEmptyExtra(t *testing.T) {
	origin := saying(func(r *http.Request) string { return fmt.Sprintf("%q", r.Header["Extra"]) },
		"Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{KeyExtra: extra}).Middleware(origin)
	for range 2 {
		require.Equal(t, `[]`, text(t, get(h, "/")))
		require.Equal(t, `[""]`, text(t, get(h, "/", "Extra", "")))
		require.Equal(t, `["1"]`, text(t, get(h, "/", "Extra", "1")))
	}
	require.EqualValues(t, 3, origin.calls.Load())
}

func TestKeyExtra_ThatTellsNothingAddsNothing(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	origin := saying(fixed("x"), "Cache-Control", "max-age=60")
	get(newCache(t, cache.Config{Store: store}).Middleware(origin), "/")
	h := newCache(t, cache.Config{Store: store, KeyExtra: extra}).Middleware(origin)
	require.True(t, fromCache(get(h, "/")))
	require.False(t, fromCache(get(h, "/", "Extra", "")))
}
