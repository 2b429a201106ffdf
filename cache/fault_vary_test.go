package cache_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

// However a response spells Vary, and however a request spreads a field over lines, it is the same.
func TestC14_VaryIsReadInAnySpelling(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := rapid.Permutation([]string{"X-Tea", "X-Milk", "Accept"}).Draw(rt, "names")
		var vary []string
		for _, name := range names {
			switch rapid.IntRange(0, 3).Draw(rt, "case") {
			case 0:
				name = strings.ToLower(name)
			case 1:
				name = strings.ToUpper(name)
			}
			name = rapid.SampledFrom([]string{"", " ", "\t", ", ,"}).Draw(rt, "before") + name
			if len(vary) > 0 && rapid.Bool().Draw(rt, "same line") {
				vary[len(vary)-1] += rapid.SampledFrom([]string{",", " , ", ",,"}).Draw(rt, "comma") + name
			} else {
				vary = append(vary, name)
			}
		}
		origin := saying(func(r *http.Request) string { return strings.Join(r.Header["X-Tea"], ", ") },
			"Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Vary"] = vary
				origin.ServeHTTP(w, r)
			}))
		ask := func(pairs ...string) (string, bool) {
			resp := get(h, "/", pairs...)
			return text(t, resp), fromCache(resp)
		}
		check := func(wantHit bool, want string, pairs ...string) {
			if got, hit := ask(pairs...); got != want || hit != wantHit {
				rt.Fatalf("Vary %q, request %q: %q, hit %v", vary, pairs, got, hit)
			}
		}
		check(false, "green, black", "X-Tea", "green", "X-Tea", "black", "X-Milk", "1")
		check(true, "green, black", "X-Milk", "1", "X-Tea", "green", "X-Tea", "black", "X-Other", "1")
		check(true, "green, black", "X-Tea", "green, black", "X-Milk", "1")
		check(false, "black, green", "X-Tea", "black, green", "X-Milk", "1")
		check(false, "green, black", "X-Tea", "green, black", "X-Milk", "2")
		check(false, "green, black", "X-Tea", "green, black")
	})
}

func TestC15_SecretsInVaryAreStoredAsHashes(t *testing.T) {
	const secret = "s3cr3t-of-a-user"
	store := newSpyStore(t, cache.MemoryStoreConfig{})
	var said strings.Builder
	origin := saying(func(r *http.Request) string { return fmt.Sprint(len(r.Header.Get("Cookie"))) },
		"Cache-Control", "public, max-age=60", "Vary", "Cookie, Authorization")
	h := newCache(t, cache.Config{
		Store: store, Detail: true,
		Observe: func(_ context.Context, e cache.Event) { said.WriteString(e.LogValue().String()) },
	}).Middleware(origin)
	for range 2 {
		resp := get(h, "/", "Cookie", "id="+secret, "Authorization", "Bearer "+secret)
		require.NotContains(t, fmt.Sprint(resp.Header), secret)
	}
	require.EqualValues(t, 1, origin.calls.Load())
	require.Equal(t, "3", text(t, get(h, "/", "Cookie", "a=b", "Authorization", "Bearer "+secret)))
	require.NotEmpty(t, store.stored())
	for _, e := range store.stored() {
		kept := fmt.Sprintf("%q %q %q %q %v", e.Echo, e.URL, e.Labels, e.Variant, e.Vary)
		require.NotContains(t, kept, secret)
	}
	require.NotContains(t, said.String(), secret)
}

// Here nobody takes out what the client names in Connection.
func TestC55_ConnectionOfTheClientTouchesNeitherKeysNorFraming(t *testing.T) {
	origin := saying(func(r *http.Request) string { return "<" + r.Header.Get("X-Tea") + ">" },
		"Cache-Control", "max-age=60", "Vary", "X-Tea", "Content-Length", "7")
	h := newCache(t, cache.Config{}).Middleware(origin)
	require.Equal(t, "<green>", text(t, get(h, "/", "X-Tea", "green")))
	for _, named := range []string{
		"Vary", "Content-Length", "X-Tea", "Cache-Control", "Host", "Content-Length, X-Tea",
	} {
		resp := get(h, "/", "X-Tea", "green", "Connection", named)
		require.Equal(t, "<green>", text(t, resp), named)
		require.Equal(t, "7", resp.Header.Get("Content-Length"), named)
		resp = get(h, "/", "X-Tea", "black", "Connection", named)
		require.Equal(t, "<black>", text(t, resp), named)
	}
}

// What a handler sets is its own, also if the same stands around it.
func TestC14_AVaryThatStandsAroundTheHandlerTooIsTheHandlers(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, set := range []func(h http.Header, name string){
			func(h http.Header, name string) { h.Set("Vary", name) },
			func(h http.Header, name string) { h.Add("Vary", name) },
			func(h http.Header, name string) { h.Set("Vary", name); h.Add("Vary", "Accept-Encoding") },
		} {
			inner := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					set(w.Header(), "Accept-Language")
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Content-Location", "/")
					fmt.Fprint(w, r.Header.Get("Accept-Language"))
				}))
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Vary", "Accept-Language")
				inner.ServeHTTP(w, r)
			})
			first := newRequest(method, "/")
			first.Header.Set("Accept-Language", "de")
			require.Equal(t, "de", text(t, do(h, first)))
			for range 2 {
				resp := get(h, "/", "Accept-Language", "fr")
				require.Equal(t, "fr", text(t, resp))
				require.Contains(t, resp.Header["Vary"], "Accept-Language")
			}
		}
	}
}

// A middleware that copies the header and puts it back does not make the handler depend on what
// stands around both.
func TestC14_AVaryThatStandsAroundIsNotTheHandlersIfItIsCopied(t *testing.T) {
	calls := 0
	headers := newHeaders(t, cache.HeadersConfig{TTL: time.Minute})
	inner := newCache(t, cache.Config{}).Middleware(headers.Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			calls++
			fmt.Fprint(w, "for all")
		})))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Origin")
		inner.ServeHTTP(w, r)
	})
	for _, origin := range []string{"https://a.example", "https://b.example", ""} {
		resp := get(h, "/", "Origin", origin)
		require.Equal(t, "for all", text(t, resp))
		require.Equal(t, []string{"Origin"}, resp.Header["Vary"])
	}
	require.Equal(t, 1, calls)
}

// What is for every origin does not depend on who asks.
func TestC14_OriginAroundTheHandlerDoesNotCountIfAllOriginsAreAllowed(t *testing.T) {
	calls := 0
	inner := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			calls++
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Cache-Control", "max-age=60")
		}))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Origin")
		inner.ServeHTTP(w, r)
	})
	for _, origin := range []string{"https://a.example", "https://b.example"} {
		require.Equal(t, "*", get(h, "/", "Origin", origin).Header.Get("Access-Control-Allow-Origin"))
	}
	require.Equal(t, 1, calls)
}

// A handler that allows origins itself depends on Origin, whoever says so.
func TestC14_OriginAroundTheHandlerCountsIfTheHandlerAllowsOrigins(t *testing.T) {
	inner := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			w.Header().Set("Cache-Control", "max-age=60")
		}))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Origin")
		inner.ServeHTTP(w, r)
	})
	for _, origin := range []string{"https://a.example", "https://b.example"} {
		require.Equal(t, origin, get(h, "/", "Origin", origin).Header.Get("Access-Control-Allow-Origin"))
	}
}
