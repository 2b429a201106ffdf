package versioning_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// converting returns a handler inside Convert for a client of version 1. Bodies of JSON are
// converted, and others pass through the same writer.
func converting(t testing.TB, h http.HandlerFunc) http.Handler {
	return chained(t, versioning.Config{}, rename("", "a", "b")).Middleware(h)
}

func TestO07_ConvertKeepsWhatTheWriterCan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	protocols(t, func(t *testing.T, h2 bool) {
		srv := server(t, h2, converting(t, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			switch r.URL.Path {
			case "/deadline":
				require.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Hour)))
				require.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Hour)))
				if !h2 {
					require.NoError(t, rc.EnableFullDuplex())
				}
				require.NoError(t, rc.Flush())
			case "/file":
				http.ServeFile(w, r, path)
			case "/copy":
				f, err := os.Open(path)
				require.NoError(t, err)
				defer f.Close()
				n, err := io.Copy(w, f)
				require.NoError(t, err)
				require.EqualValues(t, len(content), n)
			case "/push":
				err := w.(http.Pusher).Push("/x", nil)
				require.Error(t, err, "the client allows none")
			case "/json":
				w.Header().Set("Content-Type", "application/json")
				n, err := io.Copy(w, strings.NewReader(`{"b":1}`))
				require.NoError(t, err)
				require.EqualValues(t, 7, n)
				require.ErrorIs(t, rc.Flush(), http.ErrNotSupported, "nothing can be sent yet")
			}
		}))
		for path, want := range map[string]string{
			"/deadline": "", "/file": string(content), "/copy": string(content), "/push": "",
			"/json": `{"a":1}`,
		} {
			resp, err := srv.Client().Get(srv.URL + "/v1" + path)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, want, string(body), path)
		}
	})
}

// A file that passes reaches the connection's ReadFrom, where sendfile is.
func TestO07_FilesReachTheConnection(t *testing.T) {
	inner := &readingWriter{ResponseRecorder: httptest.NewRecorder()}
	converting(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_, err := io.Copy(w, struct{ io.Reader }{strings.NewReader("file")})
		require.NoError(t, err)
	}).ServeHTTP(inner, request("GET", "/v1/"))
	require.Equal(t, 1, inner.copies)
	require.Equal(t, "file", inner.Body.String())
}

type readingWriter struct {
	*httptest.ResponseRecorder
	copies int
}

func (w *readingWriter) ReadFrom(src io.Reader) (int64, error) {
	w.copies++
	return io.Copy(w.Body, src)
}

func TestO08_ConvertClaimsNothing(t *testing.T) {
	bare := &countingWriter{header: http.Header{}}
	converting(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		require.ErrorIs(t, rc.Flush(), http.ErrNotSupported)
		_, _, err := rc.Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
		require.ErrorIs(t, rc.SetWriteDeadline(time.Now()), http.ErrNotSupported)
		require.ErrorIs(t, rc.EnableFullDuplex(), http.ErrNotSupported)
		require.ErrorIs(t, w.(http.Pusher).Push("/", nil), http.ErrNotSupported)
		_, err = io.WriteString(w, "still works")
		require.NoError(t, err)
	}).ServeHTTP(bare, request("GET", "/v1/"))
	require.Equal(t, 11, bare.bytes)
}

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

func TestO09_StatusesThroughConvert(t *testing.T) {
	for name, tt := range map[string]struct {
		handler func(w http.ResponseWriter)
		code    int
		body    string
		hints   []int
	}{
		"written twice": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(201)
			w.WriteHeader(500)
			fmt.Fprint(w, `{"b":1}`)
			w.WriteHeader(500)
		}, 201, `{"a":1}`, nil},
		"implicit": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"b":`)
			w.WriteHeader(500)
			fmt.Fprint(w, `1}`)
		}, 200, `{"a":1}`, nil},
		"header too late": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(200)
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, `{"b":1}`)
		}, 200, `{"a":1}`, nil},
		"informational": {func(w http.ResponseWriter) {
			w.Header().Set("Link", "</x>; rel=preload")
			w.WriteHeader(103)
			w.WriteHeader(102)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"b":1}`)
		}, 200, `{"a":1}`, []int{103, 102}},
		"204 with a body": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(204)
			_, err := w.Write([]byte(`{"b":1}`))
			if !errors.Is(err, http.ErrBodyNotAllowed) {
				panic("the body was taken")
			}
		}, 204, "", nil},
		"304": {func(w http.ResponseWriter) { w.WriteHeader(304) }, 304, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			protocols(t, func(t *testing.T, h2 bool) {
				var out logBuffer
				srv := httptest.NewUnstartedServer(converting(t, func(w http.ResponseWriter,
					r *http.Request) {
					tt.handler(w)
				}))
				srv.Config.ErrorLog = log.New(&out, "", 0)
				srv.EnableHTTP2 = h2
				if h2 {
					srv.StartTLS()
				} else {
					srv.Start()
				}
				defer srv.Close()
				var hints []int
				var link string
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
						hints = append(hints, code)
						link = h.Get("Link")
						return nil
					},
				})
				req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+"/v1/", nil)
				resp, err := srv.Client().Do(req)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.code, resp.StatusCode)
				require.Equal(t, tt.body, string(body))
				require.Equal(t, tt.hints, hints)
				if len(hints) > 0 {
					require.Equal(t, "</x>; rel=preload", link)
				}
				require.NotContains(t, out.String(), "superfluous")
			})
		})
	}
	require.Panics(t, func() {
		serve(converting(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(0) }),
			request("GET", "/v1/"))
	})
}

func TestO10_HijackThroughConvert(t *testing.T) {
	done := make(chan error, 1)
	srv := server(t, false, converting(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n" +
			"Connection: Upgrade\r\n\r\n{\"b\":1}")
		_ = rw.Flush()
		_, err = w.Write([]byte("late"))
		done <- err
	}))
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/ HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
	all, err := io.ReadAll(bufio.NewReader(conn))
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(all), "\r\n\r\n{\"b\":1}"),
		"bytes of an upgrade pass as they are")
	require.Equal(t, 1, strings.Count(string(all), "HTTP/1.1"))
	require.ErrorIs(t, <-done, http.ErrHijacked)
}

func TestO11_PanicsPassThroughConvert(t *testing.T) {
	for _, value := range []any{http.ErrAbortHandler, "bug"} {
		for _, contentType := range []string{"application/json", "text/plain", "application/jsonl"} {
			for _, writes := range []bool{false, true} {
				w := httptest.NewRecorder()
				require.PanicsWithValue(t, value, func() {
					converting(t, func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", contentType)
						if writes {
							_, _ = io.WriteString(w, "{\"b\":1}\n")
						}
						panic(value)
					}).ServeHTTP(w, request("GET", "/v1/"))
				})
				if contentType == "application/json" {
					require.Empty(t, w.Body.String(), "half a body is not sent as a whole one")
				}
			}
		}
	}
}

func TestTrailersThroughConvert(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		for _, contentType := range []string{"application/json", "application/jsonl", "text/plain"} {
			srv := server(t, h2, converting(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", contentType)
				w.Header().Set("Trailer", "X-A, Content-Digest")
				fmt.Fprint(w, "{\"b\":1}\n")
				w.Header().Set("X-A", "a")
				w.Header().Set("X-No", "no")
				w.Header().Set("Content-Digest", "of the head's bytes")
				w.Header().Set(http.TrailerPrefix+"X-B", "b")
			}))
			resp, err := srv.Client().Get(srv.URL + "/v1/")
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, "a", resp.Trailer.Get("X-A"), contentType)
			require.Equal(t, "b", resp.Trailer.Get("X-B"), contentType)
			require.Empty(t, resp.Trailer.Get("X-No"))
			require.Equal(t, contentType == "text/plain", resp.Trailer.Get("Content-Digest") != "",
				contentType)
		}
	})
}
