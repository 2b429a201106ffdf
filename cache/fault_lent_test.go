package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// Frameworks tag every page, and say nothing of caches. Such a page is kept for its tag alone:
// nothing that a client asks for, and no failure of the origin, shows one user's page to another.
func TestC34_C40_APageThatWasNeverFreshIsShownToItsOwnClientOnly(t *testing.T) {
	for _, control := range []string{"", "max-age=0"} {
		for _, asked := range []string{"", "max-stale", "max-stale=1000", "stale-if-error=1000"} {
			for _, status := range []int{200, 500, 502} {
				t.Run(fmt.Sprint(control, " ", asked, " ", status), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						down := false
						h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
							func(w http.ResponseWriter, r *http.Request) {
								if down {
									w.WriteHeader(status)
									return
								}
								w.Header().Set("Etag", `"`+r.Header.Get("Cookie")+`"`)
								if control != "" {
									w.Header().Set("Cache-Control", control)
								}
								fmt.Fprint(w, "account of ", r.Header.Get("Cookie"))
							}))
						get(h, "/", "Cookie", "alice")
						time.Sleep(time.Second)
						down = status != 200
						require.NotContains(t, text(t, get(h, "/", "Cache-Control", asked)), "alice")
					})
				})
			}
		}
	}
}

// The user of a private cache is always the same one.
func TestC34_APrivateCacheMayUseWhatWasNeverFresh(t *testing.T) {
	h := newCache(t, cache.Config{Private: true}).Middleware(saying(fixed("x"), "Etag", `"1"`))
	get(h, "/")
	require.True(t, fromCache(get(h, "/", "Cache-Control", "max-stale")))
}

// Express tags a body before it is compressed: one weak tag for all codings. Others keep a strong
// one.
func TestC64_ATagThatCodingsShareLendsNoCodingToOthers(t *testing.T) {
	for _, tag := range []string{`W/"abc"`, `"abc"`} {
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Etag", tag)
				w.Header().Set("Vary", "Accept-Encoding")
				w.Header().Set("Cache-Control", "max-age=60")
				switch {
				case r.Header.Get("If-None-Match") != "":
					w.WriteHeader(http.StatusNotModified)
				case r.Header.Get("Accept-Encoding") == "gzip":
					w.Header().Set("Content-Encoding", "gzip")
					_, _ = io.WriteString(w, "zipped")
				default:
					_, _ = io.WriteString(w, "plain")
				}
			}))
		require.Equal(t, "zipped", text(t, get(h, "/", "Accept-Encoding", "gzip")))
		resp := get(h, "/")
		require.Equal(t, "plain", text(t, resp), tag)
		require.Empty(t, resp.Header.Get("Content-Encoding"))
	}
}

// A weak tag tells one version of a resource from another, and not one variant from another.
func TestC64_AWeakTagOfAnotherVariantIsNotLent(t *testing.T) {
	for tag, lent := range map[string]string{`W/"1"`: "", `"1"`: `"1"`} {
		var asked []string
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Header.Get("If-None-Match"))
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Vary", "Accept-Language")
				w.Header().Set("Etag", tag)
			}))
		get(h, "/", "Accept-Language", "de")
		get(h, "/", "Accept-Language", "en")
		require.Equal(t, []string{"", lent}, asked)
	}
}

// An origin whose tag is that of a template must not make the cache show one user's page to
// another.
func TestC15_TheTagOfAnotherUsersPageIsNotLent(t *testing.T) {
	for _, name := range []string{"Cookie", "Authorization"} {
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Etag", `"template-1"`)
				w.Header().Set("Vary", name)
				w.Header().Set("Cache-Control", "public, max-age=60")
				if r.Header.Get("If-None-Match") != "" {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				fmt.Fprint(w, who(r))
			}))
		require.Equal(t, "for <alice>", text(t, get(h, "/", name, "alice")))
		require.Equal(t, "for <bob>", text(t, get(h, "/", name, "bob")))
	}
}

func TestC64_EveryOneOfSeveralCodingsMustBeAccepted(t *testing.T) {
	for coding, shared := range map[string]bool{
		"gzip, br": false, "br, gzip": false, "GZIP": false, "dcb": false, "aws-chunked": true,
		"identity": true,
	} {
		h := newCache(t, cache.Config{}).Middleware(
			&counted{serve: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Content-Encoding", coding)
			}})
		get(h, "/", "Accept-Encoding", "gzip, br, dcb")
		hit := fromCache(get(h, "/", "Accept-Encoding", "gzip"))
		require.Equal(t, shared || coding == "GZIP", hit, coding)
		require.Equal(t, shared, fromCache(get(h, "/")), coding)
	}
}

// A handler that writes to the header's map may spell a name as it likes.
func TestC20_C12_TheSpellingOfAFieldHidesNothing(t *testing.T) {
	for _, field := range [][2]string{
		{"set-cookie", "id=1"}, {"SET-COOKIE", "id=1"}, {"cache-control", "private"}, {"VARY", "*"},
		{"cdn-cache-control", "no-store"},
	} {
		t.Run(field[0], func(t *testing.T) {
			origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Expires", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
				w.Header()[field[0]] = []string{field[1]}
				_, _ = io.WriteString(w, "x")
			}}
			h := newCache(t, cache.Config{}).Middleware(origin)
			require.NotEmpty(t, get(h, "/").Header.Get(field[0]), "its own client gets the field")
			get(h, "/")
			require.EqualValues(t, 2, origin.calls.Load())

			sent := 0
			client := newCache(t, cache.Config{}).Transport(senderFunc(
				func(*http.Request) (*http.Response, error) {
					sent++
					later := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
					resp := reply(200, "x", "Expires", later)
					resp.Header[field[0]] = []string{field[1]}
					return resp, nil
				}))
			for range 2 {
				resp, err := client.RoundTrip(newRequest(http.MethodGet, "http://a/"))
				require.NoError(t, err)
				require.Equal(t, "x", text(t, resp))
			}
			require.Equal(t, 2, sent)
		})
	}
}

// What is set around the handler for the client of a HEAD is no news of the resource.
func TestC50_AHeadUpdatesWithTheHandlersFieldsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newCache(t, cache.Config{}).Middleware(
			saying(fixed("x"), "Cache-Control", "max-age=60", "Etag", `"1"`))
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", r.Header.Get("Id"))
			inner.ServeHTTP(w, r)
		})
		get(h, "/", "Id", "1")
		time.Sleep(2 * time.Minute)
		r := httptest.NewRequest(http.MethodHead, "/", nil)
		r.Header.Set("Id", "2")
		do(h, r)
		resp := get(h, "/", "Id", "3")
		require.True(t, fromCache(resp), "the HEAD made it fresh")
		require.Equal(t, "3", resp.Header.Get("X-Request-Id"))
	})
}

// Sessions and CSRF tokens are kept around the handler, which sends what depends on them.
func TestC15_CredentialsInAVaryAroundTheHandlerCount(t *testing.T) {
	for _, vary := range []string{"Cookie", "Accept, cookie", "*"} {
		inner := newCache(t, cache.Config{}).Middleware(saying(who, "Cache-Control", "max-age=60"))
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Vary", vary)
			inner.ServeHTTP(w, r)
		})
		for _, name := range []string{"alice", "bob", "alice"} {
			require.Equal(t, "for <"+name+">", text(t, get(h, "/", "Cookie", name)), vary)
		}
	}
}

func TestMiddleware_WhatMustBeValidatedAroundTheHandlerIsNotStored(t *testing.T) {
	for _, control := range []string{"no-cache", "max-age=0", "s-maxage=0"} {
		origin := saying(fixed("x"), "Last-Modified", ago(24*time.Hour))
		inner := newCache(t, cache.Config{}).Middleware(origin)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", control)
			inner.ServeHTTP(w, r)
		})
		get(h, "/")
		get(h, "/")
		require.EqualValues(t, 2, origin.calls.Load(), control)
	}
}

// A store may hold what another cache was allowed to keep, or this one before its settings changed.
func TestMemoryStore_EachCacheReadsByItsOwnSettings(t *testing.T) {
	for name, test := range map[string]struct {
		first, second cache.Config
		fields        []string
	}{
		"set-cookie": {cache.Config{StoreSetCookie: true}, cache.Config{},
			[]string{"Cache-Control", "max-age=60", "Set-Cookie", "id=1"}},
		"heuristic": {cache.Config{}, cache.Config{Heuristic: -1},
			[]string{"Last-Modified", ago(24 * time.Hour)}},
		"targeted": {cache.Config{}, cache.Config{TargetedFields: []string{}},
			[]string{"Cdn-Cache-Control", "max-age=60", "Cache-Control", "no-cache"}},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
			require.NoError(t, err)
			test.first.Store, test.second.Store = store, store
			origin := saying(fixed("x"), test.fields...)
			first := newCache(t, test.first).Middleware(origin)
			second := newCache(t, test.second).Middleware(origin)
			get(first, "/")
			require.True(t, fromCache(get(first, "/")))
			require.False(t, fromCache(get(second, "/")))
		})
	}
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	origin := saying(fixed("x"), "Cache-Control", "max-age=60", "X-Secret", "1")
	get(newCache(t, cache.Config{Store: store}).Middleware(origin), "/")
	resp := get(newCache(t, cache.Config{Store: store, Drop: []string{"X-Secret"}}).Middleware(origin), "/")
	require.True(t, fromCache(resp))
	require.Empty(t, resp.Header.Get("X-Secret"))
}
