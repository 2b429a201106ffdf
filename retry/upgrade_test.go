package retry_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// A 101's body is the connection: it stays writable, and reading's end does not end it.
func TestUpgradeKeepsTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Minute})
		near, far := net.Pipe()
		defer far.Close()
		s := serve(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 101, Header: http.Header{}, Body: near}, nil
		})
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		conn, ok := resp.Body.(io.ReadWriteCloser)
		require.True(t, ok)
		go conn.Write([]byte("hi"))
		b := make([]byte, 2)
		_, err = io.ReadFull(far, b)
		require.NoError(t, err)
		require.Equal(t, "hi", string(b))
		require.ErrorIs(t, conn.(interface{ CloseWrite() error }).CloseWrite(), http.ErrNotSupported)
		resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
	})
}

// Reading to the end of one direction leaves the other one open.
func TestUpgradeEndsWhenItIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := serve(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 101, Header: http.Header{}, Body: near}, nil
		})
		resp, err := newRetrier(
			t,
			retry.Config{PerTry: time.Minute},
		).Transport(s).
			RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		far.Close()
		_, err = resp.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, s.all()[0].req.Context().Err())
		resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
	})
}

// A connection that is thrown away is not read: it may never say anything.
func TestDiscardedUpgradeIsNotRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		r := newRetrier(
			t,
			retry.Config{When: func(_ *http.Request, resp *http.Response, _ error) retry.Verdict {
				if resp.StatusCode == 101 {
					return retry.Retry
				}
				return retry.Default
			}},
		)
		r.SetRandom(func(int64) int64 { return 0 })
		s := serve(&http.Response{StatusCode: 101, Header: http.Header{}, Body: near}, 200)
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Zero(t, time.Since(start))
	})
}

// halfOpen is a connection whose one side can be finished.
type halfOpen struct {
	net.Conn
	finished int
	err      error
}

func (c *halfOpen) CloseWrite() error {
	c.finished++
	return c.err
}

// That one side of an upgrade has finished is passed on, and ends nothing.
func TestUpgradePassesCloseWriteOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		conn := &halfOpen{Conn: near, err: io.ErrClosedPipe}
		s := serve(&http.Response{StatusCode: 101, Header: http.Header{}, Body: conn})
		r := newRetrier(t, retry.Config{PerTry: time.Minute})
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		half, ok := resp.Body.(interface{ CloseWrite() error })
		require.True(t, ok)
		require.Equal(t, io.ErrClosedPipe, half.CloseWrite(), "as the connection says")
		require.Equal(t, 1, conn.finished)
		require.NoError(t, s.all()[0].req.Context().Err(), "the other side goes on")
		resp.Body.Close()
	})
}
