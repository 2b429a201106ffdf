package retry_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func newRetrier(t testing.TB, cfg retry.Config) *retry.Retrier {
	t.Helper()
	r, err := retry.New(cfg)
	require.NoError(t, err)
	return r
}

// A body notes what becomes of it.
type body struct {
	io.Reader
	closes atomic.Int32
	eof    atomic.Bool
}

func newBody(s string) *body { return &body{Reader: strings.NewReader(s)} }

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.eof.Store(true)
	}
	return n, err
}

func (b *body) Close() error {
	b.closes.Add(1)
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// answer returns a response with a body of its status text; fields are names and values.
func answer(status int, fields ...string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Header: http.Header{}, ContentLength: int64(len(http.StatusText(status))),
		Body: newBody(http.StatusText(status)), ProtoMajor: 1, ProtoMinor: 1,
	}
	for i := 0; i < len(fields); i += 2 {
		resp.Header.Add(fields[i], fields[i+1])
	}
	return resp
}

// A seen is an attempt that a server has got.
type seen struct {
	req      *http.Request
	body     string
	at       time.Time
	attempts int // what Attempts says
}

// A server is a transport that answers as it is told, one answer for each attempt.
type server struct {
	mu   sync.Mutex // guards the fields below
	seen []seen

	// Each is a *http.Response, a status, an error or a func(*http.Request) (*http.Response,
	// error). The last one is for all further attempts.
	answers []any
}

func serve(answers ...any) *server { return &server{answers: answers} }

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		sent, _ = io.ReadAll(req.Body)
		req.Body.Close()
	}
	s.mu.Lock()
	i := len(s.seen)
	s.seen = append(s.seen, seen{req, string(sent), time.Now(), retry.Attempts(req.Context())})
	a := s.answers[min(i, len(s.answers)-1)]
	s.mu.Unlock()
	switch a := a.(type) {
	case int:
		return answer(a), nil
	case *http.Response:
		return a, nil
	case error:
		return nil, a
	case func(*http.Request) (*http.Response, error):
		return a(req)
	}
	panic("no answer")
}

func (s *server) all() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]seen(nil), s.seen...)
}

func (s *server) count() int { return len(s.all()) }

// gaps returns the waits between the attempts.
func (s *server) gaps() (d []time.Duration) {
	all := s.all()
	for i := 1; i < len(all); i++ {
		d = append(d, all[i].at.Sub(all[i-1].at))
	}
	return d
}

func request(t testing.TB, method string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://a.test/path?q=1", body)
	require.NoError(t, err)
	return req
}

// send sends req and reads the answer to its end.
func send(t testing.TB, rt http.RoundTripper, req *http.Request) (status int, text string, err error) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		require.Nil(t, resp)
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// bubble runs f in a synctest bubble.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// A refusal is an error of a sister package: the request was not sent.
type refusal struct{ wait time.Duration }

func (refusal) Error() string               { return "refused" }
func (refusal) NotSent() bool               { return true }
func (r refusal) RetryAfter() time.Duration { return r.wait }

// stream hides what http.NewRequest would recognise, so that there is no GetBody.
func stream(s string) io.Reader { return struct{ io.Reader }{bytes.NewReader([]byte(s))} }

// after answers once d has passed, unless the request ends before.
func after(d time.Duration, status int) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return answer(status), nil
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		}
	}
}
