package balancer_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A soloBody is a request's body of which two Reads at a time are an error, as of many wrappers.
type soloBody struct {
	io.ReadCloser
	reading sync.Mutex
	begun   chan struct{} // gets the begin of every Read
	twice   func()
}

func (b *soloBody) Read(p []byte) (int, error) {
	if !b.reading.TryLock() {
		b.twice()
		return 0, errors.New("two Reads at a time")
	}
	defer b.reading.Unlock()
	b.begun <- struct{}{}
	return b.ReadCloser.Read(p)
}

// A deadlineWriter tells that it has got a deadline for reads. Nobody gets its connection.
type deadlineWriter struct {
	http.ResponseWriter
	lingers chan struct{}
}

func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *deadlineWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

func (w *deadlineWriter) SetReadDeadline(at time.Time) error {
	err := http.NewResponseController(w.ResponseWriter).SetReadDeadline(at)
	select {
	case w.lingers <- struct{}{}:
	default:
	}
	return err
}

// After an early answer the rest of the upload is read when the transport has done so.
func TestL36_TheRestOfAnUploadHasOneReader(t *testing.T) {
	for name, end := range map[string]func() (*http.Response, error){
		"answer": func() (*http.Response, error) {
			resp := answer(413)
			resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader("large")), -1
			return resp, nil
		},
		"error": func() (*http.Response, error) { return nil, errors.New("broken") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
			begun, lingers := make(chan struct{}, 100), make(chan struct{}, 1)
			f := newFront(t, false, b, balancer.HandlerConfig{
				Transport: func(http.RoundTripper) http.RoundTripper {
					return roundTripper(func(r *http.Request) (*http.Response, error) {
						go func() { _, _ = io.Copy(io.Discard, r.Body) }()
						<-begun
						<-begun // it has read what there is
						return end()
					})
				},
			}, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					r.Body = &soloBody{
						ReadCloser: r.Body, begun: begun, twice: func() { t.Error("two Reads at a time") },
					}
					next.ServeHTTP(&deadlineWriter{w, lingers}, r)
				})
			})
			conn, err := net.Dial("tcp", f.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
			fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx")
			<-lingers
			_, err = io.WriteString(conn, strings.Repeat("x", 20))
			require.NoError(t, err)
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Contains(t, string(got), map[string]string{"answer": "large", "error": "502"}[name])
		})
	}
}
