package cache_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// How stale a response may be that stands in for a failure counts when the fetch has failed.
func TestC40_AFetchThatFailsLateIsJudgedWhenItHasFailed(t *testing.T) {
	for _, test := range []struct {
		took   time.Duration
		status int
		age    string
	}{{5 * time.Second, 200, "68"}, {time.Minute, 500, ""}} {
		synctest.Test(t, func(t *testing.T) {
			origin := &counted{}
			origin.serve = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60, stale-if-error=10")
				if origin.calls.Load() > 1 {
					time.Sleep(test.took)
					w.Header().Set("Cache-Control", "no-store")
					w.WriteHeader(http.StatusInternalServerError)
				}
			}
			h := newCache(t, cache.Config{}).Middleware(origin)
			get(h, "/")
			time.Sleep(63 * time.Second)
			resp := get(h, "/")
			require.Equal(t, test.status, resp.StatusCode)
			require.Equal(t, test.age, resp.Header.Get("Age"))
		})
	}
}

// A response that is purged while its replacement is being fetched does not stand in for that.
func TestC40_APurgeDuringAFetchCounts(t *testing.T) {
	origin := &counted{}
	var c *cache.Cache
	origin.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60, stale-if-error=600")
		if origin.calls.Load() > 1 {
			require.NoError(t, c.PurgeURL(r.Context(), "http://example.com/", cache.Hard))
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		c = newCache(t, cache.Config{})
		h := c.Middleware(origin)
		get(h, "/")
		time.Sleep(63 * time.Second)
		require.Equal(t, http.StatusServiceUnavailable, get(h, "/").StatusCode)
	})
}
