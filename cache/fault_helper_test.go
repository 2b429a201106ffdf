package cache_test

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// saying returns a handler that sends what body returns, with those fields, names and values in
// turn.
func saying(body func(r *http.Request) string, fields ...string) *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		_, _ = io.WriteString(w, body(r))
	}}
}

// extra is a KeyExtra for tests.
func extra(r *http.Request) (key string, ok bool) {
	return r.Header.Get("Extra"), len(r.Header["Extra"]) > 0
}

// fixed is a body for saying.
func fixed(body string) func(*http.Request) string { return func(*http.Request) string { return body } }

// fromCache reports whether resp was served without a fetch.
func fromCache(resp *http.Response) bool {
	return strings.Contains(resp.Header.Get("Cache-Status"), "; hit")
}

// A visit is what a client saw that asked on a goroutine of its own.
type visit struct {
	resp     *http.Response
	body     string
	panicked any // of the handler, on the client's goroutine
	done     bool
}

// visitAs sends r to h on a goroutine of wg. What it returns may be read when wg is done.
func visitAs(h http.Handler, r *http.Request, wg *sync.WaitGroup) *visit {
	v := new(visit)
	wg.Go(func() {
		defer func() {
			v.panicked = recover()
			v.done = true
		}()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		v.resp = w.Result()
		v.body = w.Body.String()
	})
	return v
}

// request returns a GET with those fields.
func request(target string, pairs ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Add(pairs[i], pairs[i+1])
	}
	return r
}

// A spyStore is a MemoryStore that remembers what was put, and can answer with something else.
type spyStore struct {
	*cache.MemoryStore
	mu   sync.Mutex
	puts []*cache.Entry
	most int                                              // entries under one key that Get has returned
	lie  func(cache.Key, *cache.Resource) *cache.Resource // if not nil, what Get returns
}

func newSpyStore(t *testing.T, cfg cache.MemoryStoreConfig) *spyStore {
	t.Helper()
	s, err := cache.NewMemoryStore(cfg)
	require.NoError(t, err)
	return &spyStore{MemoryStore: s}
}

func (s *spyStore) Put(ctx context.Context, key cache.Key, e *cache.Entry, most int) error {
	s.mu.Lock()
	s.puts = append(s.puts, e)
	s.mu.Unlock()
	return s.MemoryStore.Put(ctx, key, e, most)
}

func (s *spyStore) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	r, mark, err := s.MemoryStore.Get(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r != nil {
		s.most = max(s.most, len(r.Entries))
	}
	if s.lie != nil {
		r = s.lie(key, r)
	}
	return r, mark, err
}

func (s *spyStore) stored() []*cache.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// quiet is the log of a server whose complaints are expected.
var quiet = log.New(io.Discard, "", 0)
