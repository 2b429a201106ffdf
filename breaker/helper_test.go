package breaker_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int) *http.Response {
	return &http.Response{
		StatusCode: status,
		Header:     http.Header{},
		Body:       io.NopCloser(strings.NewReader("body")),
	}
}

func request(ctx context.Context, url string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	return req
}

// send sends a request and reads its answer.
func send(rt http.RoundTripper, req *http.Request) (status int, err error) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, err
}

// An unsent is an error of something that has not sent the request.
type unsentError struct{}

type timeoutError struct{}

// verdict returns how a breaker counts what f, which sends one request, makes of it. It asks a
// half-open breaker, whose state tells all three apart.
func verdict(
	t *testing.T,
	cfg breaker.Config,
	next http.RoundTripper,
	f func(rt http.RoundTripper),
) breaker.Outcome {
	t.Helper()
	var got breaker.Outcome
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, cfg)
		trip(t, b, "up")
		time.Sleep(5 * time.Second)
		f(b.TransportFor("up", next))
		require.EqualValues(t, 1, b.Stats().Probes)
		switch stateOf(b, "up") {
		case breaker.Ramping:
			got = breaker.Success
		case breaker.Open:
			got = breaker.Failure
		case breaker.HalfOpen:
			got = breaker.Neutral
			done, err := b.Acquire(t.Context(), "up")
			require.NoError(t, err, "a neutral probe gives its place back")
			done(breaker.Neutral)
		}
	})
	return got
}
