package balancer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
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
