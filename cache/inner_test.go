package cache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestMiddleware_WhatTheHandlerDoesToItsRequestMakesNoOtherVariant(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "X-A, X-B")
		_, _ = io.WriteString(w, r.Header.Get("X-A"))
	}}
	changing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-A") == "" {
			r.Header.Set("X-A", "set inside")
		}
		r.Header.Set("X-B", "set inside")
		origin.ServeHTTP(w, r)
	})
	h := newCache(t, cache.Config{}).Middleware(changing)
	for range 2 {
		require.Equal(t, "set inside", text(t, get(h, "/")))
		require.Equal(t, "1", text(t, get(h, "/", "X-A", "1")))
	}
	require.EqualValues(t, 2, origin.calls.Load())
}

func TestNoStore_OfOneRequestDoesNotKeepOthersFromSharing(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(numbered("Cache-Control", "max-age=60"))
	get(h, "/", "Cache-Control", "no-store")
	require.Equal(t, "Trivet; fwd=uri-miss; stored", get(h, "/").Header.Get("Cache-Status"))
}

// A confusedStore answers every key with what was stored last.
type confusedStore struct {
	cache.Store
	last *cache.Resource
}

func (s *confusedStore) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	_, mark, err := s.Store.Get(ctx, key)
	return s.last, mark, err
}

func (s *confusedStore) Put(_ context.Context, _ cache.Key, e *cache.Entry, _ int) error {
	s.last = &cache.Resource{Entries: []*cache.Entry{e}}
	return nil
}

func TestC05_AnotherKeysValueIsAMiss(t *testing.T) {
	memory, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	h := newCache(t,
		cache.Config{Store: &confusedStore{Store: memory}}).Middleware(echoing(func(r *http.Request) string {
		return r.URL.Path
	}))
	for _, path := range []string{"/a", "/b", "/a", "/a", "/b"} {
		require.Equal(t, path, text(t, get(h, path)))
	}
}

func TestC55_AClientsConnectionFieldTakesNothingOutOfKeysOrAnswers(t *testing.T) {
	s := httptest.NewServer(newCache(t, cache.Config{}).Middleware(varying("X-A")))
	defer s.Close()
	for _, named := range []string{", X-A, Vary, Content-Length, Age", ""} {
		for i, value := range []string{"1", "2", "1", "2"} {
			conn := dial(t, s.Listener.Addr().String())
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-A: %s\r\nConnection: close%s\r\n\r\n",
				value, named)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, value, text(t, resp))
			require.EqualValues(t, 1, resp.ContentLength)
			require.Equal(t, named == "" && i >= 2, resp.Header.Get("Age") != "")
		}
	}
}

func TestC58_NothingPurgesThatIsNotAskedToAndTagsAreNoPatterns(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(&counted{serve: func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Surrogate-Key", "product")
	}})
	get(h, "/")
	for _, method := range []string{"PURGE", "BAN", "DELETE"} {
		do(h, newRequest(method, "/"))
	}
	for _, tag := range []string{".*", "p*", "Product", "prod", ""} {
		require.NoError(t, c.PurgeTag(t.Context(), tag, cache.Hard))
	}
	require.Contains(t, get(h, "/").Header.Get("Cache-Status"), "hit")
}
