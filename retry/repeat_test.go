package retry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// Which request is sent again after what (RFC 9110, section 9.2.2).
func TestWhatIsRepeated(t *testing.T) {
	broken := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	const broken1 = "net/http: HTTP/1.x transport connection broken: "
	tests := []struct {
		name   string
		method string
		field  string // of the request
		answer any
		sent   int
	}{
		{"GET", "GET", "", 503, 3},
		{"no method is GET", "", "", 503, 3},
		{"HEAD", "HEAD", "", 503, 3},
		{"OPTIONS", "OPTIONS", "", 503, 3},
		{"TRACE", "TRACE", "", 503, 3},
		{"PUT", "PUT", "", 503, 3},
		{"DELETE", "DELETE", "", 503, 3},
		{"QUERY", "QUERY", "", 503, 3},
		{"POST", "POST", "", 503, 1},
		{"PATCH", "PATCH", "", 503, 1},
		{"CONNECT", "CONNECT", "", 503, 1},
		{"unknown", "FROBNICATE", "", 503, 1},
		{"methods are case-sensitive", "get", "", 503, 1},
		{"POST with a key", "POST", "Idempotency-Key", 503, 3},
		{"PATCH with a key", "PATCH", "Idempotency-Key", 503, 3},
		{"POST with a field that is no standard", "POST", "X-Idempotency-Key", 503, 1},
		{"POST after a broken connection", "POST", "", broken, 1},
		{"GET after a broken connection", "GET", "", broken, 3},
		{"POST after a failed dial", "POST", "", dial, 3},
		{"POST after a refusal with a time", "POST", "", refusal{time.Millisecond}, 3},
		{"POST after a refusal for good", "POST", "", refusal{}, 1},
		{"GET after a refusal for good", "GET", "", refusal{}, 1},
		{"GET after an end that is not the caller's", "GET", "", context.Canceled, 1},
		{"GET after a timeout that is not the caller's", "GET", "", context.DeadlineExceeded, 3},
		{"GET after an unexpected end", "GET", "", io.ErrUnexpectedEOF, 3},
		{"GET that cannot be sent", "GET", "", errors.New("net/http: invalid header field name \"a b\""), 1},
		{
			"GET whose body is not as long as it says", "GET", "",
			errors.New(broken1 + "http: ContentLength=5 with Body length 3"), 1,
		},
		{
			"GET whose answer makes no sense", "GET", "",
			errors.New(broken1 + "malformed HTTP response \"http: x\""), 3,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(tt.answer)
				r := newRetrier(t, retry.Config{})
				req := request(t, tt.method, nil)
				req.Method = tt.method
				if tt.field != "" {
					req.Header.Set(tt.field, `"k"`)
				}
				status, _, err := send(t, r.Transport(s), req)
				if want, ok := tt.answer.(error); ok {
					require.ErrorIs(t, err, want)
				} else {
					require.Equal(t, tt.answer, status)
				}
				require.Equal(t, tt.sent, s.count())
			})
		})
	}
}

// An empty Idempotency-Key names nothing.
func TestAnEmptyKeyIsNoKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(503)
		req := request(t, "POST", nil)
		req.Header.Set("Idempotency-Key", "")
		send(t, newRetrier(t, retry.Config{}).Transport(s), req)
		require.Equal(t, 1, s.count())
	})
}

func TestMaxAttempts(t *testing.T) {
	for most, sent := range map[int]int{0: 3, 1: 1, 2: 2, 7: 7} {
		bubble(t, func(t *testing.T) {
			s := serve(503)
			r := newRetrier(t, retry.Config{MaxAttempts: most})
			status, text, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, 503, status)
			want := http.StatusText(http.StatusServiceUnavailable)
			require.Equal(t, want, text, "the last answer is readable")
			require.Equal(t, sent, s.count())
			require.Equal(t, uint64(1), r.Stats().GaveUp["attempts"])
			require.Equal(t, uint64(sent), r.Stats().Attempts)
		})
	}
}
