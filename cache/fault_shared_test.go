package cache_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// who says whose credentials a request has.
func whoIs(r *http.Request) string {
	return "for <" + r.Header.Get("Authorization") + r.Header.Get("Cookie") + ">"
}

func TestC17_AnswersToCredentialsAreNotStored(t *testing.T) {
	for _, control := range []string{"max-age=60", "max-age=60, no-transform", "private, max-age=60"} {
		h := newCache(t, cache.Config{}).Middleware(saying(who, "Cache-Control", control))
		for _, token := range []string{"a", "b", "a", ""} {
			resp := get(h, "/", "Authorization", token)
			require.Equal(t, "for <"+token+">", text(t, resp), control)
		}
		require.Equal(t, "for <>", text(t, get(h, "/")), control)
	}
	t.Run("a heuristic", func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(saying(who, "Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"))
		get(h, "/", "Authorization", "a")
		require.Equal(t, "for <>", text(t, get(h, "/")))
	})
}

// RFC 9111, section 3.5.
func TestC18_AnswersToCredentialsAreStoredIfTheySaySo(t *testing.T) {
	for control, stale := range map[string]bool{
		"public, max-age=60, stale-if-error=60":          true,
		"s-maxage=60, stale-if-error=60":                 false,
		"must-revalidate, max-age=60, stale-if-error=60": false,
	} {
		t.Run(control, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down := false
				origin := saying(fixed("tea"), "Cache-Control", control)
				h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
					func(w http.ResponseWriter, r *http.Request) {
						if down {
							w.WriteHeader(http.StatusBadGateway)
							return
						}
						origin.ServeHTTP(w, r)
					}))
				get(h, "/", "Authorization", "a")
				require.True(t, fromCache(get(h, "/", "Authorization", "b")))
				require.True(t, fromCache(get(h, "/")))
				require.EqualValues(t, 1, origin.calls.Load())
				// The directive is then obeyed when the response is stale.
				down = true
				time.Sleep(61 * time.Second)
				want := http.StatusBadGateway
				if stale {
					want = http.StatusOK
				}
				require.Equal(t, want, get(h, "/", "Authorization", "a").StatusCode)
			})
		})
	}
}

func TestC19_CredentialsAndWhatIsStoredForAll(t *testing.T) {
	origin := saying(who, "Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{}).Middleware(origin)
	require.Equal(t, "for <>", text(t, get(h, "/")))
	require.Equal(t, "for <>", text(t, get(h, "/", "Authorization", "a")), "the stored one is for all")
	require.Equal(t, "for <a>", text(t, get(h, "/", "Authorization", "a", "Cache-Control", "no-cache")))
	require.Equal(t, "for <>", text(t, get(h, "/")), "it is not replaced by one for a user")
}

func TestC20_WhatSetsACookieIsNotStored(t *testing.T) {
	visitors := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		visitors++
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Header().Set("Set-Cookie", fmt.Sprint("id=", visitors))
		fmt.Fprint(w, visitors)
	})
	h := newCache(t, cache.Config{Detail: true}).Middleware(handler)
	require.Equal(t, "id=1", get(h, "/").Header.Get("Set-Cookie"))
	second := get(h, "/")
	require.Equal(t, "id=2", second.Header.Get("Set-Cookie"))
	require.Contains(t, second.Header.Get("Cache-Status"), "detail=set-cookie")

	h = newCache(t, cache.Config{StoreSetCookie: true}).Middleware(handler)
	require.Equal(t, "id=3", get(h, "/").Header.Get("Set-Cookie"))
	require.Equal(t, "id=3", get(h, "/").Header.Get("Set-Cookie"))
}

// Clients that wait for another's response get it only if its header says that it is for all.
func TestC21_FollowersGetNothingThatIsForOne(t *testing.T) {
	for name, fields := range map[string][2]string{
		"a cookie":  {"Set-Cookie", "id=1"},
		"private":   {"Cache-Control", "private, max-age=60"},
		"no-store":  {"Cache-Control", "no-store"},
		"max-age=0": {"Cache-Control", "max-age=0"},
		"Vary: *":   {"Vary", "*"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{}
				origin.serve = func(w http.ResponseWriter, _ *http.Request) {
					n := origin.calls.Load()
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set(fields[0], fields[1])
					fmt.Fprint(w, n)
				}
				h := newCache(t, cache.Config{}).Middleware(origin)
				var wg sync.WaitGroup
				var visits []*visit
				for range 20 {
					visits = append(visits, visitAs(h, request("/"), &wg))
				}
				wg.Wait()
				bodies := map[string]bool{}
				for _, v := range visits {
					require.False(t, bodies[v.body], "a body that another has")
					bodies[v.body] = true
				}
			})
		})
	}
}

func TestC22_CredentialsFollowNobodyAndLeadNobody(t *testing.T) {
	for name, fields := range map[string][]string{
		"Authorization": {"Authorization", "Bearer a"},
		"Cookie":        {"Cookie", "id=a"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "public, max-age=60")
					fmt.Fprint(w, whoIs(r))
				}}
				h := newCache(t, cache.Config{}).Middleware(origin)
				var wg sync.WaitGroup
				anonymous := []*visit{visitAs(h, request("/"), &wg)}
				synctest.Wait()
				known := []*visit{visitAs(h, request("/", fields...), &wg), visitAs(h, request("/", fields...), &wg)}
				synctest.Wait()
				require.EqualValues(t, 3, origin.calls.Load(), "none of the known waits for another's")
				anonymous = append(anonymous, visitAs(h, request("/"), &wg))
				wg.Wait()
				for _, v := range known {
					require.Equal(t, "for <"+fields[1]+">", v.body)
				}
				for _, v := range anonymous {
					require.Equal(t, "for <>", v.body)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "max-age=60")
					fmt.Fprint(w, whoIs(r))
				}}
				h := newCache(t, cache.Config{}).Middleware(origin)
				var wg sync.WaitGroup
				visitAs(h, request("/", fields...), &wg)
				synctest.Wait()
				anonymous := visitAs(h, request("/"), &wg)
				synctest.Wait()
				require.EqualValues(t, 2, origin.calls.Load(), "a stranger does not wait for a known one's")
				wg.Wait()
				require.Equal(t, "for <>", anonymous.body)
			})
		})
	}
}
