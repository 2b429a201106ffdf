package balancer

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzParseLoad reads what a server says of itself, which are bytes from the network.
func FuzzParseLoad(f *testing.F) {
	for _, s := range []string{
		"in-flight=3, latency=1500", "in-flight=0", "latency=1", "", "in-flight=-1",
		"in-flight=1;x", "in-flight=99999999999999999999", "\x00=,", "in-flight=1,in-flight=2",
		" in-flight=1 \t,\tlatency=9223372036854775807",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseLoad(s)
		if err != nil {
			require.Zero(t, l)
			return
		}
		require.LessOrEqual(t, len(s), maxLoadField)
		require.True(t, l.inFlight >= 0 && l.inFlight <= maxLoadInFlight)
		require.True(t, l.latency >= 0 && l.latency <= maxLoadLatency)
		again, err := parseLoad(l.String())
		require.NoError(t, err)
		require.Equal(t, l, again)
	})
}

// FuzzRetryAfter reads how long a busy server wants to be left alone.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{
		"0", "120", "-1", "1e9", "4294967296", "Fri, 31 Dec 1999 23:59:59 GMT",
		"Fri, 31 Dec 9999 23:59:59 GMT", "soon", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, pause := outcomeOfResponse(
			&http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {s}}},
		)
		require.GreaterOrEqual(t, pause, time.Duration(0))
	})
}
