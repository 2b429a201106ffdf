package ratelimit_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
)

func TestR05_ByPattern(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("GET /items/{id}", nothing)
	outside, inside := ratelimit.ByPattern(mux), ratelimit.ByPattern(nil)
	for _, path := range []string{"/items/1", "/items/2", "/items/%31", "/items/A", "/items/a?x=1"} {
		key, ok := outside(httptest.NewRequest("GET", path, nil))
		require.True(t, ok, path)
		require.Equal(t, "GET /items/{id}", key, path)
	}
	_, ok := outside(httptest.NewRequest("GET", "/nowhere", nil))
	require.False(t, ok)
	r := httptest.NewRequest("GET", "/items/1", nil)
	_, ok = inside(r)
	require.False(t, ok)
	r.Pattern = "GET /items/{id}"
	key, ok := inside(r)
	require.True(t, ok)
	require.Equal(t, r.Pattern, key)
}

func TestR06_VariantsOfOneKey(t *testing.T) {
	byKey := ratelimit.ByHeader("x-api-key")
	of := func(values ...string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Api-Key"] = values
		key, ok := byKey(r)
		require.Equal(t, ok, key != "")
		return key
	}
	want := of("secret")
	require.Equal(t, want, of(" secret\t"))
	require.Empty(t, of("secret", "made up"), "a server behind might take another one")
	require.NotEqual(t, want, of("Secret"), "credentials have case")
	require.Len(t, want, 16)
	require.NotContains(t, want, "secret", "hashed")
	require.Empty(t, of())
	require.Empty(t, of(""))
	require.Empty(t, of(" \t"))

	byCredentials := ratelimit.ByHeader("Authorization")
	ofCredentials := func(value string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", value)
		key, _ := byCredentials(r)
		return key
	}
	for _, value := range []string{
		"bearer Token", "BEARER Token", "Bearer   Token", "bEARER\tToken", " Bearer Token ",
	} {
		require.Equal(t, ofCredentials("Bearer Token"), ofCredentials(value), value)
	}
	require.NotEqual(t, ofCredentials("Bearer Token"), ofCredentials("Bearer token"))
	require.NotEqual(t, ofCredentials("token"), ofCredentials("Token"), "no scheme")

	byHost := ratelimit.ByHeader("host")
	ofHost := func(host string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		key, _ := byHost(r)
		return key
	}
	for _, host := range []string{
		"API.example.org", "api.example.org.", "api.example.org:8080", "api.example.org.:80",
	} {
		require.Equal(t, ofHost("api.example.org"), ofHost(host), host)
	}
	require.Equal(t, ofHost("[::1]"), ofHost("[::1]:80"))
	require.NotEqual(t, ofHost("[::1]"), ofHost("[::2]"))

	mux := http.NewServeMux()
	mux.Handle("GET /a", nothing)
	get, _ := ratelimit.ByPattern(mux)(httptest.NewRequest("GET", "/a", nil))
	head, _ := ratelimit.ByPattern(mux)(httptest.NewRequest("HEAD", "/a", nil))
	require.Equal(t, get, head)
}

func TestJoinNeverCollides(t *testing.T) {
	fixed := func(s string) ratelimit.KeyFunc {
		return func(*http.Request) (string, bool) { return s, s != "" }
	}
	r := httptest.NewRequest("GET", "/", nil)
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.StringN(1, 3, 200), 1, 4)
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		join := func(parts []string) string {
			var keys []ratelimit.KeyFunc
			for _, p := range parts {
				keys = append(keys, fixed(p))
			}
			key, ok := ratelimit.Join(keys...)(r)
			require.True(t, ok)
			return key
		}
		require.Equal(t, join(a) == join(b), equal(a, b))
	})
	_, ok := ratelimit.Join(fixed("a"), fixed(""))(r)
	require.False(t, ok)
	_, ok = ratelimit.Join()(r)
	require.False(t, ok)

	// A part that is missing is a fault, not a shorter key.
	p := policyOf("p", ratelimit.PerDay(1))
	p.Key = ratelimit.Join(fixed("a"), nil)
	_, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{p}})
	require.EqualError(t, err, "ratelimit: Config.Policies[0].Key: is required")
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestR33_SeveralValuesAreNoKey: also if they are the same, or all but one are empty.
func TestR33_SeveralValuesAreNoKey(t *testing.T) {
	for _, values := range [][]string{{"a", "b"}, {"a", "a"}, {"", "a"}, {"a", ""}, {"", ""}} {
		for _, name := range []string{"X-Api-Key", "Authorization"} {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header[name] = values
			_, ok := ratelimit.ByHeader(name)(r)
			require.False(t, ok, "%s: %q", name, values)
			_, ok = ratelimit.Join(ratelimit.ByHeader(name), ratelimit.ByPeer)(r)
			require.False(t, ok)
		}
	}
	p := policyOf("p", ratelimit.PerHour(1))
	p.Key, p.Missing = ratelimit.ByHeader("X-Api-Key"), ratelimit.MissingReject
	h := limiterOf(t, p).Middleware(nothing)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["X-Api-Key"] = []string{"", "real"}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusBadRequest, w.Code, "it can be refused")
}

// TestR33_OneReadingForAll: over a real connection, whatever is sent, what goes on has one value in
// one spelling.
func TestR33_OneReadingForAll(t *testing.T) {
	got := make(chan http.Header, 1)
	signs := strings.NewReplacer("_", "-", ".", "-")
	s := httptest.NewServer(unambiguous(t, "x-api-key", "Authorization")(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			r.Pattern = "/seen"
			got <- r.Header
		})))
	defer s.Close()
	for fields, want := range map[string]string{ // "" is 400
		"X-Api-Key: a":                 "a",
		"x-api-KEY: a":                 "a",
		"X-Api-Key: a\r\nX_Api_Key: b": "a",
		"X_Api_Key: b\r\nX-Api-Key: a\r\nx.api.key: c":     "a",
		"X-Api-Key: a\r\nX-Api-Key: b":                     "",
		"X-Api-Key:\r\nx-api-key: a":                       "",
		"X_API_KEY: a":                                     "none",
		"X-Api-Keys: a, b\r\nX-Api-Keys: c":                "none",
		"Authorization: Basic a\r\nAuthorization: Basic b": "",
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", fields)
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		conn.Close()
		if want == "" {
			require.Equal(t, http.StatusBadRequest, resp.StatusCode, fields)
			continue
		}
		require.Equal(t, http.StatusOK, resp.StatusCode, fields)
		h := <-got
		n := 0
		for name, values := range h {
			if signs.Replace(strings.ToLower(name)) == "x-api-key" {
				require.Equal(t, "X-Api-Key", name, fields)
				require.Equal(t, []string{want}, values, fields)
				n++
			}
		}
		require.Equal(t, want != "none", n == 1, fields)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["X_api_key"] = []string{"b"}
	unambiguous(t, "X-Api-Key")(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		r.Pattern = "/seen"
	})).ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, "/seen", r.Pattern)
	require.Contains(t, r.Header, "X_api_key", "the caller's header is left alone")
	require.PanicsWithValue(t, "ratelimit: nil handler", func() { unambiguous(t, "A")(nil) })
}

func unambiguous(t *testing.T, names ...string) func(http.Handler) http.Handler {
	t.Helper()
	middleware, err := ratelimit.Unambiguous(names...)
	require.NoError(t, err)
	return middleware
}

// A field by such a name is never there: with MissingSkip the limit would be off.
func TestR33_WhatIsNoFieldNameIsRefused(t *testing.T) {
	for _, name := range []string{"", "X Api Key", "X-Api-Key:", " X-Api-Key", "X-Api-Key\n", "Schlüssel"} {
		require.Nil(t, ratelimit.ByHeader(name), name)
		p := policyOf("p", ratelimit.PerDay(1))
		p.Key, p.Missing = ratelimit.Join(ratelimit.ByHeader(name), ratelimit.ByPeer), ratelimit.MissingSkip
		_, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{p}})
		require.EqualError(t, err, "ratelimit: Config.Policies[0].Key: is required")

		_, err = ratelimit.Unambiguous("X-Api-Key", name, "!#$%&'*+-.^_`|~09azAZ", name)
		want := fmt.Sprintf("ratelimit: Unambiguous: %q is not the name of a header field", name)
		require.EqualError(t, err, want+"\n"+want)
	}
	require.NotNil(t, ratelimit.ByHeader("!#$%&'*+-.^_`|~09azAZ"))
}

// A client that is still sending gets its 400 all the same.
func TestR33_AnAmbiguousFieldIsAnsweredToAClientThatStillSends(t *testing.T) {
	const size = 8 << 20
	s := httptest.NewServer(unambiguous(t, "X-Api-Key")(nothing))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: a\r\nX-Api-Key: b\r\n"+
		"Content-Length: %d\r\n\r\n", size)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	_, err = conn.Write(make([]byte, size))
	require.NoError(t, err, "what is left is read")
}
