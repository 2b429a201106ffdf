package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// sparing serves ranges of digits, and tells what they are only to those who do not know yet (RFC
// 9110, section 15.3.7).
func sparing() *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Etag", `"1"`)
		var first, last int
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); n == 1 {
			last = len(digits) - 1
		} else if n == 0 {
			w.Header().Set("Content-Type", "text/digits")
			_, _ = io.WriteString(w, digits)
			return
		}
		if r.Header.Get("If-Range") == "" {
			w.Header().Set("Content-Type", "text/digits")
		} else {
			w.Header()["Content-Type"] = nil // net/http would guess
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(digits)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, digits[first:last+1])
	}}
}

func TestC47_APartForWhomKnowsTheRestIsNotStoredAlone(t *testing.T) {
	overBoth(t, func() http.Handler {
		return newCache(t, cache.Config{}).Middleware(sparing())
	}, func(t *testing.T, client *http.Client, url string) {
		resp := fetch(t, client, url, "Range", "bytes=0-3", "If-Range", `"1"`)
		require.Equal(t, http.StatusPartialContent, resp.StatusCode)
		require.Equal(t, "0123", text(t, resp))
		require.Contains(t, resp.Header.Get("Cache-Status"), "fwd=")
		require.NotContains(t, resp.Header.Get("Cache-Status"), "stored")
		for _, fields := range [][]string{{"Range", "bytes=0-3"}, nil, nil} {
			resp := fetch(t, client, url, fields...)
			require.Equal(t, "text/digits", resp.Header.Get("Content-Type"))
			require.True(t, strings.HasPrefix(digits, text(t, resp)))
		}
	})
}

func TestC47_APartForWhomKnowsTheRestIsJoinedWithTheSameVersion(t *testing.T) {
	origin := sparing()
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/", "Range", "bytes=0-3")
	require.Equal(t, "45", text(t, get(h, "/", "Range", "bytes=4-5", "If-Range", `"1"`)))
	resp := get(h, "/", "Range", "bytes=2-5")
	require.Equal(t, "2345", text(t, resp))
	require.Equal(t, "text/digits", resp.Header.Get("Content-Type"))
	require.EqualValues(t, 2, origin.calls.Load())
}

// The range that one client happens to ask for must not decide what the whole is for all.
func TestC47_TheTypeIsNotGuessedFromAPart(t *testing.T) {
	const body = "%PDF-1.7 and so on"
	overBoth(t, func() http.Handler {
		return newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Etag", `"1"`)
				if r.Header.Get("Range") == "" {
					_, _ = io.WriteString(w, body)
					return
				}
				var first, last int
				if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); n == 1 {
					last = len(body) - 1
				}
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(body)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = io.WriteString(w, body[first:last+1])
			}))
	}, func(t *testing.T, client *http.Client, url string) {
		require.Equal(t, body[:2], text(t, fetch(t, client, url, "Range", "bytes=0-1")))
		for range 2 {
			resp := fetch(t, client, url)
			require.Equal(t, body, text(t, resp))
			require.Equal(t, "application/pdf", resp.Header.Get("Content-Type"))
		}
	})
}
