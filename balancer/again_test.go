package balancer_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/program"
)

// A frameServer is a server of HTTP/2 that says what it likes of a stream.
type frameServer struct {
	addr   string
	reply  func(f *http2.Framer, stream uint32, nth int) // of its connection, from 1
	early  bool                                          // reply to the header, without the body
	mu     sync.Mutex                                    // guards the field below
	bodies []string                                      // of the streams answered with 200
}

func serveFrames(t *testing.T, s *frameServer) *frameServer {
	t.Helper()
	s.addr = serveRaw(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		bodies, n := map[uint32]*bytes.Buffer{}, 0
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			id := frame.Header().StreamID
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
				continue
			case *http2.HeadersFrame:
				bodies[id] = &bytes.Buffer{}
				if s.early {
					n++
					s.reply(f, id, n)
				}
			case *http2.DataFrame:
				bodies[id].Write(frame.Data())
				if size := uint32(len(frame.Data())); size > 0 {
					_ = f.WriteWindowUpdate(0, size)
					_ = f.WriteWindowUpdate(id, size)
				}
			default:
				continue
			}
			if frame.Header().Flags&http2.FlagDataEndStream != 0 && !s.early {
				s.mu.Lock()
				s.bodies = append(s.bodies, bodies[id].String())
				s.mu.Unlock()
				n++
				s.reply(f, id, n)
			}
		}
	})
	return s
}

func answerFrame(f *http2.Framer, stream uint32) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	})
}

func h2c() *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// goodbye answers one stream of a connection and says of the next ones that it will not process
// them, as nginx does after keepalive_requests.
func goodbye(f *http2.Framer, stream uint32, nth int) {
	if nth == 1 {
		answerFrame(f, stream)
		return
	}
	_ = f.WriteGoAway(1, http2.ErrCodeNo, nil)
}

// refusing refuses the streams of a connection up to the nth.
func refusing(code http2.ErrCode, upTo int) func(*http2.Framer, uint32, int) {
	return func(f *http2.Framer, stream uint32, nth int) {
		if nth > upTo {
			answerFrame(f, stream)
			return
		}
		_ = f.WriteRSTStream(stream, code)
	}
}

func post(t *testing.T, rt http.RoundTripper, method string, body io.Reader) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://users.test/", body)
	require.NoError(t, err)
	req.GetBody = nil
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// A pieced body comes in reads of a few bytes, as a client's does.
type pieced struct{ io.Reader }

func (p pieced) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), 1000)]) }

// RFC 9113, section 6.8: a stream beyond the last one of a GOAWAY has not been processed.
func TestL38_StreamsBeyondGoAwayAreSentAgain(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 4<<10) // 64 KiB
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		for name, text := range map[string]string{"none": "", "small": "small body", "long": long} {
			t.Run(method+"/body="+name, func(t *testing.T) {
				s := serveFrames(t, &frameServer{reply: goodbye})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(s.addr), Transport: h2c(),
					Outlier: balancer.OutlierConfig{Consecutive: 1},
				})
				for range 6 {
					var body io.Reader
					if text != "" {
						body = pieced{strings.NewReader(text)}
					}
					status, err := post(t, b, method, body)
					require.NoError(t, err)
					require.Equal(t, 200, status)
				}
				require.Zero(t, b.Stats().Failures, "nobody is to blame")
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, got := range s.bodies {
					require.Equal(t, len(text), len(got))
					require.True(t, text == got)
				}
			})
		}
	}
}

func TestL38_StreamsBeyondGoAwayThroughAHandler(t *testing.T) {
	s := serveFrames(t, &frameServer{reply: goodbye})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(s.addr), Transport: h2c()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "users.test"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	front := httptest.NewServer(h)
	defer front.Close()
	for range 6 {
		resp, err := http.Post(front.URL, "text/plain", strings.NewReader("small body"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 200, resp.StatusCode)
	}
	for _, got := range s.bodies {
		require.Equal(t, "small body", got)
	}
}

// A GOAWAY is about a connection: the request stays with its endpoint, which may know its session.
func TestL38_GoAwayMovesNobody(t *testing.T) {
	s := serveFrames(t, &frameServer{reply: goodbye})
	other := serveFrames(t, &frameServer{reply: refusing(0, 0)})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(s.addr, other.addr), Policy: rather(s.addr), Transport: h2c(),
	})
	for range 4 {
		status, err := post(t, b, "POST", pieced{strings.NewReader("small body")})
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}
	require.NotZero(t, b.Stats().Repicked)
	require.Empty(t, other.bodies)
}

// RFC 9113, section 8.7: a refused stream has not been processed either. The server may refuse all
// of them, so another endpoint comes first.
func TestL38_RefusedStreamsGoElsewhere(t *testing.T) {
	full := serveFrames(t, &frameServer{reply: refusing(http2.ErrCodeRefusedStream, 1<<30)})
	good := serveFrames(t, &frameServer{reply: refusing(0, 0)})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(full.addr, good.addr), Policy: rather(full.addr), Transport: h2c(),
		Outlier: balancer.OutlierConfig{Consecutive: 1},
	})
	for range 4 {
		status, err := post(t, b, "POST", pieced{strings.NewReader("small body")})
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}
	require.Equal(t, []string{"small body", "small body", "small body", "small body"}, good.bodies)
	require.Zero(t, b.Stats().Failures)
	require.Zero(t, b.Stats().Ejections)
	require.EqualValues(t, 4, b.Stats().Repicked)
}

func TestL38_RefusedStreamsOfTheOnlyEndpoint(t *testing.T) {
	for _, tt := range []struct{ refused, tries, status int }{{2, 3, 200}, {1 << 30, 4, 503}} {
		s := serveFrames(t, &frameServer{reply: refusing(http2.ErrCodeRefusedStream, tt.refused)})
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(s.addr), Transport: h2c()})
		status, err := post(t, b, "POST", pieced{strings.NewReader("small body")})
		if tt.status == 200 {
			require.NoError(t, err)
			require.Equal(t, 200, status)
		} else {
			code, wait := balancer.ErrorStatus(err)
			require.Equal(t, tt.status, code)
			require.Equal(t, time.Second, wait)
			require.True(t, notSent(err))
		}
		s.mu.Lock()
		require.Len(t, s.bodies, tt.tries)
		s.mu.Unlock()
		require.Zero(t, b.Stats().Failures)
	}
}

// What has been read of a body and not been kept cannot be sent again.
func TestL38_LongBodiesAreNotSentAgain(t *testing.T) {
	s := serveFrames(t, &frameServer{reply: refusing(http2.ErrCodeRefusedStream, 1)})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(s.addr), Transport: h2c()})
	_, err := post(t, b, "POST", pieced{strings.NewReader(strings.Repeat("x", 64<<10+1))})
	require.True(t, notSent(err), "%v", err)
	code, wait := balancer.ErrorStatus(err)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, time.Second, wait)
	require.Zero(t, b.Stats().Failures, "nobody is to blame")
}

// The server may have processed a request whose stream it has reset for another reason, or one up
// to the last stream of its GOAWAY.
func TestL38_RequestsThatMayHaveBeenProcessed(t *testing.T) {
	for name, reply := range map[string]func(*http2.Framer, uint32, int){
		"protocol error": refusing(http2.ErrCodeProtocol, 1),
		"internal error": refusing(http2.ErrCodeInternal, 1),
		"canceled":       refusing(http2.ErrCodeCancel, 1),
		"goaway": func(f *http2.Framer, stream uint32, _ int) {
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, []byte("REFUSED_STREAM"))
			_ = f.WriteRSTStream(stream, http2.ErrCodeInternal)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveFrames(t, &frameServer{reply: reply})
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(s.addr), Transport: h2c()})
			_, err := post(t, b, "POST", pieced{strings.NewReader("small body")})
			require.Error(t, err)
			require.False(t, notSent(err), "%v", err)
			require.Len(t, s.bodies, 1)
			require.EqualValues(t, 1, b.Stats().Failures)
		})
	}
}

// A server that refuses its first stream with an error has failed, and has processed nothing.
func TestL38_ConnectionsThatAreRefusedAtTheirFirstStream(t *testing.T) {
	bad := serveFrames(t, &frameServer{reply: func(f *http2.Framer, _ uint32, _ int) {
		_ = f.WriteGoAway(0, http2.ErrCodeInternal, nil)
	}})
	good := serveFrames(t, &frameServer{reply: refusing(0, 0)})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(bad.addr, good.addr), Policy: rather(bad.addr), Transport: h2c(),
	})
	status, err := post(t, b, "POST", pieced{strings.NewReader("small body")})
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.EqualValues(t, 1, b.Stats().EndpointFailures[bad.addr])
}

// A wrapper that says of a request that it was not sent, after it has read some of it.
func TestReadBodiesGoElsewhereWhereTheyAreKept(t *testing.T) {
	var got []string
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1", "b:1"), Transport: h2c(),
		Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
			defer r.Body.Close()
			part := make([]byte, 3)
			if len(got) > 0 {
				part = make([]byte, 100)
			}
			n, err := io.ReadFull(r.Body, part)
			if got = append(got, string(part[:n])); err == nil {
				return nil, unsent{}
			}
			return answer(200), nil
		}).wrap,
	})
	body := &closing{Reader: strings.NewReader("hello")}
	status, err := post(t, b, "POST", body)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, []string{"hel", "hello"}, got)
	require.True(t, body.closed())
}

// With its default keepalive_requests, nginx says goodbye after 1,000 requests of a connection.
func TestL38_NginxSaysGoodbye(t *testing.T) {
	nginx := program.Nginx(t, func(addr string) string {
		return fmt.Sprintf(`	server {
		listen %s http2;
		location / { return 200 "good\n"; }
	}`, addr)
	})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(nginx.Addr), Transport: h2c()})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "users.test"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	front := httptest.NewServer(h)
	defer front.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()

	const requests = 6400
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for next.Add(1) <= requests {
				resp, err := client.Post(front.URL, "text/plain", strings.NewReader("small body"))
				if err != nil {
					t.Error(err)
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s := b.Stats()
	t.Logf("of %d requests %d were sent again and %d failed", requests, s.Repicked, failed.Load())
	require.Zero(t, failed.Load())
	require.Zero(t, s.Failures)
}
