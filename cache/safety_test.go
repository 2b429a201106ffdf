package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// echoing answers with what it reads of the request.
func echoing(read func(r *http.Request) string) *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, read(r))
	}}
}

var unkeyed = []string{
	"Forwarded", "X-Forwarded-Host", "X-Forwarded-Scheme", "X-Forwarded-Proto", "X-Host", "X-Original-URL",
	"X-Rewrite-URL", "X-HTTP-Method-Override",
}

func TestC01_C02_C09_OneClientsFieldsShapeNoOthersAnswer(t *testing.T) {
	for _, name := range unkeyed {
		for _, action := range []cache.UnkeyedAction{cache.UnkeyedKey, cache.UnkeyedDrop} {
			t.Run(fmt.Sprint(name, action), func(t *testing.T) {
				h := newCache(t,
					cache.Config{Unkeyed: action}).Middleware(echoing(func(r *http.Request) string {
					return r.Header.Get(name)
				}))
				poisoned := get(h, "/", name, "host=evil.example")
				require.Equal(t, action == cache.UnkeyedKey, strings.Contains(text(t, poisoned), "evil"))
				require.NotContains(t, text(t, get(h, "/")), "evil")
				require.NotContains(t, text(t, get(h, "/", name, "host=good.example")), "evil")
			})
		}
	}
}

func TestC02_ForwardedForMakesNoKeyOfItsOwn(t *testing.T) {
	origin := echoing(func(r *http.Request) string { return "x" })
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/", "Forwarded", `for=192.0.2.1;proto=https;by=203.0.113.1`)
	get(h, "/", "Forwarded", `For="[2001:db8::1]";proto=https`)
	require.EqualValues(t, 1, origin.calls.Load())
}

func TestC03_C06_C59_WhatAHandlerCanTellApartHasAKeyOfItsOwn(t *testing.T) {
	targets := []string{
		"http://a/x", "http://b/x", "http://a/x?", "http://a/x?id=1", "http://a/x?id=2", "http://a/X",
		"http://a//x", "http://a/y/../x",
		"http://a/%78", "http://a/y%2f..%2fx", "http://a/x/", "http://a:81/x", "http://a./x",
		"http://a/x?id=1&id=2", "http://a/x?id=2&id=1",
		"http://a/x%3Fid=1", "http://a/x;y=1", "http://a/x%00",
	}
	h := newCache(t, cache.Config{}).Middleware(echoing(func(r *http.Request) string {
		return fmt.Sprint(r.Host, " ", r.URL.Path, " ", r.URL.RawPath, " ", r.URL.RawQuery, r.URL.ForceQuery)
	}))
	seen := map[string]string{}
	for range 2 {
		for _, target := range targets {
			answer := text(t, get(h, target))
			if first, ok := seen[target]; ok {
				require.Equal(t, first, answer)
			}
			seen[target] = answer
		}
	}
	answers := make([]string, 0, len(seen))
	for _, answer := range seen {
		answers = append(answers, answer)
	}
	slices.Sort(answers)
	require.Len(t, slices.Compact(answers), len(targets))
	// RFC 3986, section 6.2.2.1 and 6.2.3: these are the same.
	require.Equal(t, seen["http://a/x"], text(t, get(h, "http://A/x")))
	require.Equal(t, seen["http://a/x"], text(t, get(h, "http://a:80/x")))
}

func TestC04_NoPartOfAKeyCanStandForAnother(t *testing.T) {
	c := newCache(t, cache.Config{KeyExtra: extra})
	h := c.Middleware(echoing(func(r *http.Request) string {
		return fmt.Sprint(r.URL.Path, "|", r.Header.Get("Extra"), "|", r.Header.Get("X-Host"), "|",
			r.URL.RawQuery)
	}))
	for _, parts := range [][3]string{{"/a", "b", ""}, {"/ab", "", ""}, {"/a", "", "b"}, {"/a", "bx",
		""}, {"/a", "b\x00", "x"}, {"/a", "b", "\x00x"}} {
		for range 2 {
			require.Equal(t, fmt.Sprint(parts[0], "|", parts[1], "|", parts[2], "|"),
				text(t, get(h, parts[0], "Extra", parts[1], "X-Host", parts[2])))
		}
	}
}

func TestC07_TheSuffixOfAURLDecidesNothing(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(&counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/css")
		_, _ = io.WriteString(w, r.Header.Get("Cookie"))
	}})
	for _, target := range []string{"/account/x.css", "/account%3bx.css", "/account%00.css",
		"/account/x.js?v=1"} {
		require.Equal(t, "id=1", text(t, get(h, target, "Cookie", "id=1")))
		require.Equal(t, "", text(t, get(h, target)))
	}
}

func TestC08_AGetWithABodyPasses(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(echoing(func(r *http.Request) string {
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}))
	require.Equal(t, "evil", text(t, do(h, httptest.NewRequest(http.MethodGet, "/",
		strings.NewReader("evil")))))
	require.Equal(t, "", text(t, get(h, "/")))
	require.Equal(t, "evil", text(t, do(h, httptest.NewRequest(http.MethodGet, "/",
		strings.NewReader("evil")))))
}

func TestC17_C18_C19_Authorization(t *testing.T) {
	for control, stored := range map[string]bool{
		"max-age=60": false, "max-age=60, public": true, "s-maxage=60": true,
		"max-age=60, must-revalidate":  true,
		"max-age=60, proxy-revalidate": false,
	} {
		t.Run(control, func(t *testing.T) {
			origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", control)
				_, _ = io.WriteString(w, r.Header.Get("Authorization"))
			}}
			h := newCache(t, cache.Config{}).Middleware(origin)
			require.Equal(t, "Bearer 1", text(t, get(h, "/", "Authorization", "Bearer 1")))
			require.Equal(t, stored, text(t, get(h, "/")) != "")
			// C19: what an anonymous request has stored may be used for one with credentials.
			require.Equal(t, stored, text(t, get(h, "/", "Authorization", "Bearer 2")) != "")
			require.EqualValues(t, map[bool]int{true: 1, false: 2}[stored], origin.calls.Load())
		})
	}
}

func TestC19_ACredentialedResponseDoesNotReplaceTheStoredOne(t *testing.T) {
	h := newCache(t,
		cache.Config{}).Middleware(echoing(func(r *http.Request) string {
		return r.Header.Get("Authorization")
	}))
	require.Equal(t, "", text(t, get(h, "/")))
	require.Equal(t, "Bearer 1", text(t, get(h, "/", "Authorization", "Bearer 1", "Cache-Control",
		"no-cache")))
	require.Equal(t, "", text(t, get(h, "/")))
}

// outside sets fields around a handler, as middlewares for CORS, request ids and limits do.
func outside(next http.Handler) http.Handler {
	n := 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		h := w.Header()
		h.Add("Vary", "Origin")
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("X-Request-Id", fmt.Sprint("id-", n))
		h.Set("Ratelimit", fmt.Sprint("r=", n))
		h.Add("Set-Cookie", fmt.Sprint("session=", n))
		next.ServeHTTP(w, r)
	})
}

func TestWhatIsSetAroundTheHandlerIsNeitherStoredNorLost(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "max-age=60")
		h.Add("Vary", "Accept-Encoding")
		h.Set("X-Own", "yes")
		_, _ = io.WriteString(w, "body")
	}}
	h := outside(newCache(t, cache.Config{}).Middleware(origin))
	for i := range 3 {
		from := fmt.Sprintf("https://%d.example", i)
		resp := get(h, "/", "Origin", from)
		require.Equal(t, from, resp.Header.Get("Access-Control-Allow-Origin"))
		require.Equal(t, fmt.Sprint("id-", i+1), resp.Header.Get("X-Request-Id"))
		require.Equal(t, fmt.Sprint("r=", i+1), resp.Header.Get("Ratelimit"))
		require.Equal(t, []string{fmt.Sprint("session=", i+1)}, resp.Header["Set-Cookie"])
		require.Equal(t, []string{"Origin", "Accept-Encoding"}, resp.Header["Vary"])
		require.Equal(t, "yes", resp.Header.Get("X-Own"))
	}
	require.EqualValues(t, 1, origin.calls.Load())
}

func TestC66_WhoChangesAnAnswerChangesNoOther(t *testing.T) {
	c := newCache(t, cache.Config{StoreSetCookie: true})
	inner := c.Middleware(&counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Set("X-A", "a")
	}})
	get(inner, "/")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r)
		for _, values := range w.Header() {
			for i := range values {
				values[i] = "changed"
			}
			_ = append(values, "more")
		}
	})
	get(h, "/")
	resp := get(inner, "/")
	require.Equal(t, []string{"a"}, resp.Header["X-A"])
	require.Equal(t, []string{"a=1"}, resp.Header["Set-Cookie"])
	require.Equal(t, "max-age=60", resp.Header.Get("Cache-Control"))
	require.Equal(t, "0", resp.Header.Get("Age"))
}

func TestC54_FieldsOfOneConnectionOrExchangeAreNotReplayed(t *testing.T) {
	h := newCache(t, cache.Config{Drop: []string{"x-secret"}}).Middleware(
		&counted{serve: func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Cache-Control", "max-age=60")
			h.Set("Connection", "X-Hop, keep-alive")
			for _, name := range []string{
				"X-Hop", "Keep-Alive", "Proxy-Authenticate", "Upgrade", "Ratelimit", "Ratelimit-Policy",
				"X-Ratelimit-Limit", "Retry-After",
				"Server-Timing", "Trivet-Load", "Idempotent-Replayed", "X-Secret",
			} {
				h.Set(name, "1")
			}
			h.Set("X-Kept", "1")
		}})
	get(h, "/")
	resp := get(h, "/")
	require.Contains(t, resp.Header.Get("Cache-Status"), "hit")
	for name := range resp.Header {
		require.Contains(t, []string{"Cache-Control", "X-Kept", "Age", "Cache-Status", "Date",
			"Content-Length"}, name)
	}
}

func TestC56_UpgradesPass(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello")
		conn.Close()
	}}
	s := httptest.NewServer(newCache(t, cache.Config{}).Middleware(origin))
	defer s.Close()
	for range 2 {
		conn := dial(t, s.Listener.Addr().String())
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(string(answer), "hello"))
	}
	require.EqualValues(t, 2, origin.calls.Load())
}

func TestC57_CacheStatusDoesNotTellTheKey(t *testing.T) {
	h := newCache(t, cache.Config{Detail: true}).Middleware(numbered("Cache-Control", "max-age=60"))
	for range 2 {
		require.NotContains(t, get(h, "/secret?token=1").Header.Get("Cache-Status"), "secret")
	}
}

func TestC67_AnErrorKeepsCredentialsFromOthers(t *testing.T) {
	// A fill sends what its client sent, to the handler that the client asked.
	var seen []string
	h := newCache(t, cache.Config{}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusBadGateway)
		}))
	get(h, "/", "Authorization", "Bearer 1")
	get(h, "/")
	require.Equal(t, []string{"Bearer 1", ""}, seen)
}

func TestSkip_PassesUntouched(t *testing.T) {
	var events []cache.Event
	origin := numbered("Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{
		Skip:    func(r *http.Request) bool { return r.URL.Path == "/skip" },
		Observe: func(_ context.Context, e cache.Event) { events = append(events, e) },
	}).Middleware(origin)
	get(h, "/skip")
	resp := get(h, "/skip")
	require.Equal(t, "2", text(t, resp))
	require.Empty(t, resp.Header.Get("Cache-Status"))
	require.Len(t, events, 2)
	require.Equal(t, cache.Skip, events[0].Outcome)
}
