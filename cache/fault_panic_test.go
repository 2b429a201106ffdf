package cache_test

import (
	"context"
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

// panicking is an Observe that panics at each request's end.
func panicking(_ context.Context, e cache.Event) {
	if e.Kind == cache.Requested {
		panic("Observe")
	}
}

// A fetch whose client was lost to a panic of Observe has nobody that reads what is not stored.
func TestC24_AFetchEndsWhenObservePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		h := newCache(t, cache.Config{Observe: panicking}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer ended.Store(true)
				w.Header().Set("Cache-Control", "no-store")
				_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
			}))
		require.PanicsWithValue(t, "Observe", func() { get(h, "/") })
		time.Sleep(time.Minute)
		require.True(t, ended.Load())
	})
}

// A closing body tells that it is closed.
type closing struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func (b *closing) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

func TestC24_BodiesOfATransportAreClosedWhenObservePanics(t *testing.T) {
	for name, test := range map[string]struct{ method, control, condition string }{
		"handed over":     {http.MethodGet, "no-store", ""},
		"not modified":    {http.MethodGet, "no-store", `"1"`},
		"passed":          {http.MethodPost, "no-store", ""},
		"to be stored":    {http.MethodGet, "max-age=60", ""},
		"endless, stored": {http.MethodGet, "max-age=60", "endless"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := &closing{Reader: strings.NewReader("body"), closed: make(chan struct{})}
				if test.condition == "endless" {
					body.Reader = endless{body}
				}
				c := newCache(t, cache.Config{Observe: panicking, MaxObject: 1 << 20})
				client := c.Transport(senderFunc(
					func(r *http.Request) (*http.Response, error) {
						resp := reply(200, "", "Cache-Control", test.control, "Etag", `"1"`)
						resp.Body = body
						return resp, nil
					}))
				r := newRequest(test.method, "http://a/")
				if test.condition == `"1"` {
					r.Header.Set("If-None-Match", `"1"`)
				}
				require.PanicsWithValue(t, "Observe", func() { _, _ = client.RoundTrip(r) })
				time.Sleep(time.Minute)
				select {
				case <-body.closed:
				default:
					t.Fatal("the body is not closed")
				}
			})
		})
	}
}

// endless is read without an end.
type endless struct{ body *closing }

func (e endless) Read(p []byte) (int, error) {
	select {
	case <-e.body.closed:
		return 0, io.ErrClosedPipe
	default:
		return len(p), nil
	}
}

// An abortingWriter panics at an interim response.
type abortingWriter struct{ *httptest.ResponseRecorder }

func (w abortingWriter) WriteHeader(status int) {
	if status < 200 {
		panic(http.ErrAbortHandler)
	}
	w.ResponseRecorder.WriteHeader(status)
}

func TestC24_AWriterThatPanicsAtAnInterimResponseEndsItsRequestAlone(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "body")
		}))
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		h.ServeHTTP(abortingWriter{httptest.NewRecorder()}, request("/"))
	})
	require.Equal(t, "body", text(t, get(h, "/")))
}
