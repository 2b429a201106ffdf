package telemetry_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

func TestPanicIsRecordedAndPassedOn(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	h := b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(errors.New("dial redis://user:hunter2@db: token=s3cr3t"))
	}))
	require.PanicsWithError(t, "dial redis://user:hunter2@db: token=s3cr3t", func() {
		serve(h, httptest.NewRequest("GET", "/", nil))
	})
	// The connection breaks without a response: there is no status to record.
	require.Equal(t, []string{"error.type=panic http.request.method=GET network.protocol.version=1.1 " +
		"url.scheme=http = 1"}, b.points(t, "http.server.request.duration"))
	s := b.span(t)
	require.Equal(t, codes.Error, s.Status().Code)
	require.Len(t, s.Events(), 1)
	require.Equal(t, "exception", s.Events()[0].Name)
	event := text(s.Events()[0].Attributes)
	require.Contains(t, event, "exception.type=*errors.errorString")
	require.Contains(t, event, "TestPanicIsRecordedAndPassedOn", "the stack is the handler's")
	require.NotContains(t, event, "hunter2")
	require.NotContains(t, event, "s3cr3t")
	require.EqualValues(t, 1, b.Stats().Panics)
	require.EqualValues(t, 1, b.Stats().Failures)
	require.Zero(t, b.Stats().InFlight)
}

// The trace that net/http prints must still lead to the line that panicked.
func TestPanicKeepsItsStack(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	var printed bytes.Buffer
	srv := httptest.NewUnstartedServer(b.Middleware(http.HandlerFunc(explode)))
	srv.Config.ErrorLog = log.New(&printed, "", 0)
	srv.Start()
	_, err := srv.Client().Get(srv.URL)
	require.Error(t, err)
	srv.Close()
	require.Contains(t, printed.String(), "telemetry_test.explode")
}

func explode(http.ResponseWriter, *http.Request) { panic("boom") }

func TestPanicAnswered(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		b := newBench(t, telemetry.Config{Panics: telemetry.Answer500, RequestID: "X-Request-Id"})
		mux := http.NewServeMux()
		mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "session=1")
			w.Header().Set("Cdn-Cache-Control", "max-age=60")
			w.Header().Set("Access-Control-Allow-Origin", "*")
			panic("boom")
		})
		mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic("boom")
		})
		srv := server(t, h2, b.Middleware(mux))
		resp, body := get(t, srv.Client(), srv.URL+"/early")
		require.Equal(t, 500, resp.StatusCode)
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
		require.Empty(t, resp.Header.Get("Set-Cookie"), "it was for another response")
		require.Empty(t, resp.Header.Get("Cdn-Cache-Control"))
		require.Equal(t, "*", resp.Header.Get("Access-Control-Allow-Origin"), "a browser may read the error")
		require.NotEmpty(t, resp.Header.Get("X-Request-Id"))
		require.JSONEq(t, `{"title":"Internal Server Error","status":500}`, body)

		resp, err := srv.Client().Get(srv.URL + "/late")
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		require.Error(t, err, "the client must not take the half for the whole")
		proto, scheme := "1.1", "http"
		if h2 {
			proto, scheme = "2", "https"
		}
		require.Equal(t, []string{
			"error.type=panic http.request.method=GET http.response.status_code=200 http.route=/late " +
				"network.protocol.version=" + proto + " url.scheme=" + scheme + " = 1",
			"error.type=panic http.request.method=GET http.response.status_code=500 http.route=/early " +
				"network.protocol.version=" + proto + " url.scheme=" + scheme + " = 1",
		}, b.eventually(t, "http.server.request.duration", 2))
	})
}

// eventually waits for n data points: a server's handler may return after its client has it all.
func (b *bench) eventually(t testing.TB, name string, n int) []string {
	var points []string
	require.Eventually(t, func() bool {
		points = b.points(t, name)
		return len(points) >= n
	}, patience, time.Millisecond)
	return points
}

func TestO11_AbortIsPassedOnAndRecordedAsAborted(t *testing.T) {
	for _, policy := range []telemetry.PanicAction{telemetry.PassOn, telemetry.Answer500} {
		b := newBench(t, telemetry.Config{Panics: policy})
		h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(206)
			panic(http.ErrAbortHandler)
		}))
		require.PanicsWithValue(t, http.ErrAbortHandler,
			func() { serve(h, httptest.NewRequest("GET", "/", nil)) })
		require.Equal(t, []string{"error.type=aborted http.request.method=GET " +
			"http.response.status_code=206 network.protocol.version=1.1 url.scheme=http = 1"},
			b.points(t, "http.server.request.duration"))
		require.Empty(t, b.span(t).Events())
		require.Zero(t, b.Stats().Panics)
	}
}

func TestGoexitIsRecordedAsAborted(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() })),
			httptest.NewRequest("GET", "/", nil))
	}()
	<-done
	require.Contains(t, b.points(t, "http.server.request.duration")[0], "error.type=aborted")
}

// O10: a hijacked connection is recorded once, as 101, and nothing is written to it after.
func TestO10_Hijack(t *testing.T) {
	b := newBench(t, telemetry.Config{Panics: telemetry.Answer500, BodySizes: true})
	srv := server(t, false, b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, line)
		rw.Flush()
		_, err = w.Write([]byte("no"))
		require.ErrorIs(t, err, http.ErrHijacked)
		panic("after the hijack")
	})))
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	fmt.Fprint(conn, "hello\n")
	all, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: "+
		"Upgrade\r\n\r\nhello\n", string(all))
	points := b.eventually(t, "http.server.request.duration", 1)
	require.Equal(t, []string{"error.type=panic http.request.method=GET http.response.status_code=101 " +
		"network.protocol.version=1.1 url.scheme=http = 1"}, points)
	// The span ends after the metrics, and the panic after both.
	require.Eventually(t, func() bool { return len(b.spans.Ended()) > 0 }, time.Minute, time.Millisecond)
	srv.Close()
	require.Len(t, b.spans.Ended(), 1)
}

func TestInformationalResponsesAreNotTheStatus(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		b := newBench(t, telemetry.Config{ServerTiming: true})
		srv := server(t, h2, b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
		})))
		var hints int
		ctx := httptrace.WithClientTrace(t.Context(),
			&httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = code
				require.Empty(t, h.Get("Server-Timing"))
				return nil
			}})
		req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 103, hints)
		require.Equal(t, 202, resp.StatusCode)
		require.Contains(t, resp.Header.Get("Server-Timing"), "total;dur=")
		require.Contains(t, b.eventually(t, "http.server.request.duration", 1)[0], "status_code=202")
	})
}

// O09: the server's log tells of a second WriteHeader, with the handler's line, and of nothing
// else; what is recorded is what was sent.
func TestO09_StatusAndSizeAreWhatWasSent(t *testing.T) {
	tests := []struct {
		name, method string
		handler      http.HandlerFunc
		status       int
		size         string
	}{
		{"second WriteHeader", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			w.WriteHeader(500)
		}, 201, "0"},
		{"WriteHeader after a flush", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.WriteHeader(500)
		}, 200, "0"},
		{"HEAD has no body", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "hello")
		}, 200, "0"},
		{"204 has no body", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			io.WriteString(w, "hello")
		}, 204, "0"},
		{"WriteString", "GET", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "hello")
		}, 200, "5"},
		{"ReadFrom", "GET", func(w http.ResponseWriter, _ *http.Request) {
			io.Copy(w, strings.NewReader("hello"))
		}, 200, "5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			protocols(t, func(t *testing.T, h2 bool) {
				b := newBench(t, telemetry.Config{BodySizes: true})
				var printed bytes.Buffer
				srv := httptest.NewUnstartedServer(b.Middleware(tt.handler))
				srv.Config.ErrorLog = log.New(&printed, "", 0)
				srv.EnableHTTP2 = h2
				if h2 {
					srv.StartTLS()
				} else {
					srv.Start()
				}
				req, _ := http.NewRequest(tt.method, srv.URL, nil)
				resp, err := srv.Client().Do(req)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body) // to its end, which comes after the handler's
				require.NoError(t, err)
				resp.Body.Close()
				srv.Close()
				if strings.Contains(tt.name, "WriteHeader") {
					require.Contains(t, printed.String(), "superfluous response.WriteHeader call from "+
						"github.com/trivet-go/trivet/telemetry_test.TestO09_StatusAndSizeAreWhatWasSent")
					require.Contains(t, printed.String(), "(middleware_test.go:")
				} else {
					require.Empty(t, printed.String())
				}
				point := b.points(t, "http.server.response.body.size")[0]
				require.Contains(t, point, fmt.Sprintf("status_code=%d ", tt.status))
				require.True(t, strings.HasSuffix(point, "= "+tt.size), point)
			})
		})
	}
}

// O07: what a handler could do without the middleware, it can with it.
func TestO07_StreamingReachesTheClientAtOnce(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		b := newBench(t, telemetry.Config{})
		next := make(chan struct{})
		srv := server(t, h2, b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			require.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, rc.EnableFullDuplex())
			_, pusher := w.(http.Pusher)
			require.True(t, pusher)
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				require.NoError(t, rc.Flush())
				<-next
			}
		})))
		resp, err := srv.Client().Get(srv.URL)
		require.NoError(t, err)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for i := range 3 {
			require.True(t, lines.Scan())
			require.Equal(t, fmt.Sprintf("data: %d", i), lines.Text())
			require.True(t, lines.Scan())
			next <- struct{}{} // the handler waits: nothing but the flush brought the event here
		}
	})
}

// O08: a writer that cannot flush or hijack makes ours say so.
func TestO08_IncapableWriterIsTruthful(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	type plain struct{ http.ResponseWriter }
	b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		require.ErrorIs(t, rc.Flush(), http.ErrNotSupported)
		_, _, err := rc.Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
		require.ErrorIs(t, w.(http.Pusher).Push("/a", nil), http.ErrNotSupported)
	})).ServeHTTP(plain{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
	require.Contains(t, b.points(t, "http.server.request.duration")[0], "status_code=200")
}

// io.Copy from a file reaches the connection's ReadFrom, and thereby sendfile, and is counted.
func TestSendfileIsKeptAndCounted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	b := newBench(t, telemetry.Config{BodySizes: true})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(name)
		require.NoError(t, err)
		defer f.Close()
		io.Copy(w, f)
	}))
	w := &fromRecorder{ResponseWriter: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	// What sendfile asks for. (It is not the *os.File itself: its WriteTo wraps it.)
	require.Implements(t, (*syscall.Conn)(nil), w.src)
	require.True(t, strings.HasSuffix(b.points(t, "http.server.response.body.size")[0], "= 1048576"))
}

type fromRecorder struct {
	http.ResponseWriter
	src io.Reader
}

func (w *fromRecorder) ReadFrom(src io.Reader) (int64, error) {
	w.src = src
	return io.Copy(w.ResponseWriter, src)
}

func TestClientThatLeaves(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		b := newBench(t, telemetry.Config{})
		started := make(chan struct{})
		srv := server(t, h2, b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(started)
			<-r.Context().Done()
			w.WriteHeader(http.StatusBadGateway) // as ReverseProxy does, for nobody
		})))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
		_, err := srv.Client().Do(req)
		require.ErrorIs(t, err, context.Canceled)
		require.Contains(t, b.eventually(t, "http.server.request.duration", 1)[0], "error.type=canceled")
		require.Eventually(t, func() bool { return b.Stats().Requests == 1 }, patience,
			time.Millisecond)
		require.Zero(t, b.Stats().Failures, "nobody knows what it would have got")
		require.Equal(t, codes.Error, b.span(t).Status().Code)
	})
}

// A client that closes the connection once it has all of a declared length did not leave early.
func TestClientThatHasItAll(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "hello")
		cancel()
	})), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	require.NotContains(t, b.points(t, "http.server.request.duration")[0], "error.type")
}

func TestStreamsDoNotDistortLatency(t *testing.T) {
	synctest.Test(t, testStreams)
}

func testStreams(t *testing.T) {
	const long = time.Hour
	serveStream := func(t *testing.T, header string) (count uint64, sum float64) {
		b := newBench(t, telemetry.Config{})
		serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", header)
			time.Sleep(time.Second)
			io.WriteString(w, "data: 1\n\n")
			w.(http.Flusher).Flush()
			time.Sleep(long)
		})), httptest.NewRequest("GET", "/", nil))
		s := b.spans.Ended()[0]
		require.Equal(t, long+time.Second, s.EndTime().Sub(s.StartTime()),
			"the span is as long as the stream")
		m := b.metrics(t)["http.server.request.duration"]
		p := m.Data.(metricdata.Histogram[float64]).DataPoints[0]
		return p.Count, p.Sum
	}
	n, sum := serveStream(t, "text/event-stream; charset=utf-8")
	require.EqualValues(t, 1, n)
	require.Equal(t, 1.0, sum)
	_, sum = serveStream(t, "text/html")
	require.Equal(t, 3601.0, sum, "a page that is flushed early is no stream")
}

// Providers of all kinds: the response is the same, and the trace context travels on.
func TestProviders(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	providers := map[string]trace.TracerProvider{
		"none":      noop.NewTracerProvider(),
		"sampled":   sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample())),
		"unsampled": sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())),
	}
	for name, provider := range providers {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{TracerProvider: provider})
			var sent http.Header
			client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
				sent = r.Header
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			}))
			h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
				_, err := client.RoundTrip(req)
				require.NoError(t, err)
			}))
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Traceparent", parent)
			r.Header.Set("Tracestate", "a=1")
			r.Header.Set("Baggage", "tenant=7")
			serve(h, r)
			require.Equal(t, parent[3:35], sent.Get("Traceparent")[3:35])
			require.Equal(t, "a=1", sent.Get("Tracestate"))
			require.Equal(t, "tenant=7", sent.Get("Baggage"))
			if name == "none" {
				require.Equal(t, parent, sent.Get("Traceparent"), "without spans, the caller's is the parent")
			}
			require.Len(t, b.points(t, "http.server.request.duration"), 1)
		})
	}
}

func TestSkip(t *testing.T) {
	b := newBench(t, telemetry.Config{Skip: func(r *http.Request) bool { return r.URL.Path == "/healthz" }})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }))
	require.Equal(t, 204, serve(h, httptest.NewRequest("GET", "/healthz", nil)).Code)
	require.Empty(t, b.spans.Ended())
	require.Empty(t, b.metrics(t))
}

func TestServerTiming(t *testing.T) {
	b := newBench(t, telemetry.Config{ServerTiming: true})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server-Timing", "upstream;dur=1.0")
		for range 2 {
			telemetry.Measure(r.Context(), "db")()
		}
		telemetry.Measure(r.Context(), "bad name\r\n")()
		for i := range 100 {
			telemetry.Measure(r.Context(), fmt.Sprint("m", i))()
		}
		io.WriteString(w, "x")
		telemetry.Measure(r.Context(), "late")()
	})
	lines := serve(b.Middleware(handler), httptest.NewRequest("GET", "/", nil)).Header().Values(
		"Server-Timing")
	require.Len(t, lines, 2)
	require.Regexp(t, `^total;dur=\d+\.\d, db;dur=\d+\.\d, m0;dur=.*, m14;dur=\d+\.\d$`, lines[1])
	telemetry.Measure(context.Background(), "outside")()
	off := newBench(t, telemetry.Config{}).Middleware(handler)
	require.Equal(t, []string{"upstream;dur=1.0"},
		serve(off, httptest.NewRequest("GET", "/", nil)).Header().Values("Server-Timing"))
}

func TestRequestID(t *testing.T) {
	b := newBench(t, telemetry.Config{RequestID: "X-Request-Id"})
	var seen, sent string
	client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		sent = r.Header.Get("X-Request-Id")
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = telemetry.RequestID(r.Context())
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
		client.RoundTrip(req)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Request-Id", "abc-1.2_3")
	w := serve(h, r)
	require.Equal(t, "abc-1.2_3", seen)
	require.Equal(t, seen, w.Header().Get("X-Request-Id"))
	require.Equal(t, seen, sent)
	require.Empty(t, telemetry.RequestID(context.Background()))
}

// O14: what a client may not choose is replaced.
func TestO14_RequestIDIsValidatedOrMade(t *testing.T) {
	b := newBench(t, telemetry.Config{RequestID: "X-Request-Id"})
	var seen string
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = telemetry.RequestID(r.Context())
	}))
	for _, id := range []string{"", "a b", "a\nb", "../../etc/passwd", "..", "-rf", strings.Repeat("a", 129),
		"a;b", "é", "a\x00"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Request-Id"] = []string{id}
		w := serve(h, r)
		require.Regexp(t, `^[A-Z2-7]{26}$`, seen, "for %q", id)
		require.Equal(t, seen, w.Header().Get("X-Request-Id"))
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["X-Request-Id"] = []string{"a", "b"}
	serve(h, r)
	require.Len(t, seen, 26, "two ids are none")
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := telemetry.New(telemetry.Config{
		Methods: []string{"GET POST"}, Hosts: []string{""}, RequestID: "a b", Panics: 7, MaxSeries: 3,
		SLOs: []*telemetry.SLO{nil},
	})
	for _, field := range []string{"Methods", "Hosts", "RequestID", "Panics", "MaxSeries", "SLOs[0]"} {
		require.ErrorContains(t, err, "telemetry: Config."+field+": ")
	}
	_, err = telemetry.New(telemetry.Config{})
	require.NoError(t, err)
	const nilHandler = "telemetry: nil handler"
	require.PanicsWithValue(t, nilHandler, func() { newBench(t, telemetry.Config{}).Middleware(nil) })
	require.PanicsWithValue(t, nilHandler, func() { telemetry.Route(nil) })
}
