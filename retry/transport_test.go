package retry_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestCloseIdleConnectionsReachesNext(t *testing.T) {
	var closed bool
	rt := newRetrier(t, retry.Config{}).Transport(idleCloser{&closed})
	(&http.Client{Transport: rt}).CloseIdleConnections()
	require.True(t, closed)
	(&http.Client{Transport: newRetrier(t, retry.Config{}).Transport(serve(200))}).CloseIdleConnections()
}

type idleCloser struct{ closed *bool }

func (idleCloser) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.EOF }

func (c idleCloser) CloseIdleConnections() { *c.closed = true }

func TestRequestsThatNoTransportTakes(t *testing.T) {
	rt := newRetrier(t, retry.Config{}).Transport(nil)
	b := newBody("x")
	_, err := rt.RoundTrip(&http.Request{Header: http.Header{}, Body: b})
	require.Error(t, err)
	require.EqualValues(t, 1, b.closes.Load())
	b = newBody("x")
	req := request(t, "GET", nil)
	req.Header, req.Body = nil, b
	_, err = rt.RoundTrip(req)
	require.EqualError(t, err, "http: nil Request.Header")
	require.EqualValues(t, 1, b.closes.Load())
}

// A transport that breaks its contract gets no further than its own caller.
func TestNeitherResponseNorError(t *testing.T) {
	resp, err := newRetrier(
		t,
		retry.Config{PerTry: time.Second},
	).Transport(serve(func(*http.Request) (*http.Response, error) {
		return nil, nil
	})).
		RoundTrip(request(t, "GET", nil))
	require.Nil(t, resp)
	require.NoError(t, err)
	resp, err = newRetrier(
		t,
		retry.Config{PerTry: time.Second},
	).Transport(serve(&http.Response{StatusCode: 503})).
		RoundTrip(request(t, "GET", nil))
	require.NoError(t, err)
	require.Equal(t, 503, resp.StatusCode)
}

// User code on the caller's goroutine passes its panic on, and leaves nothing behind.
func TestPanicsPassThrough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		boom := func(*http.Request) (*http.Response, error) { panic("boom") }
		b := newBody("abc")
		req := request(t, "PUT", nil)
		req.Body = b
		s := serve(boom)
		require.PanicsWithValue(t, "boom", func() {
			newRetrier(t, retry.Config{PerTry: time.Hour}).Transport(s).RoundTrip(req)
		})
		require.Error(t, s.all()[0].req.Context().Err())
		require.EqualValues(t, 1, b.closes.Load())
		require.Zero(t, retry.Buffered(0))
	})
}

func TestLargeBodyWithGetBodyIsNotCopied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("x"), 64<<10)
		req := request(t, "POST", bytes.NewReader(data))
		own := req.Body
		s := roundTripper(func(r *http.Request) (*http.Response, error) {
			require.True(t, own == r.Body, "the very body of the caller")
			require.NotNil(t, r.GetBody)
			r.Body.Close()
			return answer(200), nil
		})
		send(t, newRetrier(t, retry.Config{}).Transport(s), req)
	})
}
