package linger_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/linger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNeeded(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: a\r\n"
	for name, tt := range map[string]struct {
		request string
		want    bool
	}{
		"no body":           {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		"an empty body":     {post + "Content-Length: 0\r\n\r\n", false},
		"small":             {post + "Content-Length: 262144\r\n\r\n", false},
		"large":             {post + "Content-Length: 262145\r\n\r\n", true},
		"small, then close": {post + "Connection: close\r\nContent-Length: 1\r\n\r\n", true},
		"small, if asked": {post +
			"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n", true},
		"of unknown length": {post + "Transfer-Encoding: chunked\r\n\r\n", true},
		"HTTP/1.0":          {"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\n", true},
		"HTTP/1.0, keep-alive": {
			"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n", false,
		},
	} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(tt.request)))
		require.NoError(t, err)
		require.Equal(t, tt.want, linger.Needed(r), name)
		r.ProtoMajor = 2
		require.False(t, linger.Needed(r), name)
	}
}

// upload sends a whole request of that size, and returns the answer and how the connection ended.
func upload(t *testing.T, addr string, size int) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
	if _, err := io.Copy(c, io.LimitReader(zeros{}, int64(size))); err != nil {
		return "", err
	}
	all, err := io.ReadAll(c)
	return string(all), err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// noConn cannot be hijacked.
type noConn struct{ http.ResponseWriter }

func (w noConn) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w noConn) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }

func TestL36_AnswersArrive(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for name, tt := range map[string]struct {
		write func(w http.ResponseWriter)
		want  []string // parts of the answer
	}{
		"nothing written": {func(http.ResponseWriter) {},
			[]string{"HTTP/1.1 200 OK", "Content-Length: 0\r\n"}},
		"no content": {func(w http.ResponseWriter) { w.WriteHeader(204) },
			[]string{"HTTP/1.1 204 No Content", "\r\n\r\n"}},
		"short": {func(w http.ResponseWriter) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, "no")
			w.WriteHeader(500) // too late
		}, []string{
			"HTTP/1.1 401 Unauthorized", "Content-Length: 2\r\n", "Connection: close\r\n", "\r\n\r\nno",
		}},
		"after hints": {func(w http.ResponseWriter) {
			w.WriteHeader(103)
			w.WriteHeader(401)
		}, []string{"HTTP/1.1 103 Early Hints", "HTTP/1.1 401 Unauthorized"}},
		"flushed": {func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, "one")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "two")
		}, []string{"Transfer-Encoding: chunked\r\n", "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"}},
		"long": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, long) },
			[]string{"Transfer-Encoding: chunked\r\n", long, "\r\n0\r\n\r\n"}},
		"a length of one's own": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "3")
			_, _ = io.WriteString(w, "abc")
		}, []string{"Content-Length: 3\r\n", "\r\n\r\nabc"}},
	} {
		for _, hijackable := range []bool{true, false} {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !hijackable {
					w = noConn{w}
				}
				linger.Answer(w, r, tt.write)
			}))
			got, err := upload(t, strings.TrimPrefix(s.URL, "http://"), 12<<20)
			require.NoError(t, err, name)
			for _, part := range tt.want {
				require.Contains(t, got, part, name)
			}
			s.Close()
		}
	}
}

// A small upload is left to net/http, which keeps the connection.
func TestSmallUploadsKeepTheirConnection(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		linger.Answer(w, r, func(w http.ResponseWriter) { http.Error(w, "no", http.StatusUnauthorized) })
	}))
	defer s.Close()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	defer c.Close()
	buf := bufio.NewReader(c)
	for range 3 {
		_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
		require.NoError(t, err)
		resp, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 401, resp.StatusCode)
		require.False(t, resp.Close)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
	}
}
