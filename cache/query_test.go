package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func query(h http.Handler, body, contentType string) *http.Response {
	r := httptest.NewRequest("QUERY", "/search", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return do(h, r)
}

func reflecting() *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("Content-Type"), b)
	}}
}

func TestQuery_BodyAndItsMeaningAreInTheKey(t *testing.T) {
	origin := reflecting()
	h := newCache(t, cache.Config{}).Middleware(origin)
	for range 2 {
		require.Equal(t, "QUERY text/plain a", text(t, query(h, "a", "text/plain")))
		require.Equal(t, "QUERY text/plain b", text(t, query(h, "b", "text/plain")))
		require.Equal(t, "QUERY text/sql a", text(t, query(h, "a", "text/sql")))
		require.Equal(t, "QUERY text/plain ", text(t, query(h, "", "text/plain")))
		require.Equal(t, "GET  ", text(t, get(h, "/search")))
	}
	require.EqualValues(t, 5, origin.calls.Load())
}

func TestQuery_ALargeBodyPasses(t *testing.T) {
	origin := reflecting()
	h := newCache(t, cache.Config{MaxBody: 10}).Middleware(origin)
	for range 2 {
		require.Equal(t, "QUERY x 0123456789A", text(t, query(h, "0123456789A", "x")))
		require.Equal(t, "QUERY x 0123456789", text(t, query(h, "0123456789", "x")))
	}
	require.EqualValues(t, 3, origin.calls.Load())
}

func TestIgnoreQuery(t *testing.T) {
	origin := echoing(func(r *http.Request) string { return r.URL.RawQuery })
	h := newCache(t, cache.Config{IgnoreQuery: []string{"utm_*", "fbclid"}}).Middleware(origin)
	require.Equal(t, "a=1&utm_source=x&b=2", text(t, get(h, "/?a=1&utm_source=x&b=2")))
	for _, q := range []string{"?a=1&b=2", "?fbclid=1&a=1&b=2", "?a=1&%75tm_x=y&b=2&utm_"} {
		require.Equal(t, "a=1&utm_source=x&b=2", text(t, get(h, "/"+q)), q)
	}
	for _, q := range []string{"?b=2&a=1", "?a=1&b=2&autm_x=1", "?a=1", "?a=1&b=2&fbclid2=1"} {
		require.Equal(t, q[1:], text(t, get(h, "/"+q)))
	}
}

func TestNoVarySearch(t *testing.T) {
	for _, test := range []struct {
		rule, first string
		same, other []string
	}{
		{`params=("utm" "x y")`, "?a=1&utm=2", []string{"?a=1", "?utm=3&a=1", "?a=1&x+y=1",
			"?a=1&x%20y"}, []string{"?a=2", "?a=1&b=1", "?A=1"}},
		{`params`, "?a=1", []string{"", "?b=2"}, nil},
		{`params, except=("id")`, "?id=1&t=2", []string{"?id=1", "?t=9&id=1"}, []string{"?id=2", "?",
			"?id=1&id=2"}},
		{`key-order`, "?a=1&b=2&a=3", []string{"?b=2&a=1&a=3", "?a=1&a=3&b=2"}, []string{"?a=3&b=2&a=1",
			"?a=1&b=2"}},
		{`except=("id")`, "?id=1&t=2", nil, []string{"?id=1", "?t=2&id=1"}},
		{`params="x"`, "?a=1", nil, []string{"?a=1&x=1"}},
		{`params=(1)`, "?a=1", nil, []string{"?a=1&1=1"}},
		{`&`, "?a=1", nil, []string{"?a=1&b=1"}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("No-Vary-Search", test.rule)
			}}
			c := newCache(t, cache.Config{})
			h := c.Middleware(origin)
			get(h, "/p"+test.first)
			get(h, "/p"+test.first)
			for _, q := range test.same {
				get(h, "/p"+q)
				require.EqualValues(t, 1, origin.calls.Load(), q)
			}
			for i, q := range test.other {
				get(h, "/p"+q)
				require.EqualValues(t, 2+i, origin.calls.Load(), q)
			}
			get(h, "/q"+test.first)
			require.EqualValues(t, 2+len(test.other), origin.calls.Load(), "another path")
			for _, q := range test.same {
				before := origin.calls.Load()
				require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/p"+q, cache.Hard))
				get(h, "/p"+test.first)
				require.EqualValues(t, before+1, origin.calls.Load(), "purged by an equal URL")
			}
		})
	}
}

func TestNoVarySearch_ARuleThatHoldsNoMoreIsForgotten(t *testing.T) {
	rule := "params"
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if rule != "" {
			w.Header().Set("No-Vary-Search", rule)
		}
		_, _ = io.WriteString(w, r.URL.RawQuery)
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/?a=1")
	require.Equal(t, "a=1", text(t, get(h, "/?a=2")))
	rule = ""
	require.Equal(t, "a=3", text(t, get(h, "/?a=3", "Cache-Control", "no-cache")))
	require.Equal(t, "a=3", text(t, get(h, "/?a=3")))
	require.Equal(t, "a=4", text(t, get(h, "/?a=4")))
}
