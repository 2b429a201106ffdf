package balancer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A transport that waits to send a body is let go when it closes the body, and when the exchange
// ends, even if its server has begun to answer and will never be done.
func TestL37_WhoWaitsToSendIsLetGo(t *testing.T) {
	for name, end := range map[string]func(*upload){
		"the transport closes": func(u *upload) { _ = u.Close() },
		"the exchange ends":    func(u *upload) { u.close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body, feed := io.Pipe()
				defer feed.Close()
				r := httptest.NewRequest(http.MethodPost, "/", body)
				r.Header.Set("Expect", "100-continue")
				u := newUpload(r, nil)
				u.invited.answering()
				failed := make(chan error, 1)
				go func() {
					_, err := u.Read(make([]byte, 1))
					failed <- err
				}()
				synctest.Wait()
				require.Empty(t, failed)
				end(u)
				require.ErrorIs(t, <-failed, errUploadClosed)
			})
		})
	}
}

// A begun reader tells when it is read.
type begun struct {
	io.Reader
	read chan struct{}
}

func (b begun) Read(p []byte) (int, error) {
	close(b.read)
	return b.Reader.Read(p)
}

// A handler must not return while a transport reads its request's body.
func TestUploadsAreAwaited(t *testing.T) {
	body, feed := io.Pipe()
	reading := begun{body, make(chan struct{})}
	u := newUpload(httptest.NewRequest(http.MethodPost, "/", reading), nil)
	go func() { _, _ = u.Read(make([]byte, 1)) }()
	<-reading.read
	u.close()
	var over atomic.Bool
	awaited := make(chan bool)
	go func() {
		u.await()
		awaited <- over.Load()
	}()
	for range 100 {
		runtime.Gosched()
	}
	over.Store(true)
	feed.Close()
	require.True(t, <-awaited)
	_, err := u.Read(make([]byte, 1))
	require.ErrorIs(t, err, errUploadClosed)
}

// A body that is being read cannot be read anew, and neither can one that was closed under its
// reader.
func TestBodiesThatAreBeingReadCannotBeReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rc, feed := io.Pipe()
		b := &requestBody{rc: rc, copies: true}
		read := func() {
			go func() { _, _ = b.Read(make([]byte, 1)) }()
			synctest.Wait()
		}
		read()
		_, ok := b.rewind()
		require.False(t, ok, "it is being read")
		_, err := io.WriteString(feed, "x")
		require.NoError(t, err)
		synctest.Wait()
		read()
		require.NoError(t, b.Close())
		time.Sleep(closeGrace + 1)
		synctest.Wait()
		_, ok = b.rewind()
		require.False(t, ok, "it has been closed under its reader")
	})
}
