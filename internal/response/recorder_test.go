package response_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/response"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A logBuffer collects a server's error log.
type logBuffer struct {
	mu sync.Mutex // guards the fields below
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A server is an HTTP server that passes a Recorder to its handler.
type server struct {
	*httptest.Server
	log  logBuffer
	recs chan response.Recorder // a copy of each Recorder, when its handler has returned or panicked
}

func (s *server) record(t *testing.T) response.Recorder {
	t.Helper()
	select {
	case rec := <-s.recs:
		return rec
	case <-time.After(10 * time.Second):
		t.Fatal("the handler has not returned")
		panic("unreachable")
	}
}

// serve starts a server that speaks proto, "HTTP/1.1" or "HTTP/2.0" over TLS.
func serve(t *testing.T, proto string, h func(*response.Recorder, *http.Request)) *server {
	t.Helper()
	s := &server{recs: make(chan response.Recorder, 100)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := response.NewRecorder(w, r)
		defer func() { s.recs <- *rec }()
		if r.Proto != proto {
			panic("served over " + r.Proto)
		}
		h(rec, r)
	}))
	s.Config.ErrorLog = log.New(&s.log, "", 0)
	if proto == "HTTP/2.0" {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// overBoth runs test on servers of both protocols.
func overBoth(t *testing.T, test func(t *testing.T, proto string)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run("proto="+proto, func(t *testing.T) { test(t, proto) })
	}
}

func TestO07_EventsArriveAsTheyAreFlushed(t *testing.T) {
	flushes := map[string]func(*response.Recorder) error{
		"http.Flusher": func(rec *response.Recorder) error {
			http.ResponseWriter(rec).(http.Flusher).Flush()
			return nil
		},
		"http.ResponseController": func(rec *response.Recorder) error {
			return http.NewResponseController(rec).Flush()
		},
		"inside another wrapper": func(rec *response.Recorder) error {
			return http.NewResponseController(&response.Recorder{ResponseWriter: rec}).Flush()
		},
	}
	overBoth(t, func(t *testing.T, proto string) {
		for name, flush := range flushes {
			t.Run(name, func(t *testing.T) {
				read := make(chan struct{})
				s := serve(t, proto, func(rec *response.Recorder, r *http.Request) {
					rec.Header().Set("Content-Type", "text/event-stream")
					for i := range 3 {
						fmt.Fprintf(rec, "data: %d\n\n", i)
						if err := flush(rec); err != nil {
							panic(err)
						}
						select { // write the next event when this one has been read
						case <-read:
						case <-r.Context().Done():
							return
						}
					}
				})
				resp, err := s.Client().Get(s.URL)
				require.NoError(t, err)
				defer resp.Body.Close()
				lines := bufio.NewReader(resp.Body)
				for i := range 3 {
					line, err := lines.ReadString('\n')
					require.NoError(t, err)
					require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
					_, err = lines.ReadString('\n')
					require.NoError(t, err)
					read <- struct{}{}
				}
				_, err = lines.ReadByte()
				require.ErrorIs(t, err, io.EOF)
				rec := s.record(t)
				require.Equal(t, 200, rec.Status)
				require.Equal(t, int64(len("data: 0\n\n")*3), rec.Bytes)
			})
		}
	})
}

func TestO07_FlushSendsTheHeader(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		release := make(chan struct{})
		s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) {
			require.NoError(t, rec.FlushError())
			require.Equal(t, 200, rec.Status)
			rec.WriteHeader(500) // too late
			<-release
		})
		resp, err := s.Client().Get(s.URL)
		require.NoError(t, err)
		close(release)
		_, err = io.ReadAll(resp.Body) // a stream closed earlier would fail a flush that has not returned yet
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, 200, s.record(t).Status)
		require.Equal(t, 1, strings.Count(s.log.String(), "superfluous"), "of the handler's second header")
		require.Contains(t, s.log.String(), "(recorder_test.go:")
	})
}

// A countingListener returns connections that remember which files the server gives to their
// ReadFrom, where a *net.TCPConn calls sendfile(2).
type countingListener struct {
	net.Listener
	files chan string
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{c.(*net.TCPConn), l.files}, nil
}

type countingConn struct {
	*net.TCPConn
	files chan string
}

func (c countingConn) ReadFrom(src io.Reader) (int64, error) {
	inner := src
	for {
		lr, ok := inner.(*io.LimitedReader)
		if !ok {
			break
		}
		inner = lr.R
	}
	// net uses sendfile for an *os.File and for a file without WriteTo; both have these methods.
	if f, ok := inner.(interface {
		Name() string
		io.Seeker
		SetDeadline(time.Time) error
	}); ok {
		c.files <- f.Name()
	}
	return c.TCPConn.ReadFrom(src)
}

func TestO07_CopyOfAFileReachesTheConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	copies := map[string]struct {
		serve func(http.ResponseWriter, *http.Request)
		want  int // files that reach the connection's ReadFrom
	}{
		"http.ServeFile": {func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }, 1},
		"io.Copy": {func(w http.ResponseWriter, _ *http.Request) {
			f, err := os.Open(path)
			require.NoError(t, err)
			defer f.Close()
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, err = io.Copy(w, f)
			require.NoError(t, err)
		}, 1},
		"two wrappers": {func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(response.NewRecorder(w, r), r, path)
		}, 1},
		"control, a wrapper without ReadFrom": {func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(struct{ http.ResponseWriter }{w}, r, path)
		}, 0},
	}
	for name, tt := range copies {
		t.Run(name, func(t *testing.T) {
			files := make(chan string, 10)
			recs := make(chan response.Recorder, 1)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rec := response.NewRecorder(w, r)
				tt.serve(rec, r)
				recs <- *rec
			}))
			s.Listener = countingListener{s.Listener, files}
			s.Start()
			defer s.Close()
			resp, err := s.Client().Get(s.URL)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.True(t, bytes.Equal(content, body))
			rec := <-recs
			require.Equal(t, int64(len(content)), rec.Bytes)
			require.Equal(t, 200, rec.Status)
			require.Len(t, files, tt.want)
			for range tt.want {
				require.Equal(t, path, <-files)
			}
		})
	}
}

func TestO07_DeadlinesAndFullDuplexPassThrough(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) {
			rc := http.NewResponseController(rec)
			require.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, rc.EnableFullDuplex())
		})
		resp, err := s.Client().Get(s.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	})
}

// A bareWriter has the methods of http.ResponseWriter and no others.
type bareWriter struct{ http.ResponseWriter }

func TestO08_WhatTheWriterBelowCannotDoIsNotSupported(t *testing.T) {
	w := httptest.NewRecorder() // can flush: the wrapper around it hides that
	rec := response.NewRecorder(bareWriter{w}, httptest.NewRequest("GET", "/", nil))
	require.ErrorIs(t, rec.FlushError(), http.ErrNotSupported)
	rec.Flush()
	require.Zero(t, rec.Status, "a flush that did nothing has sent no header")
	require.False(t, w.Flushed)
	_, _, err := rec.Hijack()
	require.ErrorIs(t, err, http.ErrNotSupported)
	require.False(t, rec.Hijacked)
	require.ErrorIs(t, rec.Push("/style.css", nil), http.ErrNotSupported)
	rc := http.NewResponseController(rec)
	require.ErrorIs(t, rc.SetReadDeadline(time.Now()), http.ErrNotSupported)
	require.ErrorIs(t, rc.EnableFullDuplex(), http.ErrNotSupported)
	rec.WriteHeader(503)
	require.Equal(t, 503, w.Code)
}

func TestO08_HijackOverHTTP2IsNotSupported(t *testing.T) {
	s := serve(t, "HTTP/2.0", func(rec *response.Recorder, _ *http.Request) {
		_, _, err := http.ResponseWriter(rec).(http.Hijacker).Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
		rec.WriteHeader(http.StatusTeapot)
	})
	resp, err := s.Client().Get(s.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusTeapot, resp.StatusCode)
	require.False(t, s.record(t).Hijacked)
}

type pusher struct {
	http.ResponseWriter
	pushed string
}

func (p *pusher) Push(target string, _ *http.PushOptions) error { p.pushed = target; return nil }

func TestO07_PushReachesTheWriterBelow(t *testing.T) {
	p := &pusher{ResponseWriter: httptest.NewRecorder()}
	r := httptest.NewRequest("GET", "/", nil)
	require.NoError(t, response.NewRecorder(response.NewRecorder(p, r), r).Push("/style.css", nil))
	require.Equal(t, "/style.css", p.pushed)
}

func TestTrailersPassThrough(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) {
			rec.Header().Set("Trailer", "Announced")
			_, _ = io.WriteString(rec, "body")
			require.NoError(t, rec.FlushError())
			rec.Header().Set("Announced", "yes")
			rec.Header().Set(http.TrailerPrefix+"Late", "too")
		})
		resp, err := s.Client().Get(s.URL)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "yes", resp.Trailer.Get("Announced"))
		require.Equal(t, "too", resp.Trailer.Get("Late"))
		require.Equal(t, int64(4), s.record(t).Bytes)
	})
}

func TestAbortCutsTheResponse(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) {
			_, _ = io.WriteString(rec, "half")
			rec.Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := s.Client().Get(s.URL)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.Error(t, err, "the client must see that the body is cut")
		require.Equal(t, "half", string(body))
		require.NoError(t, resp.Body.Close())
		rec := s.record(t)
		require.Equal(t, 200, rec.Status)
		require.Equal(t, int64(4), rec.Bytes)
		require.Empty(t, s.log.String(), "net/http logs nothing only if ErrAbortHandler arrives unwrapped")
	})
}

func TestClientThatLeavesEndsTheWrites(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, r *http.Request) {
			chunk := make([]byte, 32<<10)
			for {
				if _, err := rec.Write(chunk); err != nil {
					return
				}
				if rec.FlushError() != nil {
					return
				}
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		require.NoError(t, err)
		resp, err := s.Client().Do(req)
		require.NoError(t, err)
		cancel()
		resp.Body.Close()
		rec := s.record(t) // comes when the handler has ended
		require.Equal(t, 200, rec.Status)
	})
}

func TestO10_HijackedConnectionIsRecordedOnce(t *testing.T) {
	for name, answer := range map[string]string{
		"upgrade":      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
		"raw response": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "HTTP/1.1", func(rec *response.Recorder, r *http.Request) {
				conn, rw, err := http.ResponseWriter(rec).(http.Hijacker).Hijack()
				if err != nil {
					panic(err)
				}
				defer conn.Close()
				_, _ = rw.WriteString(answer)
				_ = rw.Flush()
				if name == "upgrade" {
					line, _ := rw.ReadString('\n')
					_, _ = rw.WriteString(line)
					_ = rw.Flush()
				}
				// It is too late for each of these, and none may cause a line in net/http's log.
				rec.WriteHeader(500)
				_, err = rec.Write([]byte("x"))
				require.ErrorIs(t, err, http.ErrHijacked)
				_, err = rec.WriteString("x")
				require.ErrorIs(t, err, http.ErrHijacked)
				_, err = rec.ReadFrom(strings.NewReader("x"))
				require.ErrorIs(t, err, http.ErrHijacked)
				require.ErrorIs(t, rec.FlushError(), http.ErrHijacked)
				_, _, err = rec.Hijack()
				require.ErrorIs(t, err, http.ErrHijacked)
			})
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn,
				"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping\n")
			require.NoError(t, err)
			all, err := io.ReadAll(conn)
			require.NoError(t, err)
			want := answer
			if name == "upgrade" {
				want += "ping\n"
			}
			require.Equal(t, want, string(all))
			rec := s.record(t)
			require.True(t, rec.Hijacked)
			require.Equal(t, http.StatusSwitchingProtocols, rec.Status)
			require.Zero(t, rec.Bytes)
			require.Empty(t, s.log.String())
		})
	}
}

func TestRecorderSourceFailsBeforeFirstByte(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) {
			_, err := io.Copy(rec, iotest.ErrReader(errors.New("no source")))
			require.Error(t, err)
			require.Zero(t, rec.Status)
			rec.WriteHeader(500)
		})
		resp, err := s.Client().Get(s.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 500, resp.StatusCode)
		require.Equal(t, 500, s.record(t).Status)
	})
}
