package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestC38_TwoDifferentExpiresAreStale(t *testing.T) {
	soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	for second, stored := range map[time.Time]bool{soon: true, later: false} {
		h := newCache(t, cache.Config{}).Middleware(saying(fixed("x"), "Etag", `"1"`,
			"Expires", soon.UTC().Format(http.TimeFormat), "Expires", second.UTC().Format(http.TimeFormat)))
		get(h, "/")
		require.Equal(t, stored, fromCache(get(h, "/")))
	}
}

func TestSoftPurge_MakesNothingFresher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{})
		h := c.Middleware(numbered("Cache-Control", "max-age=60, stale-while-revalidate=60"))
		get(h, "/")
		time.Sleep(100 * time.Second)
		require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/", cache.Soft))
		time.Sleep(30 * time.Second)
		require.Equal(t, "2", text(t, get(h, "/")), "it is stale for 70 seconds, not for 30")
	})
}

func TestC34_MaxStaleDoesNotOpenASoftPurge(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(numbered("Cache-Control", "max-age=60"))
	get(h, "/")
	require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/", cache.Soft))
	require.Equal(t, "2", text(t, get(h, "/", "Cache-Control", "max-stale")))
}

// What is repeated does not prolong the time for which a response may be stale.
func TestSoftPurge_RepeatedOnesDoNotProlongTheStaleTime(t *testing.T) {
	for name, purge := range map[string]func(c *cache.Cache, i int) error{
		"tag": func(c *cache.Cache, _ int) error { return c.PurgeTag(context.Background(), "t", cache.Soft) },
		"prefix": func(c *cache.Cache, i int) error {
			prefix := []string{"/a/b", "/a/", "/"}[i]
			return c.PurgePrefix(context.Background(), "http://example.com"+prefix, cache.Soft)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, cache.Config{})
				h := c.Middleware(numbered("Cache-Control", "max-age=864000, stale-while-revalidate=108000",
					"Surrogate-Key", "t")) // stale for 30 hours
				get(h, "/a/b")
				for i := range 3 {
					time.Sleep(25 * time.Hour)
					require.NoError(t, purge(c, i))
				}
				require.Equal(t, "2", text(t, get(h, "/a/b")), "it is stale for 50 hours")
			})
		})
	}
}

func TestC68_A416AnswersNoOtherRequest(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			}
		}))
	require.Equal(t, 416, get(h, "/", "Range", "bytes=100-").StatusCode)
	require.Equal(t, 200, get(h, "/").StatusCode)
}

func TestC70_AnErrorIsNotKeptForItsTagAlone(t *testing.T) {
	store := newSpyStore(t, cache.MemoryStoreConfig{})
	h := newCache(t, cache.Config{Store: store}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"1"`)
			w.WriteHeader(http.StatusNotFound)
		}))
	get(h, "/")
	require.Empty(t, store.stored())
}

func TestC40_AnErrorThatMayBeStoredDoesNotReplaceWhatStandsInForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status, control := 200, "max-age=60, stale-if-error=600"
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", control)
				w.WriteHeader(status)
			}))
		get(h, "/")
		time.Sleep(70 * time.Second)
		status, control = 500, "max-age=600"
		for range 2 {
			require.Equal(t, 200, get(h, "/").StatusCode)
		}
	})
}

func TestC25_APartThatIsShorterThanWhatWasMissingCompletesNothing(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Etag", `"1"`)
			part := map[string][2]int{"bytes=0-3": {0, 4}, "bytes=4-": {4, 8}}
			p, ok := part[r.Header.Get("Range")]
			if !ok {
				_, _ = io.WriteString(w, digits)
				return
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/10", p[0], p[1]-1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, digits[p[0]:p[1]])
		}))
	get(h, "/", "Range", "bytes=0-3")
	require.Equal(t, digits, text(t, get(h, "/")))
}

func TestC38_TheAgeOfA304Counts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(70 * time.Second)
		origin.modified = []string{"Etag", `"1"`, "Age", "50"}
		get(h, "/")
		time.Sleep(20 * time.Second)
		require.False(t, fromCache(get(h, "/")))
	})
}

func TestMiddleware_WhatNobodyWaitsForAndIsNotStoredEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(5 * time.Second)
				w.Header().Set("Cache-Control", "no-store")
				w.(http.Flusher).Flush()
				began := time.Now()
				<-r.Context().Done()
				took <- time.Since(began)
			}))
		leaving(h, "/", time.Second)
		time.Sleep(time.Hour)
		require.Zero(t, <-took)
	})
}

func TestC26_AnErrorDoesNotMakeAURLOneThatCannotBeShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := true
		origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			if failing {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
		}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		failing = false
		many(h, 10)
		require.EqualValues(t, 2, origin.calls.Load())
	})
}

func TestC21_C33_A304ThatMayNotBeStoredIsItsOwnClientsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		var mu sync.Mutex
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second)
				mu.Lock()
				n++
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Etag", `"1"`)
				if r.Header.Get("If-None-Match") != "" {
					w.Header().Set("Set-Cookie", fmt.Sprint("id=", n))
					w.WriteHeader(http.StatusNotModified)
				}
				mu.Unlock()
			}))
		get(h, "/")
		time.Sleep(70 * time.Second)
		answers, _ := many(h, 10)
		seen := map[string]bool{}
		for _, resp := range answers {
			require.False(t, seen[resp.Header.Get("Set-Cookie")])
			seen[resp.Header.Get("Set-Cookie")] = true
		}
		require.Equal(t, 11, n)
	})
}

func TestRange_PartsThatTouchBecomeAWhole(t *testing.T) {
	for _, order := range [][]string{{"bytes=0-4", "bytes=5-9"}, {"bytes=5-9", "bytes=0-4"}} {
		origin := newRanged(digits, `"1"`)
		h := newCache(t, cache.Config{}).Middleware(origin)
		for _, part := range order {
			get(h, "/", "Range", part)
		}
		require.Equal(t, digits, text(t, get(h, "/")))
		require.Equal(t, order, origin.asked)
	}
}

func TestC48_ADateOfTheSameSecondIsNoStrongValidator(t *testing.T) {
	now := time.Now().UTC()
	for _, age := range []time.Duration{0, time.Minute} {
		date := now.Add(-age).Format(http.TimeFormat)
		h := newCache(t, cache.Config{}).Middleware(saying(fixed(digits), "Cache-Control", "max-age=600",
			"Date", now.Format(http.TimeFormat), "Last-Modified", date))
		get(h, "/")
		resp := get(h, "/", "Range", "bytes=0-1", "If-Range", date)
		require.Equal(t, map[bool]int{true: 200, false: 206}[age == 0], resp.StatusCode)
	}
}

func TestC31_AStrongTagDoesNotConfirmAWeakOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`W/"1"`, "Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(70 * time.Second)
		origin.modified = []string{"Etag", `"1"`}
		get(h, "/")
		require.EqualValues(t, 3, origin.calls.Load())
		require.Empty(t, origin.asked[2].Get("If-None-Match"))
	})
}

// A 304 that does not tell of which of the variants it is confirms none.
func TestC31_A304ThatMayBeOfSeveralVariantsConfirmsNone(t *testing.T) {
	modified := ago(time.Hour)
	for name, fields := range map[string][]string{"nothing": nil, "date": {"Last-Modified", modified}} {
		t.Run(name, func(t *testing.T) {
			h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					language := r.Header.Get("Accept-Language")
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Vary", "Accept-Language")
					if r.Header.Get("If-None-Match") != "" && language == "fr" {
						for i := 0; i < len(fields); i += 2 {
							w.Header().Set(fields[i], fields[i+1])
						}
						w.WriteHeader(http.StatusNotModified)
						return
					}
					w.Header().Set("Etag", `"`+language+`"`)
					w.Header().Set("Last-Modified", modified)
					_, _ = io.WriteString(w, language)
				}))
			for _, language := range []string{"de", "en", "fr"} {
				require.Equal(t, language, text(t, get(h, "/", "Accept-Language", language)))
			}
		})
	}
}

func TestVary_NoLanguageIsChosenThatIsNotWantedMostOfAll(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept-Language, X-Plan")
		w.Header().Set("Content-Language", "de")
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/", "Accept-Language", "de")
	require.True(t, fromCache(get(h, "/", "Accept-Language", "de, en;q=0.5")))
	for _, fields := range [][]string{
		{"Accept-Language", "de, en"}, {"Accept-Language", "de;q=0.9, en;q=0.8", "X-Plan", "paid"}, {},
	} {
		require.False(t, fromCache(get(h, "/", fields...)), fields)
	}
}

func TestC42_NothingIsRefreshedAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := numbered("Cache-Control", "max-age=60, stale-while-revalidate=600")
		c := newCache(t, cache.Config{})
		h := c.Middleware(origin)
		get(h, "/")
		require.NoError(t, c.Close(t.Context()))
		time.Sleep(70 * time.Second)
		require.Equal(t, "1", text(t, get(h, "/")))
		synctest.Wait()
		require.EqualValues(t, 1, origin.calls.Load())
		require.EqualValues(t, 1, c.Stats().PutOff)
	})
}

func TestC24_APanicIsTheLeadersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, "half")
				w.(http.Flusher).Flush()
				time.Sleep(time.Second)
				panic("boom")
			}))
		var wg sync.WaitGroup
		leader := visitAs(h, request("/"), &wg)
		synctest.Wait()
		follower := visitAs(h, request("/"), &wg)
		wg.Wait()
		require.Equal(t, "boom", leader.panicked)
		require.Equal(t, http.ErrAbortHandler, follower.panicked)
	})
}

// An informer counts the 1xx responses that it gets.
type informer struct {
	*httptest.ResponseRecorder
	interims int
}

func (w *informer) WriteHeader(status int) {
	if status < 200 {
		w.interims++
		return
	}
	w.ResponseRecorder.WriteHeader(status)
}

func TestC56_InterimResponsesAreBounded(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			for range 1000 {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}))
	w := &informer{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, request("/"))
	require.Equal(t, 16, w.interims)
	require.Equal(t, http.StatusOK, w.Code)
}

func TestTransport_CopiesSeveralPartsOfABody(t *testing.T) {
	client := newCache(t, cache.Config{Private: true}).Transport(senderFunc(
		func(*http.Request) (*http.Response, error) {
			return reply(200, digits, "Cache-Control", "max-age=60", "Etag", `"1"`), nil
		}))
	resp, err := client.RoundTrip(newRequest(http.MethodGet, "http://a/"))
	require.NoError(t, err)
	text(t, resp)
	r := newRequest(http.MethodGet, "http://a/")
	r.Header.Set("Range", "bytes=0-1,4-5")
	resp, err = client.RoundTrip(r)
	require.NoError(t, err)
	var copied bytes.Buffer
	n, err := io.Copy(&copied, resp.Body)
	require.NoError(t, err)
	require.Equal(t, resp.ContentLength, n)
	require.Contains(t, copied.String(), "\r\n\r\n01\r\n")
	require.Contains(t, copied.String(), "\r\n\r\n45\r\n")
}

func TestTransport_ClosesTheBodyThatACallerAlreadyHas(t *testing.T) {
	body := &closer{Reader: strings.NewReader("x")}
	client := newCache(t, cache.Config{Private: true}).Transport(senderFunc(
		func(*http.Request) (*http.Response, error) {
			resp := reply(200, "", "Cache-Control", "no-store", "Etag", `"1"`)
			resp.Body = body
			return resp, nil
		}))
	r := newRequest(http.MethodGet, "http://a/")
	r.Header.Set("If-None-Match", `"1"`)
	resp, err := client.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotModified, resp.StatusCode)
	require.True(t, body.closed)
}

// The fetch has nothing more to do with a response that is not stored: its caller may change it.
func TestTransport_LeavesToTheCallerWhatIsNotStored(t *testing.T) {
	client := newCache(t, cache.Config{Private: true}).Transport(senderFunc(
		func(*http.Request) (*http.Response, error) {
			return reply(200, "x", "Cache-Control", "no-store"), nil
		}))
	for range 300 {
		resp, err := client.RoundTrip(newRequest(http.MethodGet, "http://a/"))
		require.NoError(t, err)
		resp.Header.Set("Content-Length", "1")
		resp.ContentLength = 1
		require.NoError(t, resp.Body.Close())
	}
}

// A Date that is a second later than Last-Modified makes that a strong validator; not a moment
// sooner.
func TestC48_ADateOfTheNextSecondIsAStrongValidator(t *testing.T) {
	now := time.Now().UTC()
	before := now.Add(-time.Second).Format(http.TimeFormat)
	h := newCache(t, cache.Config{}).Middleware(saying(fixed(digits), "Cache-Control", "max-age=600",
		"Date", now.Format(http.TimeFormat), "Last-Modified", before))
	get(h, "/")
	require.Equal(t, 206, get(h, "/", "Range", "bytes=0-1", "If-Range", before).StatusCode)
}

// A response is stale since the first soft purge that it saw, also if nobody looked between them.
func TestSoftPurge_CountsFromTheFirstThatAResponseSaw(t *testing.T) {
	for _, older := range []bool{false, true} { // than the first of three purges
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t, cache.Config{})
			status := http.StatusOK
			h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=864000, stale-if-error=3600")
				w.Header().Set("Surrogate-Key", "t")
				w.WriteHeader(status)
			}))
			purge := func(how cache.Invalidation) {
				require.NoError(t, c.PurgeTag(t.Context(), "t", how))
			}
			get(h, "/other")
			if older {
				get(h, "/")
			}
			purge(cache.Soft)
			if !older {
				time.Sleep(time.Minute)
				get(h, "/")
				purge(cache.Soft)
			}
			status = http.StatusInternalServerError
			if !older {
				require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
			}
			time.Sleep(20 * time.Minute)
			purge(cache.Soft)
			time.Sleep(40 * time.Minute)
			require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
			time.Sleep(time.Nanosecond)
			require.Equal(t, http.StatusInternalServerError, get(h, "/").StatusCode)
		})
	}
}

// A soft purge does not make a hard one before it forgotten.
func TestSoftPurge_AfterAHardOne(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(numbered(
		"Cache-Control", "max-age=600, stale-while-revalidate=600", "Surrogate-Key", "t"))
	get(h, "/")
	require.NoError(t, c.PurgeTag(t.Context(), "t", cache.Hard))
	require.NoError(t, c.PurgeTag(t.Context(), "t", cache.Soft))
	require.Equal(t, "2", text(t, get(h, "/")))
}
