package retry_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// testTransport returns a transport of its own, whose connections end with the test.
func testTransport(t testing.TB, p backend.Protocol) *http.Transport {
	tr := backend.Transport(p)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func requestTo(t testing.TB, b *backend.Backend, method string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.URL.String(), body)
	require.NoError(t, err)
	return req
}

// quick is a Config that does not make real time pass.
func quick(cfg retry.Config) retry.Config {
	cfg.Backoff = time.Millisecond
	return cfg
}

// Over real connections: what a server refuses is sent again, with the same body whatever it comes
// from.
func TestRetriesOverTheWire(t *testing.T) {
	large := strings.Repeat("0123456789", 5000)
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		for _, tt := range []struct {
			name string
			body func() io.Reader
			want string
		}{
			{"none", func() io.Reader { return nil }, ""},
			{"GetBody", func() io.Reader { return strings.NewReader(large) }, large},
			{"stream", func() io.Reader { return stream(large) }, large},
			{"empty stream", func() io.Reader { return stream("") }, ""},
		} {
			t.Run("protocol="+string(p)+"/body="+tt.name, func(t *testing.T) {
				var n atomic.Int32
				var mu sync.Mutex
				var bodies []string
				var conns map[string]bool
				b := backend.Start(
					t,
					backend.Config{
						Protocol: p,
						Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							got, _ := io.ReadAll(r.Body)
							mu.Lock()
							bodies = append(bodies, string(got))
							conns[r.RemoteAddr] = true
							mu.Unlock()
							if n.Add(1)%3 != 0 {
								w.WriteHeader(503)
							}
							io.WriteString(w, "body")
						}),
					},
				)
				r := newRetrier(t, quick(retry.Config{Budget: retry.BudgetConfig{Reserve: 1_000_000}}))
				rt := r.Transport(testTransport(t, p))
				// Both the drain and net/http give up a connection that a busy machine is slow on,
				// so there is more than one chance.
				for start := time.Now(); len(conns) != 1 && time.Since(start) < time.Minute; {
					bodies, conns = nil, map[string]bool{}
					for range 5 {
						status, text, err := send(t, rt, requestTo(t, b, "PUT", tt.body()))
						require.NoError(t, err)
						require.Equal(t, 200, status)
						require.Equal(t, "body", text)
					}
					require.Len(t, bodies, 15)
					for _, got := range bodies {
						require.Equal(t, tt.want, got)
					}
				}
				require.Len(t, conns, 1, "failed answers are drained, so that the connection lives on")
				require.Zero(t, retry.Buffered(0))
			})
		}
	}
}

// A stream that is answered before it is read to its end goes on where the attempt before had come
// to.
func TestStreamThatWasAnsweredEarly(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(p), func(t *testing.T) {
			var n atomic.Int32
			pr, pw := io.Pipe()
			b := backend.Start(
				t,
				backend.Config{
					Protocol: p,
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						http.NewResponseController(w).
							EnableFullDuplex()
							// or HTTP/1.1 waits for all of the body before it answers
						first := make([]byte, 3)
						io.ReadFull(r.Body, first)
						if n.Add(1) == 1 {
							w.WriteHeader(503)
							http.NewResponseController(w).Flush()
							return
						}
						go func() {
							io.WriteString(pw, "def")
							pw.Close()
						}()
						rest, _ := io.ReadAll(r.Body)
						w.Write(append(first, rest...))
					}),
				},
			)
			go io.WriteString(pw, "abc")
			req := requestTo(t, b, "PUT", pr)
			status, text, err := send(
				t,
				newRetrier(t, quick(retry.Config{})).Transport(testTransport(t, p)),
				req,
			)
			require.NoError(t, err)
			require.Equal(t, 200, status)
			require.Equal(t, "abcdef", text)
		})
	}
}

// Over real connections: hedges win, losers leave no connection and no goroutine, winners are
// whole.
func TestHedgesOverTheWire(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(p), func(t *testing.T) {
			large := strings.Repeat("x", 256<<10)
			var slow sync.Map // of ids that were there once
			canceled := make(chan struct{}, 100)
			b := backend.Start(
				t,
				backend.Config{
					Protocol: p,
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						id := r.Header.Get("Id")
						if _, again := slow.LoadOrStore(id, true); id != "" && !again {
							timer := time.NewTimer(2 * time.Second)
							defer timer.Stop()
							select {
							case <-r.Context().Done(): // the loser's end reaches the server
								canceled <- struct{}{}
								return
							case <-timer.C: // nobody has hedged it
							}
						}
						io.WriteString(w, large)
					}),
				},
			)
			r := newRetrier(t, retry.Config{Hedge: true, HedgeRatio: 1, Budget: retry.BudgetConfig{Ratio: 1}})
			rt := r.Transport(testTransport(t, p))
			// On a busy machine all of the host may seem slow, and is not hedged for a while.
			for i := 0; r.Stats().HedgesWon < 3; i++ {
				for !hedgingIsOn(t, r, rt, b) {
				}
				req := requestTo(t, b, "GET", nil)
				req.Header.Set("Id", strconv.Itoa(i))
				status, text, err := send(t, rt, req)
				require.NoError(t, err)
				require.Equal(t, 200, status)
				require.Len(t, text, len(large))
			}
			<-canceled
		})
	}
}

// hedgingIsOn reports whether the next request can be hedged. If not, it sends one more that is not
// slow.
func hedgingIsOn(t *testing.T, r *retry.Retrier, rt http.RoundTripper, b *backend.Backend) bool {
	if r.HedgeDelay(requestTo(t, b, "GET", nil)) > 0 {
		return true
	}
	_, _, err := send(t, rt, requestTo(t, b, "GET", nil))
	require.NoError(t, err)
	return false
}

// lines serves a listener with one function a connection.
func lines(t *testing.T, serve func(conn net.Conn, n int)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the fields below
	var conns []net.Conn
	ended := false
	wg.Go(func() {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			if ended {
				conn.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				serve(conn, n)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		ended = true
		for _, conn := range conns { // a client may hold on to its own for longer
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// A POST is repeated where it provably reached nobody: no dial, no handshake.
func TestPOSTThatWasNotSent(t *testing.T) {
	t.Run("dial", func(t *testing.T) {
		addr := lines(t, func(net.Conn, int) {})
		tr := testTransport(t, backend.HTTP1)
		dials := 0
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials++; dials < 3 {
				return nil, errors.New("a dialer's own error")
			}
			return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("down")}
		}
		r := newRetrier(t, quick(retry.Config{}))
		b := newBody("abc")
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr, b)
		require.NoError(t, err)
		_, err = r.Transport(tr).RoundTrip(req)
		require.Error(t, err)
		require.Equal(t, 3, dials)
		require.EqualValues(t, 1, b.closes.Load())
		require.Zero(t, r.Stats().Attempts)
	})
	t.Run("handshake", func(t *testing.T) {
		var n atomic.Int32
		b := backend.Start(t, backend.Config{Protocol: backend.HTTP2})
		addr := lines(t, func(conn net.Conn, i int) {
			n.Add(1)
			if i < 2 {
				readHello(conn)
				return // closes in the middle of the handshake
			}
			pipe(conn, b.Addr)
		})
		r := newRetrier(t, quick(retry.Config{}))
		req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+addr, stream("abc"))
		require.NoError(t, err)
		tr := testTransport(t, backend.HTTP2)
		status, _, err := send(t, r.Transport(tr), req)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.EqualValues(t, 3, n.Load())
		require.Equal(t, 1, b.Requests())
		require.Equal(t, map[string]uint64{"unprocessed": 2}, r.Stats().Retries)
		require.Equal(t, uint64(1), r.Stats().Attempts)
		tr.CloseIdleConnections()
	})
}

func readHello(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }

// pipe connects conn to addr until one of them ends.
func pipe(conn net.Conn, addr string) {
	far, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(far, conn)
		far.Close()
	})
	_, _ = io.Copy(conn, far)
	conn.Close()
	wg.Wait()
}

// A certificate that is not trusted will not be at the next attempt.
func TestUntrustedCertificateIsFinal(t *testing.T) {
	b := backend.Start(t, backend.Config{Protocol: backend.HTTP2})
	tr := testTransport(t, backend.HTTP2)
	tr.TLSClientConfig = &tls.Config{} // trusts nobody of the tests
	var dials atomic.Int32
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	r := newRetrier(t, quick(retry.Config{}))
	req := requestTo(t, b, "GET", nil)
	_, err := r.Transport(tr).RoundTrip(req)
	var verify *tls.CertificateVerificationError
	require.ErrorAs(t, err, &verify)
	require.EqualValues(t, 1, dials.Load())
	require.Equal(t, uint64(1), r.Stats().GaveUp["final"])
}

// An http2Server answers the frames of one connection after another.
type http2Server struct {
	addr     string
	requests atomic.Int32 // headers of requests that it has read
}

// newHTTP2Server answers the first request of the first connection with first, and closes; requests
// of other connections are answered with 200.
func newHTTP2Server(t *testing.T, first func(f *http2.Framer, id uint32)) *http2Server {
	s := &http2Server{}
	s.addr = lines(t, func(conn net.Conn, n int) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(conn, preface); err != nil {
			return
		}
		f := http2.NewFramer(conn, conn)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				s.requests.Add(1)
				if n == 0 {
					first(f, frame.StreamID)
					if tcp, ok := conn.(*net.TCPConn); ok {
						_ = tcp.CloseWrite()
					}
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				_ = f.WriteHeaders(http2.HeadersFrameParam{
					StreamID: frame.StreamID, EndHeaders: true, EndStream: true,
					BlockFragment: []byte{0x88}, // :status 200
				})
			}
		}
	})
	return s
}

// A request that net/http cannot send as it is will not be sent by the next attempt. net/http says
// so in words of its own, which this test hears from it.
func TestRequestsThatCannotBeSentAreFinal(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	tests := []struct {
		name     string
		protocol backend.Protocol
		change   func(req *http.Request)
	}{
		{"method", backend.HTTP1, func(req *http.Request) { req.Method = "A B" }},
		{"field name", backend.HTTP1, func(req *http.Request) { req.Header["A B"] = []string{"x"} }},
		{"field value", backend.HTTP1, func(req *http.Request) { req.Header["A"] = []string{"\n"} }},
		{"no host", backend.HTTP1, func(req *http.Request) { req.URL.Host = "" }},
		{"scheme", backend.HTTP1, func(req *http.Request) { req.URL.Scheme = "gopher" }},
		{"control character", backend.HTTP1, func(req *http.Request) { req.URL.Opaque = "//a/\x01" }},
		{"short body", backend.HTTP1, func(req *http.Request) { req.ContentLength = 5 }},
		{"long body", backend.HTTP1, func(req *http.Request) { req.ContentLength = 1 }},
		{"long body, HTTP/2", backend.HTTP2, func(req *http.Request) { req.ContentLength = 1 }},
		{"upgrade, HTTP/2", backend.HTTP2, func(req *http.Request) { req.Header.Set("Upgrade", "x") }},
		{"long header, HTTP/2", backend.HTTP2, func(req *http.Request) { req.Header.Set("A", long) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := backend.Start(t, backend.Config{Protocol: tt.protocol})
			r := newRetrier(t, quick(retry.Config{}))
			rt := r.Transport(testTransport(t, tt.protocol))
			_, _, err := send(t, rt, requestTo(t, b, "GET", nil)) // HTTP/2 has told its limits by then
			require.NoError(t, err)
			req := requestTo(t, b, "PUT", strings.NewReader("abc"))
			tt.change(req)
			_, _, err = send(t, rt, req)
			require.Error(t, err)
			t.Log(err)
			require.Empty(t, r.Stats().Retries)
			require.NotZero(t, r.Stats().GaveUp["final"])
		})
	}
}
