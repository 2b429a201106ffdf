package balancer

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer/internal/wire"
)

// A failsOnce fails the first request that it gets.
type failsOnce struct {
	err   error
	calls int
}

func (f *failsOnce) RoundTrip(*http.Request) (*http.Response, error) {
	if f.calls++; f.calls == 1 {
		return nil, f.err
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
}

// net/http can fail a request with the context error of another one that had its connection before.
func TestRequestsThatAreCutOffForAnother(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	body := func() io.Reader { return strings.NewReader("x") }
	tests := []struct {
		name   string
		ctx    context.Context
		method string
		body   io.Reader
		err    error
		calls  int
		want   error
	}{
		{"a GET is sent again", t.Context(), "GET", nil, context.DeadlineExceeded, 2, nil},
		{"canceled, too", t.Context(), "HEAD", nil, context.Canceled, 2, nil},
		{"a POST is not", t.Context(), "POST", nil, context.Canceled, 1, errCutOff},
		{"nor is a body", t.Context(), "GET", body(), context.Canceled, 1, errCutOff},
		{"its own end", ended, "GET", nil, context.Canceled, 1, context.Canceled},
		{"another error", t.Context(), "GET", nil, io.ErrUnexpectedEOF, 1, io.ErrUnexpectedEOF},
		{"a timeout", t.Context(), "GET", nil, timeout{}, 1, timeout{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &failsOnce{err: tt.err}
			tr := &http.Transport{}
			tr.RegisterProtocol("https", f) // which wire.Transport leaves to it
			b, err := New(Config{Resolver: Static("a.test:443")})
			require.NoError(t, err)
			defer b.Close(context.Background())
			req, err := http.NewRequestWithContext(tt.ctx, tt.method, "https://a.test/", tt.body)
			require.NoError(t, err)
			p, err := b.resolved(t.Context(), req.URL)
			require.NoError(t, err)
			p.group.members()[0].transport.Load().conns.slots[0].transport.Store(wire.New(tr))
			_, err = b.RoundTrip(req)
			require.Equal(t, tt.want, err)
			require.Equal(t, tt.calls, f.calls)
			require.Zero(t, b.Stats().InFlight)
			if tt.want == errCutOff {
				out, elsewhere := outcomeOfError(err, req, nil, false)
				require.Equal(t, Rejected, out, "the endpoint is not to blame")
				require.False(t, elsewhere, "it may have been processed")
			}
		})
	}
}

// A timeout is net/http's own, which matches context.DeadlineExceeded.
type timeout struct{}

func (timeout) Error() string        { return "timeout awaiting response headers" }
func (timeout) Is(target error) bool { return target == context.DeadlineExceeded }
