package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// A stream in both directions lives as long as either side speaks.
func TestL45_EitherSideKeepsAStreamAlive(t *testing.T) {
	const stall = time.Second
	mux := http.NewServeMux()
	mux.HandleFunc("/watch", func(w http.ResponseWriter, r *http.Request) {
		for i := range 12 {
			fmt.Fprintf(w, "%d\n", i)
			_ = http.NewResponseController(w).Flush()
			sleep(r.Context(), stall/4)
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})
	b := backend.Start(t, backend.Config{Handler: mux, Protocol: backend.H2C})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	g := start(t, fmt.Sprintf(`
server: {stall_timeout: %s, tls: {certificates: [{cert: %[2]s/one.pem, key: %[2]s/one.key}]}}
upstreams: {app: {hosts: [%s], h2c: true}}
routes: [{upstream: app}]
`, stall, folder, b.Addr))
	c := secureClient(t, "one.test", true)
	begin := func(t *testing.T, path string) (*http.Response, *io.PipeWriter) {
		body, w := io.Pipe()
		t.Cleanup(func() { w.Close() })
		req, err := http.NewRequest("POST", "https://"+g.addr+path, body)
		require.NoError(t, err)
		resp, err := c.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp, w
	}
	t.Run("the client is silent", func(t *testing.T) {
		t.Parallel()
		resp, _ := begin(t, "/watch")
		lines := bufio.NewScanner(resp.Body)
		for i := range 12 {
			require.True(t, lines.Scan(), "%d: %v", i, lines.Err())
		}
	})
	t.Run("the server is silent", func(t *testing.T) {
		t.Parallel()
		resp, w := begin(t, "/upload")
		for range 12 {
			_, err := io.WriteString(w, "x")
			require.NoError(t, err)
			sleep(t.Context(), stall/4)
		}
		require.NoError(t, w.Close())
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "12\n", string(text))
	})
	t.Run("both are silent", func(t *testing.T) {
		t.Parallel()
		resp, _ := begin(t, "/upload")
		_, err := io.ReadAll(resp.Body)
		require.Error(t, err)
	})
}

// Over HTTP/1.1 net/http reads the rest of a body when the handler has returned.
func TestSilentClientsAfterTheAnswer(t *testing.T) {
	for _, duplex := range []bool{false, true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			steady, r, done := limitStalls(w, r, bounds{
				stall: Timeout(300 * time.Millisecond), draining: func() bool { return false },
			})
			defer done()
			if duplex {
				if err := http.NewResponseController(steady).EnableFullDuplex(); err != nil {
					t.Error(err)
				}
			}
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
			_, _ = io.WriteString(steady, "answer")
		}))
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello")
		text, err := io.ReadAll(conn)
		require.NoError(t, err, "the connection is closed")
		require.Contains(t, string(text), "answer")
		conn.Close()
		server.Close()
	}
}

func TestL46_ServersThatStopInsideTheirAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	ended := make(chan struct{}, 2)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := bufio.NewReader(conn)
				if _, err := http.ReadRequest(buf); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
				_, _ = io.Copy(io.Discard, buf)
				ended <- struct{}{}
			}()
		}
	}()
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	for _, server := range []string{"stall_timeout: 300ms", "stall_timeout: off"} {
		g := start(t, fmt.Sprintf(`
server: {%s, tls: {certificates: [{cert: %[2]s/one.pem, key: %[2]s/one.key}]}}
upstreams: {app: {hosts: [%s]}}
routes: [{upstream: app, stall_timeout: 300ms}, {upstream: app, path: /off, stall_timeout: off}]
`, server, folder, ln.Addr()))
		for _, h2 := range []bool{false, true} {
			resp, err := secureClient(t, "one.test", h2).Get("https://" + g.addr)
			require.NoError(t, err)
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.Equal(t, "half", string(text))
			require.Error(t, err, "half an answer is no answer")
			<-ended
		}
	}
}

// An exchange in a bubble: its clocks can be looked at.
func exchange(t *testing.T, b bounds, body io.Reader) (*steadyWriter, *http.Request, func()) {
	t.Helper()
	b.draining = func() bool { return false }
	req := httptest.NewRequestWithContext(t.Context(), "POST", "/", body)
	return limitStalls(httptest.NewRecorder(), req, b)
}

func TestExchangesThatStandStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, done := exchange(t, bounds{stall: Timeout(20 * time.Second)}, nil)
		defer done()
		w.ResponseWriter = headless{w.ResponseWriter}
		time.Sleep(time.Hour)
		require.NoError(t, r.Context().Err(), "the answer has not begun: response_timeout bounds that")
		w.WriteHeader(http.StatusEarlyHints)
		time.Sleep(time.Hour)
		require.NoError(t, r.Context().Err())
		w.WriteHeader(http.StatusOK)
		for range 3 {
			time.Sleep(19 * time.Second)
			_, err := io.WriteString(w, "x")
			require.NoError(t, err)
		}
		start := time.Now()
		<-r.Context().Done()
		require.Equal(t, 20*time.Second, time.Since(start))
		require.Equal(t, errStalled, context.Cause(r.Context()))
	})
	synctest.Test(t, func(t *testing.T) {
		w, r, done := exchange(t, bounds{stall: off}, nil)
		w.WriteHeader(http.StatusOK)
		time.Sleep(24 * time.Hour)
		require.NoError(t, r.Context().Err())
		done()
	})
	synctest.Test(t, func(t *testing.T) {
		w, r, done := exchange(t, bounds{stall: Timeout(time.Second)}, nil)
		w.WriteHeader(http.StatusOK)
		done()
		require.Equal(t, context.Canceled, context.Cause(r.Context()))
		time.Sleep(time.Hour)
	})
}

// A timed writer keeps the deadlines of writes.
type timed struct {
	headless
	deadlines []time.Time
}

func (w *timed) SetWriteDeadline(t time.Time) error {
	w.deadlines = append(w.deadlines, t)
	return nil
}

// A write has stall_timeout at least and half as long again at most, and most of them need not move
// the deadline.
func TestWritesHaveTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = 20 * time.Second
		w, _, done := exchange(t, bounds{stall: Timeout(stall)}, nil)
		defer done()
		inner := &timed{headless: headless{w.ResponseWriter}}
		w.ResponseWriter, w.rc = inner, http.NewResponseController(inner)
		for range 100 {
			_, err := io.WriteString(w, "x")
			require.NoError(t, err)
			left := time.Until(inner.deadlines[len(inner.deadlines)-1])
			require.GreaterOrEqual(t, left, stall)
			require.LessOrEqual(t, left, stall*3/2)
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, len(inner.deadlines), 10)
	})
}

// A headless writer takes any number of headers, which httptest.ResponseRecorder does not.
type headless struct{ http.ResponseWriter }

func (headless) WriteHeader(int) {}

// A drip is a body that moves all the time, and slowly.
type drip struct {
	bytes int
	every time.Duration
}

func (d drip) Read(p []byte) (int, error) {
	time.Sleep(d.every)
	return min(d.bytes, len(p)), nil
}

func TestL51_BodiesThatDrip(t *testing.T) {
	stall := Timeout(20 * time.Second)
	for name, tt := range map[string]struct {
		body  drip
		least Pace
		slow  bool
	}{
		"a byte a second":      {drip{1, time.Second}, 240, true},
		"just too slow":        {drip{239, time.Second}, 240, true},
		"just fast enough":     {drip{240, time.Second}, 240, false},
		"in bursts":            {drip{5000, 19 * time.Second}, 240, false},
		"any pace is good":     {drip{1, time.Second}, off, false},
		"a modem, long pauses": {drip{4600, 19 * time.Second}, 240, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, r, done := exchange(t, bounds{stall: stall, pace: tt.least}, tt.body)
				defer done()
				n, err := io.CopyN(io.Discard, r.Body, 20_000)
				if !tt.slow {
					require.NoError(t, err)
					require.EqualValues(t, 20_000, n)
					return
				}
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.True(t, timeout.Timeout(), "the client gets 408")
				require.Equal(t, paceWindow, time.Since(start))
			})
		})
	}
}

// The pace of a request's body is its sender's own matter once the answer has begun.
func TestL51_SilentStreamsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, done := exchange(t, bounds{stall: Timeout(20 * time.Second), pace: 240}, drip{1, time.Second})
		defer done()
		w.timers = true // both directions at once
		w.WriteHeader(http.StatusOK)
		n, err := io.CopyN(io.Discard, r.Body, 3600)
		require.NoError(t, err)
		require.EqualValues(t, 3600, n)
	})
}

// A slowWriter takes a second for each write.
type slowWriter struct{ http.ResponseWriter }

func (w slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Second)
	return len(p), nil
}

func TestL51_ClientsThatReadDripByDrip(t *testing.T) {
	for size, slow := range map[int]bool{10: true, 239: true, 240: false} {
		synctest.Test(t, func(t *testing.T) {
			w, r, done := exchange(t, bounds{stall: Timeout(20 * time.Second), pace: 240}, nil)
			defer done()
			w.ResponseWriter = slowWriter{ResponseWriter: w.ResponseWriter}
			var err error
			for i := 0; i < 100 && err == nil; i++ {
				time.Sleep(10 * time.Second) // the server's pauses do not count
				_, err = w.Write(make([]byte, size))
			}
			if !slow {
				require.NoError(t, err)
				return
			}
			require.Equal(t, errDrips, err)
			require.True(t, errors.Is(context.Cause(r.Context()), errDrips), "the upstream is left at once")
		})
	}
}
