package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// over runs test with a server of each protocol that answers with handler.
func over(t *testing.T, handler http.Handler, test func(t *testing.T, server *httptest.Server)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			server := httptest.NewUnstartedServer(handler)
			server.EnableHTTP2 = protocol == "HTTP/2.0"
			if server.EnableHTTP2 {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			test(t, server)
		})
	}
}

// askServer sends a request with those fields and returns the response and its body.
func askServer(
	t *testing.T, server *httptest.Server, method string, fields ...string,
) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/tea", nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	resp, err := server.Client().Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func TestHeadersTagBodies(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for _, part := range []string{"<!DOCTYPE html>", "<p>", "tea"} {
			n, err := io.WriteString(w, part)
			if n != len(part) || err != nil {
				panic("a write failed")
			}
		}
	})
	over(t, newHeaders(t, cache.HeadersConfig{}).Middleware(handler), func(t *testing.T, s *httptest.Server) {
		resp, body := askServer(t, s, http.MethodGet)
		require.Equal(t, "<!DOCTYPE html><p>tea", body)
		require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
		require.EqualValues(t, len(body), resp.ContentLength)
		tag := resp.Header.Get("ETag")
		require.Regexp(t, `^"[-_0-9A-Za-z]{22}"$`, tag)

		head, body := askServer(t, s, http.MethodHead)
		require.Empty(t, body)
		require.Equal(t, tag, head.Header.Get("ETag"))
		require.Equal(t, resp.ContentLength, head.ContentLength)

		resp, body = askServer(t, s, http.MethodGet, "If-None-Match", tag)
		require.Equal(t, http.StatusNotModified, resp.StatusCode)
		require.Empty(t, body)
		require.Equal(t, tag, resp.Header.Get("ETag"))
		require.Empty(t, resp.Header.Get("Content-Type"))
	})
}

func TestHeadersTagRepresentationsNotBytes(t *testing.T) {
	headers := newHeaders(t, cache.HeadersConfig{})
	seen := map[string]string{}
	for name, handler := range map[string]http.Handler{
		"tea":      send(200, "tea", "Content-Type", "text/plain"),
		"coffee":   send(200, "coffee", "Content-Type", "text/plain"),
		"type":     send(200, "tea", "Content-Type", "text/markdown"),
		"encoding": send(200, "tea", "Content-Type", "text/plain", "Content-Encoding", "x"),
		"language": send(200, "tea", "Content-Type", "text/plain", "Content-Language", "x"),
		"nothing":  send(200, "", "Content-Type", "text/plain"),
		"moved":    send(200, "atea", "Content-Type", "text/plai"),
	} {
		tag := answer(headers.Middleware(handler)).Header().Get("ETag")
		require.NotEmpty(t, tag, name)
		require.NotContains(t, seen, tag, "%s has the tag of %s", name, seen[tag])
		seen[tag] = name
		require.Equal(t, tag, answer(headers.Middleware(handler)).Header().Get("ETag"), name)
	}
}

func TestHeadersGiveNoTag(t *testing.T) {
	small := cache.HeadersConfig{MaxBody: 3}
	for name, test := range map[string]struct {
		cfg     cache.HeadersConfig
		method  string
		handler http.HandlerFunc
		body    string
		tag     string
	}{
		"to more than MaxBody": {small, "GET", send(200, "teas"), "teas", ""},
		"by option":            {cache.HeadersConfig{MaxBody: -1}, "GET", send(200, "tea"), "tea", ""},
		"to another status":    {small, "GET", send(203, "tea"), "tea", ""},
		"to a part":            {small, "GET", send(206, "tea"), "tea", ""},
		"beside another tag":   {small, "GET", send(200, "tea", "ETag", `W/"1"`), "tea", `W/"1"`},
		"to what is not stored": {
			small, "GET", send(200, "tea", "Cache-Control", "private, no-store"), "tea", "",
		},
		"to an announced length beyond MaxBody": {
			small, "GET", send(200, "teas", "Content-Length", "4"), "teas", "",
		},
		"to less than was announced": {small, "GET", send(200, "te", "Content-Length", "3"), "te", ""},
		"to HEAD without the body":   {small, "HEAD", send(200, ""), "", ""},
		"beside trailers":            {small, "GET", send(200, "tea", "Trailer", "X-End"), "tea", ""},
		"to a body that is flushed": {small, "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "t")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "e")
		}, "te", ""},
		"to a flush without a body": {small, "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
		}, "", ""},
		"to a copy that fails": {small, "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.MultiReader(strings.NewReader("te"), iotest.ErrReader(errors.New("gone"))))
		}, "te", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := answerTo(newHeaders(t, test.cfg).Middleware(test.handler), test.method)
			require.Equal(t, test.body, w.Body.String())
			require.Equal(t, test.tag, w.Header().Get("ETag"))
		})
	}
}

// However a body of any size is written, it arrives whole, and has a tag if it is small enough.
func TestHeadersPassEveryByte(t *testing.T) {
	const most = 100
	headers := newHeaders(t, cache.HeadersConfig{MaxBody: most})
	writes := map[string]func(w http.ResponseWriter, body string){
		"Write": func(w http.ResponseWriter, body string) {
			for _, b := range []byte(body) {
				n, err := w.Write([]byte{b})
				require.Equal(t, 1, n)
				require.NoError(t, err)
			}
		},
		"WriteString": func(w http.ResponseWriter, body string) {
			half := len(body) / 2
			for _, part := range []string{body[:half], "", body[half:]} {
				n, err := io.WriteString(w, part)
				require.Equal(t, len(part), n)
				require.NoError(t, err)
			}
		},
		"ReadFrom": func(w http.ResponseWriter, body string) {
			half := len(body) / 2
			for _, part := range []string{body[:half], body[half:]} {
				n, err := w.(io.ReaderFrom).ReadFrom(iotest.OneByteReader(strings.NewReader(part)))
				require.EqualValues(t, len(part), n)
				require.NoError(t, err)
			}
		},
		"all in turn": func(w http.ResponseWriter, body string) {
			third := len(body) / 3
			_, _ = w.Write([]byte(body[:third]))
			_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader(body[third : 2*third])})
			_, _ = io.WriteString(w, body[2*third:])
		},
	}
	for name, write := range writes {
		for _, size := range []int{0, 1, most - 1, most, most + 1, 10 * most} {
			body := strings.Repeat("0123456789", 100)[:size]
			handler := headers.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				write(w, body)
			}))
			w := answer(handler)
			require.Equal(t, body, w.Body.String(), "%s %d", name, size)
			tag := w.Header().Get("ETag")
			require.Equal(t, size <= most, tag != "", "%s %d", name, size)
			if tag != "" {
				again := answer(handler, "If-None-Match", tag)
				require.Equal(t, http.StatusNotModified, again.Code)
				require.Empty(t, again.Body.String())
			}
		}
	}
}

// net/http sends the header as it is when the handler sends it; so does a writer that holds it.
func TestHeadersSendTheHeaderAsItWas(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Tea", "green")
		w.Header().Set("Content-Type", "text/markdown")
		_, _ = io.WriteString(w, "tea")
		w.Header().Set("X-Tea", "black")
		w.Header().Set("X-Late", "1")
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusTeapot)
	})
	over(t, newHeaders(t, cache.HeadersConfig{}).Middleware(handler), func(t *testing.T, s *httptest.Server) {
		resp, body := askServer(t, s, http.MethodGet)
		require.Equal(t, "tea", body)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "green", resp.Header.Get("X-Tea"))
		require.Empty(t, resp.Header.Get("X-Late"))
		require.Equal(t, "text/markdown", resp.Header.Get("Content-Type"))
		require.NotEmpty(t, resp.Header.Get("ETag"))
	})
}

func TestHeadersKeepTrailers(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-End")
			_, _ = io.WriteString(w, "tea")
			w.Header().Set("X-End", "1")
		},
		"not announced": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "tea")
			w.Header().Set(http.TrailerPrefix+"X-End", "1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			over(t, newHeaders(t, cache.HeadersConfig{}).Middleware(handler),
				func(t *testing.T, s *httptest.Server) {
					resp, body := askServer(t, s, http.MethodGet)
					require.Equal(t, "tea", body)
					require.Equal(t, "1", resp.Trailer.Get("X-End"))
					require.Empty(t, resp.Header.Get("X-End"))
				})
		})
	}
}

func TestHeadersStream(t *testing.T) {
	more := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "t")
			if err := http.NewResponseController(w).Flush(); err != nil {
				panic(err)
			}
			<-more
		}
	})
	over(t, newHeaders(t, cache.HeadersConfig{TTL: time.Minute}).Middleware(handler),
		func(t *testing.T, s *httptest.Server) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
			require.NoError(t, err)
			resp, err := s.Client().Do(r)
			require.NoError(t, err)
			defer resp.Body.Close()
			for range 3 {
				one := make([]byte, 1)
				_, err := io.ReadFull(resp.Body, one)
				require.NoError(t, err)
				require.Equal(t, "t", string(one))
				more <- struct{}{}
			}
			require.Equal(t, "max-age=60", resp.Header.Get("Cache-Control"))
			require.Empty(t, resp.Header.Get("ETag"))
		})
}

func TestHeadersForwardInterimResponses(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "tea")
	})
	over(t, newHeaders(t, cache.HeadersConfig{TTL: time.Minute}).Middleware(handler),
		func(t *testing.T, s *httptest.Server) {
			var hints []string
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
					hints = append(hints, fmt.Sprint(code), header.Get("Link"), header.Get("Cache-Control"))
					return nil
				},
			})
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
			require.NoError(t, err)
			resp, err := s.Client().Do(r)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, []string{"103", "</style.css>; rel=preload", ""}, hints)
			require.Equal(t, "max-age=60", resp.Header.Get("Cache-Control"))
			require.NotEmpty(t, resp.Header.Get("ETag"))
		})
}

// A handler that panics sends nothing of what is held.
func TestHeadersSendNothingAfterAPanic(t *testing.T) {
	handler := newHeaders(t, cache.HeadersConfig{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "te")
			panic(http.ErrAbortHandler)
		}))
	over(t, handler, func(t *testing.T, s *httptest.Server) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		require.NoError(t, err)
		resp, err := s.Client().Do(r)
		if err == nil {
			resp.Body.Close()
		}
		require.Error(t, err)
	})
}

func TestHeadersLetHandlersUpgrade(t *testing.T) {
	server := httptest.NewServer(newHeaders(t, cache.HeadersConfig{TTL: time.Minute}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			_, err = w.Write([]byte("tea"))
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: Upgrade\r\n"+
				"Refused: %v %v\r\n\r\n", err, http.NewResponseController(w).Flush())
			_ = rw.Flush()
		})))
	defer server.Close()
	resp, _ := askServer(t, server, http.MethodGet, "Connection", "Upgrade", "Upgrade", "tea")
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, fmt.Sprint(http.ErrHijacked, " ", http.ErrHijacked), resp.Header.Get("Refused"))
	require.Empty(t, resp.Header.Get("Cache-Control"))
}

// What was written before a handler takes the connection goes out first.
func TestHeadersSendWhatIsHeldBeforeTheConnectionIsTaken(t *testing.T) {
	server := httptest.NewServer(newHeaders(t, cache.HeadersConfig{}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "6")
			_, _ = io.WriteString(w, "tea")
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			_, _ = rw.WriteString("pot")
			_ = rw.Flush()
		})))
	defer server.Close()
	resp, body := askServer(t, server, http.MethodGet)
	require.Equal(t, "teapot", body)
	require.Empty(t, resp.Header.Get("ETag"))
}

// io.Copy reaches the ReadFrom of the writer below for bodies that are not held.
func TestHeadersKeepReadFrom(t *testing.T) {
	w := &readerFrom{ResponseWriter: httptest.NewRecorder()}
	big := bytes.Repeat([]byte("tea"), 100)
	newHeaders(t, cache.HeadersConfig{MaxBody: 10}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "300")
			_, _ = io.Copy(w, struct{ io.Reader }{bytes.NewReader(big)})
		})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.EqualValues(t, 300, w.copied)
}

type readerFrom struct {
	http.ResponseWriter
	copied int64
}

func (w *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	w.copied += n
	return n, err
}

// A 304 does not wait for a handler that goes on writing.
func TestHeadersAnswerBeforeTheHandlerReturns(t *testing.T) {
	leave := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"1"`)
		for range 10 {
			if n, err := io.WriteString(w, "tea"); n != 3 || err != nil {
				panic("a write failed")
			}
		}
		if n, err := io.Copy(w, strings.NewReader("pot")); n != 3 || err != nil {
			panic("a copy failed")
		}
		<-leave
	})
	over(t, newHeaders(t, cache.HeadersConfig{}).Middleware(handler), func(t *testing.T, s *httptest.Server) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		require.NoError(t, err)
		r.Header.Set("If-None-Match", `"1"`)
		resp, err := s.Client().Do(r)
		leave <- struct{}{}
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusNotModified, resp.StatusCode)
	})
}
