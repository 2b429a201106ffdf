package balancer

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A request may have found the transport of before a Reload, and open it after that. Its connection
// is looked after all the same, also after a further Reload.
func TestConnectionsThatOpenAfterAReload(t *testing.T) {
	for _, reloads := range []int{1, 2} {
		var open atomic.Int32
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
			}
		}
		s.Start()
		defer s.Close()
		cfg := &Config{Transport: defaultTransport(), Conns: 1, ConnLife: time.Minute}
		endpoint := Endpoint{Addr: strings.TrimPrefix(s.URL, "http://")}
		old := newEndpointTransport(cfg, endpoint).conns
		last := old
		for range reloads {
			next := newEndpointTransport(cfg, endpoint).conns
			next.inherit(last, time.Now())
			last = next
		}
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)
		require.NoError(t, err)
		resp, err := old.RoundTrip(r)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.EqualValues(t, 1, open.Load())
		opened := old.slots[0].transport.Load()
		old.upkeep(time.Now().Add(time.Hour)) // a tick that has found it, too
		require.Same(t, opened, old.slots[0].transport.Load(), "what its heir will end is not replaced")
		last.CloseIdleConnections()
		require.Eventually(t, func() bool { return open.Load() == 0 }, 20*time.Second, time.Millisecond)
		require.Len(t, last.retired, 1)
		last.upkeep(time.Now().Add(time.Hour))
		require.Empty(t, last.retired)
	}
}
