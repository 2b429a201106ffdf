//go:build unix

package balancer_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// The rules that httputil.ReverseProxy keeps, and that have no test elsewhere.

// through returns a Handler whose requests rt answers.
func through(t *testing.T, rt roundTripper, cfg balancer.HandlerConfig) http.Handler {
	t.Helper()
	cfg.Transport = func(http.RoundTripper) http.RoundTripper { return rt }
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, cfg)
	require.NoError(t, err)
	return h
}

// closeCounter counts how often a body is closed.
type closeCounter struct {
	io.Reader
	n atomic.Int32
}

func (c *closeCounter) Close() error {
	c.n.Add(1)
	return nil
}

func TestHandlerSendsRequestsThatTransportsMayRepeat(t *testing.T) {
	var out *http.Request
	h := through(t, func(r *http.Request) (*http.Response, error) {
		out = r
		return answer(200), nil
	}, balancer.HandlerConfig{})
	r := httptest.NewRequest("GET", "/", strings.NewReader(""))
	r.ContentLength = 0
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Nil(t, out.Body, "a body of no length is none")
	r = httptest.NewRequest("GET", "/", nil)
	r.Header = nil
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.NotNil(t, out.Header, "there is a header to add to")
	require.Equal(t, []string(nil), out.Header["User-Agent"], "and net/http adds none of its own")
	r.Close = true
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.False(t, out.Close, "the client's connection says nothing of the server's")
}

func TestHandlerRewriteMayReplaceTheRequest(t *testing.T) {
	var host string
	h := through(t, func(r *http.Request) (*http.Response, error) {
		host = r.URL.Host
		return answer(200), nil
	}, balancer.HandlerConfig{Rewrite: func(r *httputil.ProxyRequest) {
		out, err := http.NewRequest("GET", "http://other.test/", nil)
		require.NoError(t, err)
		r.Out = out
	}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, "other.test", host)
	require.Equal(t, 200, w.Code)
}

func TestHandlerClosesWhatItDoesNotPassOn(t *testing.T) {
	body := &closeCounter{Reader: strings.NewReader("secret")}
	h := through(t, func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"X-Server": {"1"}}, Body: body}, nil
	}, balancer.HandlerConfig{ModifyResponse: func(*http.Response) error { return errors.New("no") }})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 502, w.Code)
	require.Empty(t, w.Header()["X-Server"])
	require.NotContains(t, w.Body.String(), "secret")
	require.NotZero(t, body.n.Load())
}

// A body that breaks off ends the connection, with what there was of it. Outside of a server nobody
// would recover the panic.
func TestHandlerAbortsWhatBreaksOff(t *testing.T) {
	h := through(t, func(*http.Request) (*http.Response, error) {
		broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))
		return &http.Response{
			StatusCode: 200, Header: http.Header{"Content-Length": {"100"}}, ContentLength: 100,
			Body: io.NopCloser(broken),
		}, nil
	}, balancer.HandlerConfig{})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, "half", w.Body.String())
	ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{})
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	})
	s := httptest.NewServer(h)
	defer s.Close()
	got := exchange(t, addrOf(s), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.True(t, strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n"), "%q", got)
	require.True(t, strings.HasSuffix(got, "half"), "as much as there is: %q", got)
}

// The transport may read a request's body when the handler has returned. It gets an error, and the
// client's body is not closed: that would be to read it.
func TestHandlerLeavesTheClientsBodyAlone(t *testing.T) {
	var out io.ReadCloser
	h := through(t, func(r *http.Request) (*http.Response, error) {
		out = r.Body
		require.NoError(t, r.Body.Close())
		return nil, errors.New("broken")
	}, balancer.HandlerConfig{})
	in := &closeCounter{Reader: strings.NewReader("body")}
	r := httptest.NewRequest("POST", "/", in)
	r.ContentLength = 4
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Zero(t, in.n.Load())
	_, err := out.Read(make([]byte, 4))
	require.Error(t, err)
}

// A panic of the client's body on its way passes, and ends what is in flight.
func TestHandlerPassesPanicsOn(t *testing.T) {
	h := through(t, func(*http.Request) (*http.Response, error) { panic("in a wrapper") },
		balancer.HandlerConfig{})
	require.PanicsWithValue(t, "in a wrapper", func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	})
}

// notifier tells by CloseNotify alone that the client has left.
type notifier struct {
	*httptest.ResponseRecorder
	gone chan bool
}

func (n *notifier) CloseNotify() <-chan bool { return n.gone }

func TestL33_ClientsThatLeaveAreNoticedWithoutAContext(t *testing.T) {
	w := &notifier{httptest.NewRecorder(), make(chan bool, 1)}
	h := through(t, func(r *http.Request) (*http.Response, error) {
		w.gone <- true
		<-r.Context().Done()
		return nil, r.Context().Err()
	}, balancer.HandlerConfig{})
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), "GET", "/", nil))
	})
}

// hijackable hands out a connection of its own, or fails to.
type hijackable struct {
	*httptest.ResponseRecorder
	conn net.Conn
	err  error
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if h.err != nil {
		return nil, nil, h.err
	}
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

type pipeBody struct{ net.Conn }

func TestUpgradesThatCannotBe(t *testing.T) {
	ask := func() *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
		return r
	}
	server, far := net.Pipe()
	switching := func(body io.ReadCloser) roundTripper {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 101, Body: body, Header: http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			}}, nil
		}
	}
	for name, tt := range map[string]struct {
		body io.ReadCloser
		w    func(r *httptest.ResponseRecorder) http.ResponseWriter
	}{
		"the body cannot be written to": {io.NopCloser(strings.NewReader("")),
			func(r *httptest.ResponseRecorder) http.ResponseWriter {
				return hijackable{ResponseRecorder: r}
			}},
		"the connection cannot be had": {pipeBody{server},
			func(r *httptest.ResponseRecorder) http.ResponseWriter {
				return hijackable{ResponseRecorder: r, err: errors.New("no")}
			}},
		"the writer has no connection": {pipeBody{server},
			func(r *httptest.ResponseRecorder) http.ResponseWriter { return r }},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			through(t, switching(tt.body), balancer.HandlerConfig{}).ServeHTTP(tt.w(w), ask())
			require.Equal(t, 502, w.Code)
		})
	}
	_, err := far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the server's connection is not left behind")
	t.Run("without half closes one end ends both", func(t *testing.T) {
		client, near := net.Pipe()
		server, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			through(t, switching(pipeBody{server}), balancer.HandlerConfig{}).ServeHTTP(
				hijackable{ResponseRecorder: httptest.NewRecorder(), conn: near}, ask())
		}()
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		require.NoError(t, far.Close())
		<-done
		_, err = client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}
