package cache_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// What users of other caches have reported. Each test names one report.

// darkweak/souin#846: with stale-if-error, the body comes twice once the response is stale.
func TestReports_AStaleBodyComesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusOK
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "s-maxage=2, stale-if-error=60")
				w.WriteHeader(status)
				fmt.Fprint(w, "<p>", status, "</p>")
			}))
		get(h, "/")
		for _, status = range []int{http.StatusOK, http.StatusInternalServerError} {
			time.Sleep(3 * time.Second)
			require.Equal(t, "<p>200</p>", text(t, get(h, "/")))
		}
	})
}

// nginx/nginx#880: an update that ends in a crash leaves the entry in the state of being updated
// for ever.
func TestReports_ARefreshThatCrashesMakesRoomForTheNext(t *testing.T) {
	for name, crash := range map[string]func(){
		"panic": func() { panic("boom") }, "abort": func() { panic(http.ErrAbortHandler) },
		"goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int64
				c := newCache(t, cache.Config{})
				h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					now := n.Add(1)
					if now == 2 {
						crash()
					}
					w.Header().Set("Cache-Control", "max-age=60, stale-while-revalidate=600")
					fmt.Fprint(w, now)
				}))
				get(h, "/")
				time.Sleep(70 * time.Second)
				for range 2 {
					require.Equal(t, "1", text(t, get(h, "/")))
					synctest.Wait()
				}
				require.Equal(t, "3", text(t, get(h, "/")))
				require.EqualValues(t, 1, c.Stats().RefreshFailures)
				require.Zero(t, c.Stats().Background)
			})
		})
	}
}

// nginx ticket 1348: requests for ranges are answered with what is stale, and never make it be
// refreshed.
func TestReports_ARangeOfWhatIsStaleRefreshesTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newRanged(digits, `"1"`)
		serve := origin.serve
		origin.serve = func(w http.ResponseWriter, r *http.Request) {
			serve(control{w, "max-age=60, stale-while-revalidate=600"}, r)
		}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(70 * time.Second)
		require.Equal(t, "23", text(t, get(h, "/", "Range", "bytes=2-3")))
		synctest.Wait()
		require.Equal(t, []string{"", ""}, origin.asked, "the whole is asked for")
		require.Equal(t, "Trivet; hit; ttl=60", get(h, "/").Header.Get("Cache-Status"))
	})
}

// control is a writer whose response has another Cache-Control.
type control struct {
	http.ResponseWriter
	value string
}

func (w control) WriteHeader(status int) {
	w.Header().Set("Cache-Control", w.value)
	w.ResponseWriter.WriteHeader(status)
}

// squid-cache/squid#652: an error that concurrent requests shared is shared for ever.
func TestReports_AnErrorThatWasSharedExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second)
				w.Header().Set("Cache-Control", "max-age=2")
				if n.Add(1) == 1 {
					w.WriteHeader(http.StatusNotFound)
				}
			}))
		for i, want := range []int{http.StatusNotFound, http.StatusOK, http.StatusOK} {
			answers, _ := many(h, 10)
			for _, resp := range answers {
				require.Equal(t, want, resp.StatusCode)
			}
			require.EqualValues(t, i+1, n.Load())
			time.Sleep(5 * time.Second)
		}
	})
}

// varnishcache/varnish-cache#3169: a 304 whose weak tag and coding are those of another form of the
// body makes the stored plain body one that claims to be compressed.
func TestReports_A304TellsNoOtherCoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"foo"`, "Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/", "Accept-Encoding", "gzip")
		time.Sleep(70 * time.Second)
		origin.modified = []string{"Etag", `W/"foo"`, "Content-Encoding", "gzip", "Content-Length", "1"}
		for range 2 {
			resp := get(h, "/", "Accept-Encoding", "gzip")
			require.Equal(t, `body of "foo"`, text(t, resp))
			require.Empty(t, resp.Header.Get("Content-Encoding"))
		}
	})
}

// varnishcache/varnish-cache#4245: the length in the answer to HEAD is 0.
func TestReports_AHeadHasTheLengthOfTheGet(t *testing.T) {
	s := httptest.NewServer(newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Content-Length", "42")
			_, _ = io.WriteString(w, strings.Repeat("x", 42))
		})))
	defer s.Close()
	for _, method := range []string{http.MethodHead, http.MethodHead, http.MethodGet, http.MethodHead} {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL, nil)
		require.NoError(t, err)
		resp, err := s.Client().Do(r)
		require.NoError(t, err)
		text(t, resp)
		require.EqualValues(t, 42, resp.ContentLength, method)
	}
}

// envoyproxy/envoy#15830: hits after a validation have no Age, or one that goes on from before it.
func TestReports_AgeBeginsAnewWithAValidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(newVersioned(`"1"`, "Cache-Control", "max-age=60"))
		get(h, "/")
		time.Sleep(70 * time.Second)
		get(h, "/")
		time.Sleep(10 * time.Second)
		resp := get(h, "/")
		require.True(t, fromCache(resp))
		require.Equal(t, "10", resp.Header.Get("Age"))
	})
}

// gregjones/httpcache#104 and google/go-github#1503: a decoder stops at the end of its value, so
// the end of the body is never seen, and nothing is stored.
func TestReports_WhoDoesNotReadTheEndStillStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		client := newCache(t, cache.Config{Private: true}).Transport(senderFunc(
			func(*http.Request) (*http.Response, error) {
				sent++
				body, w := io.Pipe()
				go func() {
					_, _ = io.WriteString(w, `{"a": 1}`)
					time.Sleep(time.Second)
					_, _ = io.WriteString(w, "\n")
					w.Close()
				}()
				resp := reply(200, "", "Cache-Control", "private, max-age=60")
				resp.Body, resp.ContentLength = body, -1
				return resp, nil
			}))
		for range 3 {
			resp, err := client.RoundTrip(newRequest(http.MethodGet, "http://a/"))
			require.NoError(t, err)
			var v struct{ A int }
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&v))
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 1, v.A)
			time.Sleep(2 * time.Second)
		}
		require.Equal(t, 1, sent)
	})
}

// http-tests/cache-tests#146 (Chromium 390229583): a part is stored, the request for one that
// overlaps it fails, and the client gets the stored part with the wrong Content-Range.
func TestReports_APartThatFailsIsNotMadeUpFromAnother(t *testing.T) {
	origin := newRanged(digits, `"1"`)
	failing := false
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if failing {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			origin.ServeHTTP(w, r)
		}))
	require.Equal(t, "01234", text(t, get(h, "/", "Range", "bytes=0-4")))
	failing = true
	for _, asked := range []string{"bytes=3-7", "bytes=5-9", ""} {
		resp := get(h, "/", "Range", asked)
		require.Equal(t, http.StatusForbidden, resp.StatusCode, asked)
		require.Empty(t, resp.Header.Get("Content-Range"))
	}
	resp := get(h, "/", "Range", "bytes=1-3")
	require.Equal(t, "123", text(t, resp))
	require.Equal(t, "bytes 1-3/10", resp.Header.Get("Content-Range"))
}

// nodejs/undici#5732: a 304 adds a Vary, and what is stored is used for all values of the field.
func TestReports_A304ThatAddsAVaryDividesWhatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		varies := false
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				plan := "free"
				if varies {
					w.Header().Set("Vary", "X-Plan")
					plan = r.Header.Get("X-Plan")
				}
				w.Header().Set("Etag", `"`+plan+`"`)
				if strings.Contains(r.Header.Get("If-None-Match"), `"`+plan+`"`) {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				_, _ = io.WriteString(w, plan)
			}))
		get(h, "/")
		varies = true
		time.Sleep(70 * time.Second)
		for range 2 {
			require.Equal(t, "free", text(t, get(h, "/", "X-Plan", "free")))
			require.Equal(t, "paid", text(t, get(h, "/", "X-Plan", "paid")))
		}
	})
}

// squid-cache/squid#1927: what is stale on arrival is fetched anew by each of those who waited for
// it, one after the other.
func TestReports_WhatIsStaleOnArrivalHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(slowly(time.Second, "x", "Cache-Control", "max-age=0",
			"Etag", `"1"`))
		for range 3 {
			answers, took := many(h, 20)
			require.LessOrEqual(t, took, 2*time.Second)
			for _, resp := range answers {
				require.Equal(t, "x", text(t, resp))
			}
		}
	})
}

// PennyDreadfulMTG/Penny-Dreadful-Tools#6615: a session is renewed with every picture, which a CDN
// keeps for half a day: its cookie logs others in.
func TestReports_ASessionThatIsRenewedWithAPictureIsNobodyElses(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "public, max-age=43200")
			w.Header().Set("Set-Cookie", "session="+r.Header.Get("Cookie"))
			w.Header().Set("Content-Type", "image/svg+xml")
		}))
	get(h, "/static/icon.svg", "Cookie", "alice")
	require.Equal(t, "session=bob", get(h, "/static/icon.svg", "Cookie", "bob").Header.Get("Set-Cookie"))
}

func TestErrorsAndKinds_AreWordsOfTheirPackage(t *testing.T) {
	for _, err := range []error{cache.ErrTooLarge, cache.ErrUnreached, cache.ErrPurge, cache.ErrClosed} {
		require.Regexp(t, "^cache: ", err)
	}
	kinds := []cache.NewsKind{cache.NewsPurged, cache.NewsFetched, cache.NewsUp, cache.NewsDown}
	require.Equal(t, "[purged fetched up down]", fmt.Sprint(kinds))
}
