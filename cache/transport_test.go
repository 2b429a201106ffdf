package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestTransport_AnswersFromTheCache(t *testing.T) {
	overBoth(t, func() http.Handler {
		n := 0
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("Cache-Control", "private, max-age=60")
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprint(w, "answer ", n)
			w.Header().Set("X-Sum", "7")
		})
	}, func(t *testing.T, client *http.Client, url string) {
		client.Transport = newCache(t, cache.Config{Private: true}).Transport(client.Transport)
		for i := range 3 {
			resp := fetch(t, client, url)
			require.Equal(t, "answer 1", text(t, resp))
			require.Equal(t, "7", resp.Trailer.Get("X-Sum"))
			require.Equal(t, i > 0, strings.Contains(resp.Header.Get("Cache-Status"), "hit"))
			require.Equal(t, url, resp.Request.URL.String())
		}
	})
}

func TestTransport_StreamsAndHandsOverWhatIsNotStored(t *testing.T) {
	gate := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stored" {
			w.Header().Set("Cache-Control", "max-age=60")
		}
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		<-gate
		_, _ = io.WriteString(w, "b")
	}))
	defer s.Close()
	client := s.Client()
	client.Transport = newCache(t, cache.Config{Private: true}).Transport(client.Transport)
	for _, path := range []string{"/stored", "/passed"} {
		resp := fetch(t, client, s.URL+path)
		var one [1]byte
		_, err := io.ReadFull(resp.Body, one[:])
		require.NoError(t, err)
		require.Equal(t, "a", string(one[:]))
		gate <- struct{}{}
		require.Equal(t, "b", text(t, resp))
	}
	require.Equal(t, "ab", text(t, fetch(t, client, s.URL+"/stored")))
}

// A closer tells when it was closed.
type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error {
	c.closed = true
	return nil
}

func TestTransport_ClosesEveryBodyThatItDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []*closer
		control, status := "max-age=60", 200
		rt := newCache(t, cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			body := &closer{Reader: strings.NewReader("body")}
			bodies = append(bodies, body)
			return &http.Response{StatusCode: status, Header: http.Header{"Cache-Control": {control},
				"Etag": {`"1"`}}, Body: body, ContentLength: 4}, nil
		}))
		send := func(path string) {
			r, _ := http.NewRequest(http.MethodGet, "http://example.com"+path, nil)
			resp, err := rt.RoundTrip(r)
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		send("/")
		send("/")
		control = "no-store"
		send("/no-store")
		time.Sleep(time.Hour)
		status = http.StatusNotModified
		send("/")
		synctest.Wait()
		require.Len(t, bodies, 3)
		for i, body := range bodies {
			require.True(t, body.closed, i)
		}
	})
}

func TestC25_TransportDoesNotStoreWhatIsTruncated(t *testing.T) {
	calls := 0
	rt := newCache(t, cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		calls++
		return &http.Response{
			StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}, "Content-Length": {"10"}},
			Body: io.NopCloser(strings.NewReader("short")), ContentLength: 10,
		}, nil
	}))
	for range 2 {
		r, _ := http.NewRequest(http.MethodGet, "http://example.com/", nil)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		resp.Body.Close()
	}
	require.Equal(t, 2, calls)
}

func TestTransport_AnErrorIsTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		fail := true
		c := newCache(t, cache.Config{})
		rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			if fail {
				return nil, boom
			}
			return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}},
				Body: http.NoBody}, nil
		}))
		r, _ := http.NewRequest(http.MethodGet, "http://example.com/", nil)
		_, err := rt.RoundTrip(r)
		require.Equal(t, boom, err)
		fail = false
		_, err = rt.RoundTrip(r)
		require.NoError(t, err)
		fail = true
		time.Sleep(2 * time.Minute)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err, "what is stored stands in for an origin that cannot be reached")
		require.Equal(t, "Trivet; hit; ttl=-60", resp.Header.Get("Cache-Status"))
		require.EqualValues(t, 1, c.Stats().Requests[cache.Error])
	})
}

func TestTransport_ACallerThatLeavesGetsItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newCache(t, cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}},
				Body: http.NoBody}, nil
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil)
		_, err := rt.RoundTrip(r)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		r, _ = http.NewRequest(http.MethodGet, "http://example.com/", nil)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		require.Contains(t, resp.Header.Get("Cache-Status"), "hit", "the fetch went on")
	})
}

func TestTransport_ClosingTheBodyEndsAFetchThatIsNotStored(t *testing.T) {
	ended := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	}))
	defer s.Close()
	client := s.Client()
	client.Transport = newCache(t, cache.Config{}).Transport(client.Transport)
	resp, err := client.Get(s.URL)
	require.NoError(t, err)
	resp.Body.Close()
	<-ended
}

func TestTransport_UnsafeMethodsInvalidate(t *testing.T) {
	calls := 0
	rt := newCache(t, cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		calls++
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}},
			Body: http.NoBody}, nil
	}))
	for _, method := range []string{"GET", "GET", "POST", "GET", "GET"} {
		r, _ := http.NewRequest(method, "http://example.com/", nil)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		resp.Body.Close()
	}
	require.Equal(t, 3, calls)
}

func TestC10_C11_WhatANextRefusesIsNotStored(t *testing.T) {
	s := httptest.NewServer(newCache(t, cache.Config{}).Middleware(numbered("Cache-Control", "max-age=60")))
	defer s.Close()
	for _, field := range []string{"X-A: " + strings.Repeat("x", 2<<20), "X-A: a\x00b", "X-A: a\rb",
		"X A: b"} {
		conn := dial(t, s.Listener.Addr().String())
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n%s\r\nConnection: close\r\n\r\n",
			s.Listener.Addr(), field)
		answer, _ := io.ReadAll(conn)
		require.NotContains(t, string(answer), "200 OK")
	}
	require.Equal(t, "1", text(t, fetch(t, s.Client(), s.URL)))
}

// The status line of an answer from the cache is that of the code that it has.
func TestTransport_StatusLines(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Etag", `"1"`)
		if r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
		_, _ = io.WriteString(w, "0123456789")
	}))
	defer s.Close()
	client := s.Client()
	client.Transport = newCache(t, cache.Config{Private: true}).Transport(client.Transport)
	hit := func(resp *http.Response) bool { return strings.Contains(resp.Header.Get("Cache-Status"), "hit") }
	for _, path := range []string{"/", "/gone"} {
		for stored := false; !stored; {
			resp := fetch(t, client, s.URL+path)
			text(t, resp)
			stored = hit(resp)
		}
	}
	for _, tt := range []struct{ path, field, value, status string }{
		{"/", "Accept", "*/*", "200 OK"},
		{"/", "Range", "bytes=2-3", "206 Partial Content"},
		{"/", "Range", "bytes=20-", "416 Requested Range Not Satisfiable"},
		{"/", "If-None-Match", `"1"`, "304 Not Modified"},
		{"/gone", "Accept", "*/*", "410 Gone"},
		{"/none", "Cache-Control", "only-if-cached", "504 Gateway Timeout"},
	} {
		resp := fetch(t, client, s.URL+tt.path, tt.field, tt.value)
		require.Equal(t, tt.status, resp.Status)
		require.Equal(t, tt.status[:3], strconv.Itoa(resp.StatusCode))
		require.Equal(t, tt.path != "/none", hit(resp))
	}
}
