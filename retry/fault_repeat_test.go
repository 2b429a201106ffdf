package retry_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/faultproxy"
	"github.com/trivet-go/trivet/retry"
)

// A POST whose answer is lost may have had its effect: it is sent once.
func TestT03_POSTIsNotRepeated(t *testing.T) {
	for _, method := range []string{"POST", "PATCH"} {
		var executed atomic.Int32
		b := backend.Start(
			t,
			backend.Config{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				executed.Add(1)
				panic(http.ErrAbortHandler)
			})},
		)
		_, _, err := send(
			t,
			newRetrier(t, quick(retry.Config{})).Transport(testTransport(t, backend.HTTP1)),
			requestTo(t, b, method, strings.NewReader("x")),
		)
		require.Error(t, err)
		require.EqualValues(t, 1, executed.Load())
	}
}

// net/http itself sends again on a connection that turns out to be dead. It is one attempt for us,
// and it works for bodies that only we can read again.
func TestT04_ReplaysOfNetHTTP(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	p := faultproxy.Start(t, b.Addr)
	tr := testTransport(t, backend.HTTP1)
	r := newRetrier(
		t,
		retry.Config{MaxAttempts: 2, Budget: retry.BudgetConfig{Ratio: -1, Reserve: -1}},
	) // pays for no retry of ours
	rt := r.Transport(tr)
	for i := range 20 {
		var body io.Reader
		method := "GET"
		if i%2 == 1 {
			method, body = "PUT", stream("abc")
		}
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Addr, body)
		require.NoError(t, err)
		req.Header.Set("Idempotency-Key", strconv.Quote(strconv.Itoa(i)))
		status, _, err := send(t, rt, req)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		p.ResetAll() // the connection that is kept is dead now
	}
	require.Equal(t, uint64(20), r.Stats().Attempts)
	require.Empty(t, r.Stats().Retries)
}

// A stream above a GOAWAY's last one was not served, whatever its method; one below may have been.
func TestT05_GOAWAY(t *testing.T) {
	tests := []struct {
		name   string
		first  func(f *http2.Framer, id uint32)
		method string
		ok     bool
		arrive int32
	}{
		{
			"above the last stream",
			func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) },
			"POST",
			true,
			2,
		},
		{
			"up to the last stream",
			func(f *http2.Framer, id uint32) { _ = f.WriteGoAway(id, http2.ErrCodeNo, nil) },
			"POST",
			false,
			1,
		},
		{
			"up to the last stream, idempotent",
			func(f *http2.Framer, id uint32) { _ = f.WriteGoAway(id, http2.ErrCodeNo, nil) },
			"PUT",
			true,
			2,
		},
		{
			"stream refused",
			func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
			"POST",
			true,
			2,
		},
		{
			"stream reset",
			func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeInternal) },
			"POST",
			false,
			1,
		},
		{"connection lost", func(*http2.Framer, uint32) {}, "POST", false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newHTTP2Server(t, tt.first)
			r := newRetrier(t, quick(retry.Config{}))
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+s.addr, stream("abc"))
			require.NoError(t, err)
			tr := testTransport(t, backend.H2C)
			status, _, err := send(t, r.Transport(tr), req)
			if tt.ok {
				require.NoError(t, err)
				require.Equal(t, 200, status)
			} else {
				require.Error(t, err)
			}
			require.Equal(t, tt.arrive, s.requests.Load())
			tr.CloseIdleConnections()
		})
	}
}

// The errors that net/http gives up with after its own replays say the same.
func TestT05_ErrorsOfUnservedStreams(t *testing.T) {
	tests := []struct {
		name string
		err  error
		sent int
	}{
		{"going away", errors.New("http2: Transport received Server's graceful shutdown GOAWAY"), 3},
		{
			"going away, wrapped",
			fmt.Errorf("lost: %w", errors.New("http2: Transport received Server's graceful shutdown GOAWAY")),
			3,
		},
		{"refused", http2.StreamError{StreamID: 3, Code: http2.ErrCodeRefusedStream}, 3},
		{"canceled stream", http2.StreamError{StreamID: 3, Code: http2.ErrCodeCancel}, 1},
		{"gone", gone(""), 1},
		{"said by the server", gone("http2: Transport received Server's graceful shutdown GOAWAY"), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(asNetHTTP(tt.err))
				_, _, err := send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "POST", nil))
				require.Error(t, err)
				require.Equal(t, tt.sent, s.count())
			})
		})
	}
}

// gone is how net/http says that a connection was closed after a GOAWAY, with what the server says
// of it.
func gone(debug string) error {
	return fmt.Errorf(
		"http2: server sent GOAWAY and closed the connection; LastStreamID=0, "+
			"ErrCode=NO_ERROR, debug=%q", debug)
}

// asNetHTTP gives x/net's stream error the conversion that net/http's copy of it has.
func asNetHTTP(err error) error {
	if s, ok := err.(http2.StreamError); ok {
		return convertible{s}
	}
	return err
}

type convertible struct{ http2.StreamError }

func (c convertible) As(target any) bool {
	to := reflect.ValueOf(target).Elem()
	if to.Kind() != reflect.Struct || to.NumField() != 3 || to.Type().Field(0).Name != "StreamID" {
		return false
	}
	to.Field(0).SetUint(uint64(c.StreamID))
	to.Field(1).SetUint(uint64(c.Code))
	return true
}

func TestT06_QUERYIsReplayable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(503, 200)
		status, _, err := send(
			t,
			newRetrier(t, retry.Config{}).Transport(s),
			request(t, "QUERY", strings.NewReader("select")),
		)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "select", s.all()[1].body)
	})
}

// Which answers are retried.
func TestT23_Statuses(t *testing.T) {
	again := map[int]bool{408: true, 425: true, 429: true, 502: true, 503: true, 504: true}
	for status := 200; status < 600; status++ {
		bubble(t, func(t *testing.T) {
			s := serve(status)
			resp, err := newRetrier(
				t,
				retry.Config{MaxAttempts: 2},
			).Transport(s).
				RoundTrip(request(t, "GET", nil))
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, again[status], s.count() == 2, "%d", status)
		})
	}
}
