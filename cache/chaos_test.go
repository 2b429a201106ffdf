package cache_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A generation origin signs each body with the URL, the variant and the generation that it read.
type generations struct {
	current [8]atomic.Int64 // what the origin answers with
	least   [8]atomic.Int64 // what may be answered at least: older ones were purged
	calls   atomic.Int64

	mu sync.Mutex // of those who go on to the next generation
}

func signed(path, language string, generation int64) string {
	line := fmt.Sprintf("%s|%s|%d;", path, language, generation)
	return strings.Repeat(line, 1+len(path)*len(language)*40%997)
}

func (o *generations) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := o.calls.Add(1)
	var i int
	_, _ = fmt.Sscanf(r.URL.Path, "/%d", &i)
	generation := o.current[i].Load() // read before it is sent: a purge may come between
	language := r.Header.Get("Accept-Language")
	body := signed(r.URL.Path, language, generation)
	h := w.Header()
	h.Set("Cache-Control", "max-age=1, stale-while-revalidate=1")
	h.Set("Vary", "Accept-Language")
	h.Set("Etag", fmt.Sprintf(`"%s-%d"`, language, generation))
	switch {
	case n%41 == 0:
		h.Set("Cache-Control", "no-store")
	case n%43 == 0:
		panic(http.ErrAbortHandler)
	}
	if n%3 == 0 {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
		return
	}
	half := len(body) / 2
	_, _ = io.WriteString(w, body[:half])
	_ = http.NewResponseController(w).Flush()
	if n%47 == 0 {
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, body[half:])
}

func TestC28_NoAnswerIsWrongUnderFaults(t *testing.T) {
	origin := &generations{}
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: 1 << 20})
	require.NoError(t, err)
	c := newCache(t, cache.Config{Store: store, Wait: 50 * time.Millisecond})
	h := c.Middleware(origin)
	languages := []string{"de", "en", "fr"}
	var wrong, answered atomic.Int64
	ask := func() {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				panic(v)
			}
		}()
		i := rand.IntN(len(origin.current))
		language := languages[rand.IntN(len(languages))]
		r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/%d", i), nil)
		r.Header.Set("Accept-Language", language)
		least := origin.least[i].Load()
		if rand.IntN(10) == 0 {
			ctx, cancel := context.WithTimeout(context.Background(),
				time.Duration(rand.IntN(1000))*time.Microsecond)
			defer cancel()
			r = r.WithContext(ctx)
		}
		if rand.IntN(10) == 0 {
			r.Header.Set("Cookie", "id=1")
		}
		var from, to int
		if rand.IntN(4) == 0 {
			from = rand.IntN(50)
			to = from + rand.IntN(50)
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body := w.Body.String()
		var generation int64
		tag := strings.Trim(w.Header().Get("Etag"), `"`)
		if _, err := fmt.Sscanf(tag, language+"-%d", &generation); w.Code < 300 && err != nil {
			t.Errorf("%d %q for %q: %v", w.Code, tag, language, w.Header())
			wrong.Add(1)
			return
		}
		want := signed(r.URL.Path, language, generation)
		switch w.Code {
		case http.StatusPartialContent:
			want = want[from:min(to+1, len(want))]
		case http.StatusOK:
		default:
			return
		}
		answered.Add(1)
		if body != want || generation < least {
			wrong.Add(1)
			t.Errorf("%d: generation %d of at least %d, %d bytes of %d, %v", w.Code, generation, least,
				len(body), len(want), w.Header())
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if rand.IntN(100) == 0 {
					origin.next(c, rand.IntN(len(origin.current)))
				}
				ask()
			}
		})
	}
	wg.Wait()
	require.Zero(t, wrong.Load())
	require.Greater(t, answered.Load(), int64(1000))
	t.Logf("%d answers, %d fetches, %v", answered.Load(), origin.calls.Load(), c.Stats())
}

// next goes on to the next generation of a resource, and purges the ones before.
func (o *generations) next(c *cache.Cache, i int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	generation := o.current[i].Add(1)
	var err error
	switch url := fmt.Sprintf("http://example.com/%d", i); rand.IntN(3) {
	case 0:
		err = c.PurgeURL(context.Background(), url, cache.Hard)
	case 1:
		err = c.PurgePrefix(context.Background(), url, cache.Hard)
	default:
		done := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		do(c.Middleware(done), newRequest(http.MethodPut, fmt.Sprintf("/%d", i)))
	}
	if err != nil {
		panic(err)
	}
	o.least[i].Store(generation)
}
