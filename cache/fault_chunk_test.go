package cache_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// positions returns a body in which every eight bytes tell where they are.
func positions(size int) string {
	b := make([]byte, 0, size)
	for len(b) < size {
		b = binary.BigEndian.AppendUint64(b, uint64(len(b)))
	}
	return string(b)
}

// A shrinkingStore has as much room as it is told.
type shrinkingStore struct {
	*cache.MemoryStore
	room atomic.Int64
}

func (s *shrinkingStore) Capacity() int64 { return s.room.Load() }

// A part that is stored has just the size of the chunks that a body uses again which is not stored.
func TestC28_AStoredPartIsNotOverwrittenByTheRestOfItsBody(t *testing.T) {
	const part = 32 << 10
	for name, test := range map[string]struct {
		size    int
		control string // of the response that completes the part
		room    int64  // for bodies under way
	}{
		"too large":       {8 << 20, "max-age=60", 64 << 20},
		"no room left":    {1 << 20, "max-age=60", 1000},
		"not to be kept":  {1 << 20, "no-store", 64 << 20},
		"not for a cache": {1 << 20, "private", 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			body := positions(test.size)
			var store *shrinkingStore
			var more chan struct{}
			overBoth(t, func() http.Handler {
				memory, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
				require.NoError(t, err)
				store, more = &shrinkingStore{MemoryStore: memory}, make(chan struct{})
				store.room.Store(64 << 20)
				read := more
				return newCache(t, cache.Config{Store: store}).Middleware(
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						h := w.Header()
						h.Set("Cache-Control", "max-age=60")
						h.Set("Etag", `"1"`)
						h.Set("Content-Type", "text/plain")
						if r.Header.Get("Range") == "bytes=0-32767" {
							http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
							return
						}
						h.Set("Cache-Control", test.control)
						h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part, len(body)-1, len(body)))
						w.WriteHeader(http.StatusPartialContent)
						_, _ = io.WriteString(w, body[part:part+8])
						w.(http.Flusher).Flush()
						<-read // until the client has that
						_, _ = io.WriteString(w, body[part+8:])
					}))
			}, func(t *testing.T, client *http.Client, url string) {
				first := func() string { return text(t, fetch(t, client, url, "Range", "bytes=0-32767")) }
				require.True(t, first() == body[:part])
				store.room.Store(test.room)
				resp := fetch(t, client, url)
				begin := make([]byte, part+8)
				_, err := io.ReadFull(resp.Body, begin)
				require.NoError(t, err)
				close(more)
				require.True(t, string(begin)+text(t, resp) == body)
				require.True(t, first() == body[:part], "the stored part is another")
			})
		})
	}
}

// A holdingWriter is that of a client that takes its time for one of the pieces of a full chunk.
type holdingWriter struct {
	*httptest.ResponseRecorder
	at           int // the piece that it holds
	pieces       int
	given, taken []byte
}

func (w *holdingWriter) Write(p []byte) (int, error) {
	if len(p) == 32<<10 {
		if w.pieces++; w.pieces == w.at {
			w.given = bytes.Clone(p)
			time.Sleep(time.Minute)
			w.taken = bytes.Clone(p)
		}
	}
	return len(p), nil
}

// Whoever was too slow for the others may still hold what it was given last.
func TestC53_WhatASlowFollowerHoldsIsNotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan struct{})
		body := positions(2 << 20)
		h := newCache(t, cache.Config{MaxObject: 64 << 10}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, body[:8])
				w.(http.Flusher).Flush()
				<-more
				_, _ = io.WriteString(w, body[8:])
			}))
		leader := &holdingWriter{ResponseRecorder: httptest.NewRecorder(), at: 2}
		follower := &holdingWriter{ResponseRecorder: httptest.NewRecorder(), at: 1}
		var wg sync.WaitGroup
		wg.Go(func() { h.ServeHTTP(leader, request("/")) })
		synctest.Wait()
		wg.Go(func() { require.Panics(t, func() { h.ServeHTTP(follower, request("/")) }) })
		synctest.Wait()
		close(more)
		wg.Wait()
		require.NotEmpty(t, follower.given)
		require.True(t, bytes.Equal(follower.given, follower.taken), "it is sent other bytes")
		require.True(t, bytes.Equal(leader.given, leader.taken))
	})
}
