package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// Who writes to the map of a header may spell a name as he likes, and whoever reads what was sent
// does not tell the spellings apart.

// spellings returns other spellings of a name.
func spellings(name string) []string {
	return []string{strings.ToLower(name), strings.ToUpper(name), strings.ToLower(name[:1]) + name[1:],
		strings.ToUpper(name[:2]) + name[2:], name[:len(name)-1] + strings.ToUpper(name[len(name)-1:])}
}

func TestC17_TheSpellingOfARequestsFieldHidesNothing(t *testing.T) {
	for _, plain := range []string{
		"Authorization", "Proxy-Authorization", "Cookie", "X-User", "Forwarded", "X-Forwarded-Host",
		"Sec-Fetch-Site", "User-Agent", "Accept-Language",
	} {
		for _, name := range spellings(plain) {
			client := newCache(t, cache.Config{}).Transport(senderFunc(
				func(r *http.Request) (*http.Response, error) {
					return reply(200, strings.Join(r.Header[name], ""),
						"Cache-Control", "max-age=60", "Vary", "X-User, User-Agent, Accept-Language"), nil
				}))
			for _, value := range []string{"alice", "bob", ""} {
				r := newRequest(http.MethodGet, "http://a/")
				if value != "" {
					r.Header[name] = []string{value}
				}
				resp, err := client.RoundTrip(r)
				require.NoError(t, err)
				require.Equal(t, value, text(t, resp), name)
			}
		}
	}
}

// A condition, a range and a directive reach the server in any spelling, whose answer is the
// client's.
func TestC17_ARequestWithAnOddNameIsAnsweredByTheOrigin(t *testing.T) {
	fields := map[string]string{
		"Range": "bytes=0-1", "If-None-Match": `"1"`, "If-Modified-Since": ago(0), "If-Match": `"2"`,
		"If-Range": `"1"`, "If-Unmodified-Since": ago(time.Hour), "Cache-Control": "no-cache",
		"Pragma": "no-cache", "Upgrade": "x",
	}
	for plain, value := range fields {
		for _, name := range spellings(plain) {
			sent := 0
			client := newCache(t, cache.Config{}).Transport(senderFunc(
				func(r *http.Request) (*http.Response, error) {
					sent++
					return reply(200, "x", "Cache-Control", "max-age=60", "Etag", `"1"`), nil
				}))
			for _, odd := range []bool{false, true} {
				r := newRequest(http.MethodGet, "http://a/")
				if odd {
					r.Header[name] = []string{value}
				}
				resp, err := client.RoundTrip(r)
				require.NoError(t, err)
				require.Equal(t, "x", text(t, resp))
			}
			require.Equal(t, 2, sent, name)
		}
	}
}

func TestC01_AFieldThatIsDroppedIsDroppedInAnySpelling(t *testing.T) {
	for _, plain := range []string{"X-Forwarded-Host", "Forwarded"} {
		for _, name := range spellings(plain) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				c := newCache(t, cache.Config{Unkeyed: cache.UnkeyedDrop})
				none := func(r *http.Request) { require.Empty(t, r.Header, "%s %s", method, name) }
				r := newRequest(method, "http://a/")
				r.Header[name] = []string{"evil"}
				resp, err := c.Transport(senderFunc(func(r *http.Request) (*http.Response, error) {
					none(r)
					return reply(200, "x"), nil
				})).RoundTrip(r)
				require.NoError(t, err)
				require.Equal(t, "x", text(t, resp))
				h := func(_ http.ResponseWriter, r *http.Request) { none(r) }
				do(c.Middleware(http.HandlerFunc(h)), r)
				require.NotEmpty(t, r.Header, "the caller's own map")
			}
		}
	}
}

// What an unsafe request's response names is invalidated.
func TestC43_TheSpellingOfAResponsesFieldKeepsNothingValid(t *testing.T) {
	for _, field := range [][2]string{{"location", "/"}, {"CONTENT-LOCATION", "/"},
		{"cache-group-invalidation", `"g"`}} {
		t.Run(field[0], func(t *testing.T) {
			stored := []string{"Cache-Control", "max-age=60", "Cache-Groups", `"g"`}
			origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.Header()[field[0]] = []string{field[1]}
					return
				}
				saying(fixed("x"), stored...).ServeHTTP(w, r)
			}}
			h := newCache(t, cache.Config{}).Middleware(origin)
			client := newCache(t, cache.Config{}).Transport(senderFunc(
				func(r *http.Request) (*http.Response, error) {
					w := httptest.NewRecorder()
					origin.ServeHTTP(w, r)
					resp := w.Result()
					resp.Header = w.Header() // as it was spelled
					return resp, nil
				}))
			send := func(method, target string) (hit bool) {
				resp, err := client.RoundTrip(newRequest(method, target))
				require.NoError(t, err)
				text(t, resp)
				served := do(h, newRequest(method, target))
				require.Equal(t, fromCache(resp), fromCache(served))
				return fromCache(resp)
			}
			send(http.MethodGet, "http://a/")
			require.True(t, send(http.MethodGet, "http://a/"))
			send(http.MethodPost, "http://a/list")
			require.False(t, send(http.MethodGet, "http://a/"))
		})
	}
}

// What a middleware around the cache says of the response counts in any spelling.
func TestC15_TheSpellingOfAFieldAroundTheHandlerHidesNothing(t *testing.T) {
	for _, field := range [][2]string{{"vary", "Cookie"}, {"VARY", "*"}, {"cache-control", "no-store"}} {
		inner := newCache(t, cache.Config{}).Middleware(saying(who, "Expires",
			time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)))
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()[field[0]] = []string{field[1]}
			inner.ServeHTTP(w, r)
		})
		for _, name := range []string{"alice", "bob", "alice"} {
			require.Equal(t, "for <"+name+">", text(t, get(h, "/", "Cookie", name)), field)
		}
	}
}

// A field that is validated anew is one field, however it was spelled before.
func TestMiddleware_AValidatedFieldIsReplacedInAnySpelling(t *testing.T) {
	for _, names := range [][2]string{{"X-News", "x-news"}, {"x-news", "X-News"}, {"x-news", "X-NEWS"}} {
		calls := 0
		c := newCache(t, cache.Config{})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("Etag", `"1"`)
			w.Header()[names[calls]] = []string{[...]string{"old", "new"}[calls]}
			if calls++; calls > 1 {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = io.WriteString(w, "x")
		}))
		get(h, "/")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, newRequest(http.MethodGet, "/"))
		require.Equal(t, "x", w.Body.String())
		require.Equal(t, []string{"new"}, w.Header()[names[1]])
		require.Empty(t, w.Header()[names[0]])
	}
}

// A cache does not replay what it drops, although another one with the same store has kept it.
func TestC20_WhatIsDroppedIsDroppedInAnySpelling(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header()["x-secret"] = []string{"1"}
	})
	get(newCache(t, cache.Config{Store: store}).Middleware(origin), "/")
	resp := get(newCache(t, cache.Config{Store: store, Drop: []string{"X-Secret"}}).Middleware(origin), "/")
	require.True(t, fromCache(resp))
	require.Empty(t, resp.Header.Get("X-Secret"))
	require.NotContains(t, resp.Header, "x-secret")
}

// net/http's client tells the length in the map and beside it; another may do the first only.
func TestTransport_TheSpellingOfContentLengthDoesNotMatter(t *testing.T) {
	client := newCache(t, cache.Config{}).Transport(senderFunc(func(*http.Request) (*http.Response, error) {
		resp := reply(200, "x", "Cache-Control", "max-age=60")
		resp.Header["content-length"], resp.ContentLength = []string{"1"}, 0
		return resp, nil
	}))
	for range 2 {
		resp, err := client.RoundTrip(newRequest(http.MethodGet, "http://a/"))
		require.NoError(t, err)
		require.Equal(t, "x", text(t, resp))
	}
}

// A shared cache in front must not be invited to store what the handler keeps from it.
func TestHeadersReadWhatTheHandlerSaysInAnySpelling(t *testing.T) {
	for _, held := range []int64{0, -1} {
		h := newHeaders(t, cache.HeadersConfig{TTL: time.Minute, Max: time.Minute, MaxBody: held,
			Vary: []string{"Origin"}})
		for field, want := range map[[2]string]http.Header{
			{"set-cookie", "id=1"}:           {"Set-Cookie": {"id=1"}},
			{"CACHE-CONTROL", "no-store"}:    {"Cache-Control": {"no-store"}},
			{"Cache-control", "max-age=999"}: {"Cache-Control": {"max-age=60"}},
			{"pragma", "no-cache"}:           {"Pragma": {"no-cache"}},
			{"ETag", `"own"`}:                {"Etag": {`"own"`}, "Cache-Control": {"max-age=60"}},
			{"vary", "origin"}:               {"Vary": {"origin"}, "Cache-Control": {"max-age=60"}},
		} {
			w := answer(h.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()[field[0]] = []string{field[1]}
				_, _ = io.WriteString(w, "x")
			})))
			for _, name := range []string{"Set-Cookie", "Cache-Control", "Pragma"} {
				require.Equal(t, want[name], w.Header()[name], field)
			}
			for name, values := range want {
				require.Equal(t, values, w.Header()[name], field)
			}
			require.NotContains(t, w.Header(), field[0])
		}
	}
}
