package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
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
	require.Equal(t, want, of("secret", "made up"))
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
