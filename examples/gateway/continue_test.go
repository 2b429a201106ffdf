package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClientsAreInvitedHoweverLate: 100 (Continue) is written when the body is read, which may be
// long after the deadline that net/http sets when it has read the header, as it is for requests
// that wait for a host.
func TestClientsAreInvitedHoweverLate(t *testing.T) {
	for _, answers := range []bool{true, false} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w, r, done := limitStalls(w, r, bounds{
				stall: Timeout(time.Minute), draining: func() bool { return false }, taken: new(atomic.Int64),
			})
			defer done()
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Context().Err() != nil {
				panic(http.ErrAbortHandler)
			}
			if answers {
				_, _ = w.Write(body)
			}
		}))
		s.Config.WriteTimeout = 1 // which has passed
		s.Start()
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		buf := bufio.NewReader(conn)
		resp, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 100, resp.StatusCode)
		fmt.Fprint(conn, "body")
		resp, err = http.ReadResponse(buf, nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, map[bool]string{true: "body"}[answers], string(body))
		require.NoError(t, conn.Close())
		s.Close()
	}
}
