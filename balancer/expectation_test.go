package balancer

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestL37_ExpectationsWaitForAnAnswerThatHasBegun(t *testing.T) {
	for name, tt := range map[string]struct {
		server func(e *expectation)
		want   bool
		took   time.Duration
	}{
		"silence":            {func(*expectation) {}, true, expectTime},
		"invited":            {func(e *expectation) { e.decide(true) }, true, 0},
		"refused":            {func(e *expectation) { e.decide(false) }, false, 0},
		"refused after all":  {func(e *expectation) { e.decide(true); e.decide(false) }, true, 0},
		"hints, and no more": {func(e *expectation) { e.answering(); e.informed() }, true, expectTime},
		"a refusal comes slowly": {func(e *expectation) {
			e.answering()
			time.Sleep(3 * expectTime)
			e.decide(false)
		}, false, 3 * expectTime},
		"hints come slowly": {func(e *expectation) {
			e.answering()
			time.Sleep(3 * expectTime)
			e.informed()
		}, true, 3 * expectTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, begun := newExpectation(), time.Now()
				go tt.server(e)
				synctest.Wait()
				require.Equal(t, tt.want, e.wait())
				require.Equal(t, tt.took, time.Since(begun))
				require.Equal(t, tt.want, e.wait(), "once and for all")
			})
		})
	}
}

// An answer that has begun does not keep a request for ever.
func TestL37_TheWaitForAnAnswerEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		begin func(e *expectation)
		least time.Duration
	}{
		"the rest does not come": {func(e *expectation) {
			e.connected(httptrace.GotConnInfo{Conn: openConn{}})
			e.answering()
		}, 3 * expectTime},
		"nobody can look into the connection": {func(e *expectation) {
			e.connected(httptrace.GotConnInfo{Conn: tls.Client(opaqueConn{}, &tls.Config{})})
			e.answering()
		}, expectTime},
		"it was another attempt's": {func(e *expectation) {
			e.connected(httptrace.GotConnInfo{Conn: openConn{}})
			e.answering()
			e.connected(httptrace.GotConnInfo{Conn: openConn{}})
		}, expectTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, begun := newExpectation(), time.Now()
				tt.begin(e)
				defer time.AfterFunc(time.Minute, func() { e.decide(false) }).Stop()
				require.True(t, e.wait())
				require.GreaterOrEqual(t, time.Since(begun), tt.least)
				if tt.least == expectTime {
					require.Equal(t, expectTime, time.Since(begun))
				}
			})
		})
	}
}

// An openConn is a connection that can be looked into, and is open.
type openConn struct{ net.Conn }

func (openConn) SyscallConn() (syscall.RawConn, error) { return openRaw{}, nil }

type openRaw struct{ syscall.RawConn }

func (openRaw) Control(func(fd uintptr)) error { return nil }

// An opaqueConn is a connection of a user's, into which nobody can look.
type opaqueConn struct{ net.Conn }

// The transport waits for the body's Read when the server closes in the midst of a status line.
func TestL40_AnswersThatBreakOffOnConnectionsOfTheUsers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 4")
			}
			conn.Close()
		}
	}()
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return opaqueConn{conn}, err
	}}
	b, err := New(Config{Resolver: Static(ln.Addr().String()), Transport: tr})
	require.NoError(t, err)
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app"}, HandlerConfig{})
	require.NoError(t, err)
	front := httptest.NewServer(h)
	defer front.Close()
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(in, nil)
	}
	require.NoError(t, err)
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	require.NoError(t, b.Close(t.Context()))
}

// net/http's transport says that an answer is broken when nobody reads the request's body any
// more, and the body waits to be told what the answer is.
func TestL37_AnAnswerThatIsNoneEndsTheWait(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 no status\r\n\r\n")
				_, _ = io.Copy(io.Discard, conn)
			}
			conn.Close()
		}
	}()
	// Without ExpectContinueTimeout it reads the body at once.
	b, err := New(Config{Resolver: Static(ln.Addr().String()), Transport: &http.Transport{}})
	require.NoError(t, err)
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app"}, HandlerConfig{})
	require.NoError(t, err)
	front := httptest.NewServer(h)
	defer front.Close()
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	// The client sends its body without waiting, as it may.
	fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(in, nil)
	}
	require.NoError(t, err)
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	require.NoError(t, b.Close(t.Context()))
}
