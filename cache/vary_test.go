package cache_test

import (
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

func varying(field string) *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Add("Vary", field)
		_, _ = io.WriteString(w, strings.Join(r.Header[http.CanonicalHeaderKey(field)], "|"))
	}}
}

func TestC14_WhatMeansTheSameIsOneVariant(t *testing.T) {
	for _, test := range []struct {
		field string
		a, b  []string
		same  bool
	}{
		{"Accept-Encoding", []string{"gzip, br"}, []string{"BR,gzip;q=1.0"}, true},
		{"Accept-Encoding", []string{"gzip, br"}, []string{"gzip", "br"}, true},
		{"Accept-Encoding", []string{"gzip"}, []string{"x-gzip"}, true},
		{"Accept-Encoding", []string{"gzip, br"}, []string{"gzip, br;q=0.5"}, false},
		{"Accept-Encoding", []string{"gzip;q=0.50"}, []string{"gzip; q=0.5"}, true},
		{"Accept-Encoding", []string{"gzip"}, []string{"gzip;q=0"}, false},
		{"Accept-Language", []string{"en, de"}, []string{" De ,  eN"}, true},
		{"Accept-Language", []string{"en, de;q=0.5"}, []string{"de, en;q=0.5"}, false},
		{"X-List", []string{"1,2"}, []string{" 1 ", "2"}, true},
		{"X-List", []string{"a"}, []string{"A"}, false},
		{"X-List", []string{`"a, b"`}, []string{`"a,b"`}, false},
		{"User-Agent", []string{"a, b"}, []string{"a,b"}, false},
		{"X-List", []string{"1"}, nil, false},
		{"X-List", nil, []string{""}, false},
	} {
		t.Run(fmt.Sprint(test.field, test.a, test.b), func(t *testing.T) {
			origin := varying(strings.ToLower(test.field))
			h := newCache(t, cache.Config{}).Middleware(origin)
			for _, values := range [][]string{test.a, test.b, test.a, test.b} {
				var pairs []string
				for _, v := range values {
					pairs = append(pairs, test.field, v)
				}
				get(h, "/", pairs...)
			}
			require.Equal(t, test.same, origin.calls.Load() == 1)
		})
	}
}

func TestC15_SecretsAreHashedInKeys(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(varying("Cookie"))
	require.Equal(t, "id=1", text(t, get(h, "/", "Cookie", "id=1")))
	require.Equal(t, "id=2", text(t, get(h, "/", "Cookie", "id=2")))
	require.Equal(t, "id=1", text(t, get(h, "/", "Cookie", "id=1")))
	require.Equal(t, "", text(t, get(h, "/")))
}

func TestC13_VariantsOfOneURLAreBounded(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	origin := varying("X-Any")
	h := newCache(t, cache.Config{Store: store, MaxVariants: 8}).Middleware(origin)
	get(h, "/other")
	for i := range 1000 {
		get(h, "/", "X-Any", fmt.Sprint(i))
	}
	require.Equal(t, 2, store.Stats().Entries)
	require.Less(t, store.Stats().Weight, int64(40_000))
	calls := origin.calls.Load()
	for i := 992; i < 1000; i++ {
		get(h, "/", "X-Any", fmt.Sprint(i))
	}
	get(h, "/other")
	require.Equal(t, calls, origin.calls.Load(), "the latest variants and other URLs stay")
}

func TestC64_ACodingReachesOnlyThoseWhoAcceptIt(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip") // and no Vary
		}
		_, _ = io.WriteString(w, r.Header.Get("Accept-Encoding"))
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/", "Accept-Encoding", "gzip")
	for _, accept := range []string{"", "identity", "gzip;q=0", "br"} {
		require.Empty(t, get(h, "/fresh", "Accept-Encoding", accept).Header.Get("Content-Encoding"))
	}
	get(h, "/one", "Accept-Encoding", "gzip")
	require.Empty(t, get(h, "/one").Header.Get("Content-Encoding"))
	require.Empty(t, get(h, "/one", "Accept-Encoding", "gzip").Header.Get("Content-Encoding"))
}

func TestVary_TheLanguageThatIsWantedMostIsChosenAmongTheStored(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		language, _, _ := strings.Cut(r.Header.Get("Accept-Language"), ",")
		h := w.Header()
		h.Set("Cache-Control", "max-age=60")
		h.Set("Vary", "Accept-Language")
		h.Set("Content-Language", language)
		_, _ = io.WriteString(w, language)
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/", "Accept-Language", "de")
	get(h, "/", "Accept-Language", "en")
	require.Equal(t, "de", text(t, get(h, "/", "Accept-Language", "fr;q=0.5, de;q=0.9, en;q=0.8")))
	require.Equal(t, "en", text(t, get(h, "/", "Accept-Language", "EN, de;q=0.1")))
	require.EqualValues(t, 2, origin.calls.Load())
	get(h, "/", "Accept-Language", "fr, de;q=0.9")
	require.EqualValues(t, 3, origin.calls.Load(), "fr is wanted most, and not stored")
}

// A client can send a megabyte, and a URL can have many variants: the cache does not sort the one
// for each of the others.
func TestC13_AHugeFieldIsNotNormalizedForEachVariant(t *testing.T) {
	origin := varying("Accept-Language")
	h := newCache(t, cache.Config{}).Middleware(origin)
	for i := range 32 {
		get(h, "/", "Accept-Language", fmt.Sprintf("l%d", i))
	}
	huge := strings.Repeat("a,b;q=0.5,", 1000)
	asked := request("/", "Accept-Language", huge)
	allocated := testing.AllocsPerRun(5, func() { h.ServeHTTP(httptest.NewRecorder(), asked) })
	require.Less(t, allocated, 1000.0, "each element of the list is an allocation or two")
	require.Equal(t, huge, text(t, get(h, "/", "Accept-Language", huge)))
	require.Equal(t, huge+"c", text(t, get(h, "/", "Accept-Language", huge+"c")))
}

// X-Filter may be a list or not: what is between two commas makes a difference.
func TestC14_AnEmptyElementMakesAnotherVariant(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(varying("X-Filter"))
	for _, value := range []string{"a,,b", "a,b", ",a,b", "a,b,", ","} {
		require.Equal(t, value, text(t, get(h, "/", "X-Filter", value)))
	}
}

// Variants of one URL are fetched at the same time, not one after the other, once one is known.
func TestC16_VariantsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "Accept-Language")
			_, _ = io.WriteString(w, r.Header.Get("Accept-Language"))
		}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		ask := func(from, to int) time.Duration {
			began := time.Now()
			var wg sync.WaitGroup
			for i := range 3 * (to - from) {
				language := fmt.Sprint("l", from+i%(to-from))
				wg.Go(func() {
					require.Equal(t, language, text(t, get(h, "/", "Accept-Language", language)))
				})
			}
			wg.Wait()
			return time.Since(began)
		}
		require.Equal(t, 2*time.Second, ask(0, 8), "the first tells that there are variants")
		require.EqualValues(t, 8, origin.calls.Load())
		require.Equal(t, time.Second, ask(8, 16), "one that is stored tells it")
		time.Sleep(2 * time.Minute)
		require.Equal(t, time.Second, ask(0, 16))
		require.EqualValues(t, 32, origin.calls.Load(), "and equal ones are fetched once")
	})
}

// A client that knows of variants does not wait for a fetch that began before anybody did.
func TestC16_WhoKnowsOfVariantsDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(&counted{serve: func(
			w http.ResponseWriter, r *http.Request,
		) {
			language := r.Header.Get("Accept-Language")
			if language == "de" {
				time.Sleep(3 * time.Second)
			}
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "Accept-Language")
			_, _ = io.WriteString(w, language)
		}})
		var wg sync.WaitGroup
		visitAs(h, request("/", "Accept-Language", "de"), &wg)
		synctest.Wait()
		get(h, "/", "Accept-Language", "fr", "Cookie", "a=1") // never follows, and is stored
		began := time.Now()
		require.Equal(t, "en", text(t, get(h, "/", "Accept-Language", "en")))
		require.Zero(t, time.Since(began))
		wg.Wait()
	})
}
