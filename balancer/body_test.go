package balancer

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A clientBody is a request's body of net/http's server: reads and Close can be watched and held.
type clientBody struct {
	io.Reader
	closes atomic.Int32
}

func (c *clientBody) Close() error {
	c.closes.Add(1)
	if p, ok := c.Reader.(*io.PipeReader); ok {
		return p.CloseWithError(http.ErrBodyReadAfterClose)
	}
	return nil
}

func protected(r io.Reader, copies bool) (*clientBody, *requestBody) {
	c := &clientBody{Reader: r}
	_, b := protectBody(&http.Request{Body: c}, copies)
	return c, b
}

func TestBodiesAreReadAgain(t *testing.T) {
	long := strings.Repeat("x", maxCopy+1)
	for name, tt := range map[string]struct {
		copies bool
		text   string
		read   int
		again  bool
	}{
		"unread":                   {false, "hello", 0, true},
		"read":                     {false, "hello", 1, false},
		"read and kept":            {true, "hello", 3, true},
		"to its end":               {true, "hello", 6, true},
		"as much as is kept":       {true, long, maxCopy, true},
		"more than is kept":        {true, long, maxCopy + 1, false},
		"empty, and to its end":    {true, "", 1, true},
		"unread, though it's long": {true, long, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, b := protected(strings.NewReader(tt.text), tt.copies)
			first := io.ReadCloser(b)
			if tt.read > 0 {
				_, _ = io.ReadFull(first, make([]byte, tt.read))
			}
			require.NoError(t, first.Close())
			again, ok := b.rewind()
			require.Equal(t, tt.again, ok)
			if !ok {
				require.NotZero(t, c.closes.Load())
				return
			}
			require.Zero(t, c.closes.Load())
			_, err := first.Read(make([]byte, 1))
			require.ErrorIs(t, err, http.ErrBodyReadAfterClose, "the first reader is done")
			require.NoError(t, first.Close())
			got, err := io.ReadAll(again)
			require.NoError(t, err)
			require.Equal(t, tt.text, string(got))
			b.release(true)
			require.Zero(t, c.closes.Load())
			require.NoError(t, again.Close())
			require.EqualValues(t, 1, c.closes.Load())
		})
	}
}

// net/http closes the body of a request that gets no stream, and then uses it on another
// connection.
func TestBodiesThatAreClosedAndThenRead(t *testing.T) {
	c, b := protected(strings.NewReader("hello"), true)
	require.NoError(t, b.Close())
	got, err := io.ReadAll(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	require.NoError(t, b.Close())
	_, err = b.Read(make([]byte, 1))
	require.ErrorIs(t, err, http.ErrBodyReadAfterClose, "some of it has been read")
	b.release(false)
	require.EqualValues(t, 1, c.closes.Load())
}

// The response may come before the transport reads the body that it has closed.
func TestBodiesThatAreReadAfterTheResponse(t *testing.T) {
	c, b := protected(strings.NewReader("hello"), true)
	require.NoError(t, b.Close())
	b.release(true)
	got, err := io.ReadAll(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	b.finish()
	require.Zero(t, c.closes.Load(), "its reader will close it")
	require.NoError(t, b.Close())
	require.EqualValues(t, 1, c.closes.Load())
}

func TestBodiesThatNobodyReadsAreClosed(t *testing.T) {
	for name, end := range map[string]func(b *requestBody){
		"failed":                      func(b *requestBody) { b.release(false) },
		"answered":                    func(b *requestBody) { b.release(true); b.finish() },
		"answered, and ended earlier": func(b *requestBody) { b.finish(); b.release(true) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, copies := range []bool{false, true} {
				c, b := protected(strings.NewReader("hello"), copies)
				require.NoError(t, b.Close())
				require.Zero(t, c.closes.Load())
				end(b)
				require.EqualValues(t, 1, c.closes.Load())
			}
		})
	}
}

// A transport that closes the body waits for the Read that is going on. That one gets a moment to
// end by itself, so that the request can be sent again.
func TestBodiesThatAreClosedDuringARead(t *testing.T) {
	for name, tt := range map[string]struct {
		wait  time.Duration
		again bool
	}{"the rest comes": {closeGrace / 2, true}, "the client is silent": {time.Minute, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := io.Pipe()
				c, b := protected(client, true)
				read := make(chan error, 1)
				go func() {
					_, err := io.ReadFull(b, make([]byte, 20))
					read <- err
				}()
				_, err := server.Write([]byte("hello"))
				require.NoError(t, err)
				synctest.Wait()
				start := time.Now()
				require.NoError(t, b.Close())
				_, ok := b.rewind()
				require.False(t, ok, "the transport still reads")
				go func() {
					time.Sleep(tt.wait)
					_, _ = server.Write([]byte(" world"))
				}()
				require.Error(t, <-read)
				again, ok := b.rewind()
				require.Equal(t, tt.again, ok)
				if !ok {
					require.Equal(t, closeGrace, time.Since(start))
					require.EqualValues(t, 1, c.closes.Load())
					require.NoError(t, b.failure(), "the body has not failed")
					time.Sleep(tt.wait)
					return
				}
				got, err := io.ReadFull(again, make([]byte, 11))
				require.NoError(t, err)
				require.Equal(t, 11, got)
				require.Zero(t, c.closes.Load())
				b.release(false)
				require.NoError(t, again.Close())
			})
		})
	}
}

// givenUp is a body that net/http's server has given up.
var givenUp = iotest.ErrReader(http.ErrBodyReadAfterClose)

// Over HTTP/1.1 a server gives up the body of a request when it begins to answer, and a limit may
// be passed then. The response may be short, or wait for the rest of the body.
func TestTransportsHearLateThatTheBodyEnds(t *testing.T) {
	tooLarge := &http.MaxBytesError{Limit: 1}
	for body, failure := range map[io.Reader]error{
		givenUp:                    nil, // the client has not failed
		iotest.ErrReader(tooLarge): tooLarge,
	} {
		for _, copies := range []bool{false, true} {
			for _, lasts := range []time.Duration{closeGrace / 2, time.Minute} {
				synctest.Test(t, func(t *testing.T) {
					_, b := protected(body, copies)
					b.release(true)
					start := time.Now()
					defer time.AfterFunc(lasts, b.finish).Stop()
					_, err := b.Read(make([]byte, 10))
					require.Error(t, err)
					require.Equal(t, min(lasts, closeGrace), time.Since(start))
					require.Equal(t, failure, b.failure())
				})
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		_, b := protected(givenUp, true)
		b.finish()
		b.release(true)
		start := time.Now()
		_, err := b.Read(make([]byte, 1))
		require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
		require.Zero(t, time.Since(start), "the response had no body")
	})
}

func TestFailuresOfBodiesAreKept(t *testing.T) {
	broken := errors.New("broken")
	_, b := protected(iotest.ErrReader(broken), true)
	_, err := b.Read(make([]byte, 1))
	require.Equal(t, broken, err)
	require.Equal(t, broken, b.failure())
	again, ok := b.rewind()
	require.True(t, ok)
	_, err = again.Read(make([]byte, 1))
	require.Equal(t, broken, err, "it is not read any more")
}
