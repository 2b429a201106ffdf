package cache_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A quote without an end, or where none belongs, hides no directive behind it.
func TestAStrayQuoteHidesNoDirective(t *testing.T) {
	modified := time.Now().Add(-1000 * time.Hour).UTC().Format(http.TimeFormat)
	for _, control := range []string{
		`x", private`, `x", no-store`, `x=", private`, `x="a, no-store`, `x="a\", private`,
		`x="a"b", private`,
		`max-age=60", private`, `", private`, `x="a", private`, `private="X-A`, `private="`,
		`x="a\` + `", no-store`,
	} {
		origin := numbered("Cache-Control", control, "Last-Modified", modified)
		h := newCache(t, cache.Config{}).Middleware(origin)
		require.Equal(t, "1", text(t, get(h, "/")), control)
		require.Equal(t, "2", text(t, get(h, "/")), control)
	}
	h := newCache(t, cache.Config{}).Middleware(numbered("Cache-Control", `x="a, no-store", max-age=60`))
	require.Equal(t, "1", text(t, get(h, "/")))
	require.Equal(t, "1", text(t, get(h, "/")), "it is in a quoted string")
}

// RFC 9111, section 5.2.1.5: no-store of a request forbids to store its response.
func TestNoStoreOfAPostIsHeeded(t *testing.T) {
	for _, fields := range [][]string{
		{"Cache-Control", "no-store"}, {"Connection", "X-Tea"}, nil,
	} {
		origin := numbered("Cache-Control", "max-age=60", "Content-Location", "/")
		h := newCache(t, cache.Config{}).Middleware(origin)
		post := newRequest(http.MethodPost, "/")
		for i := 0; i < len(fields); i += 2 {
			post.Header.Set(fields[i], fields[i+1])
		}
		require.Equal(t, "1", text(t, do(h, post)))
		require.Equal(t, fields == nil, text(t, get(h, "/")) == "1")
	}
}
