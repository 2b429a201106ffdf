package telemetry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/internal/response"
	"github.com/trivet-go/trivet/telemetry"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// A deadline that a handler's caller set is the server's own: whoever missed it is at fault, unlike
// a client that left.
func TestDeadlineIsTheServersFault(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	serve(h, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	serve(h, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	points := strings.Join(b.points(t, "http.server.request.duration"), "\n")
	require.Contains(t, points, "error.type=timeout ")
	require.Contains(t, points, "error.type=canceled ")
	require.EqualValues(t, 1, b.Stats().Failures)
	lines := out.all(t)
	require.Equal(t, "ERROR", lines[0]["level"])
	require.Equal(t, "WARN", lines[1]["level"])
}

// A response that has no body was there in full with its header, and so was one of declared length.
func TestBodilessResponsesAreComplete(t *testing.T) {
	for _, tt := range []struct {
		method string
		status int
	}{{"GET", 204}, {"GET", 304}, {"HEAD", 200}} {
		b := newBench(t, telemetry.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tt.status)
			cancel()
		})), httptest.NewRequest(tt.method, "/", nil).WithContext(ctx))
		require.NotContains(t, b.points(t, "http.server.request.duration")[0], "error.type", "%v", tt)
	}
	// One of which a part is missing was not.
	b := newBench(t, telemetry.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "6")
		io.WriteString(w, "hello")
		cancel()
	})), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	require.Contains(t, b.points(t, "http.server.request.duration")[0], "error.type=canceled")
}

// O10: the end of an upgraded connection is no client that left early, and a panic after it is
// answered by nobody.
func TestO10_HijackedConnectionsEndWell(t *testing.T) {
	for _, fail := range []bool{false, true} {
		b := newBench(t, telemetry.Config{Panics: telemetry.Answer500})
		w := &hijackable{ResponseRecorder: httptest.NewRecorder()}
		ctx, cancel := context.WithCancel(t.Context())
		h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			cancel()
			if fail {
				panic("boom")
			}
		}))
		require.NotPanics(t, func() { h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx)) })
		point := b.points(t, "http.server.request.duration")[0]
		require.Contains(t, point, "status_code=101")
		require.Equal(t, fail, strings.Contains(point, "error.type=panic"))
		require.Equal(t, fail, strings.Contains(point, "error.type"))
		require.Empty(t, w.Body.String())
	}
}

type hijackable struct{ *httptest.ResponseRecorder }

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

// Redirects and what the caller counts add up.
func TestResendCountAddsUp(t *testing.T) {
	b := newBench(t, telemetry.Config{ResendCount: func(context.Context) int { return 2 }})
	srv := server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/a" {
			http.Redirect(w, r, "/b", http.StatusFound)
		}
	}))
	c := srv.Client()
	c.Transport = b.Transport(c.Transport)
	get(t, c, srv.URL+"/a")
	require.Contains(t, text(b.spans.Ended()[0].Attributes()), "http.request.resend_count=2 ")
	require.Contains(t, text(b.spans.Ended()[1].Attributes()), "http.request.resend_count=3 ")
}

// Of a HEAD response there is nothing to read, so nobody need close it for its span to end.
func TestHeadEndsWithItsHeader(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	_, err := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: 5, Body: io.NopCloser(strings.NewReader(""))},
			nil
	})).RoundTrip(httptest.NewRequest("HEAD", "http://api.test/", nil))
	require.NoError(t, err)
	require.Len(t, b.spans.Ended(), 1)
}

// What the caller says of a request stays, and its header map is not ours to change.
func TestTransportKeepsTheCallersHeader(t *testing.T) {
	b := newBench(t, telemetry.Config{RequestID: "X-Request-Id"})
	client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		require.Equal(t, "mine", r.Header.Get("X-Request-Id"))
		require.NotEmpty(t, r.Header.Get("Traceparent"))
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
		req.Header.Set("X-Request-Id", "mine")
		_, err := client.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, http.Header{"X-Request-Id": {"mine"}}, req.Header)
	})), httptest.NewRequest("GET", "/", nil))
}

// O04: at a public edge nothing outside of the request decides either: a span of the enclosing
// context is no parent.
func TestO04_PublicEdgeHasNoParentAtAll(t *testing.T) {
	b := newBench(t, telemetry.Config{Public: true})
	tracer := sdktrace.NewTracerProvider().Tracer("x")
	ctx, span := tracer.Start(t.Context(), "stranger")
	defer span.End()
	serve(b.Middleware(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	require.False(t, b.span(t).Parent().IsValid())
	require.NotEqual(t, span.SpanContext().TraceID(), b.span(t).SpanContext().TraceID())

	// And a malformed field links to nothing: the enclosing span is not what the client sent.
	b = newBench(t, telemetry.Config{Public: true})
	r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
	r.Header.Set("Traceparent", "nonsense")
	serve(b.Middleware(http.NotFoundHandler()), r)
	require.Empty(t, b.span(t).Links())
}

// The options of a span's start come from a pool: what one request put there must not reach
// another.
func TestPooledOptionsDoNotMix(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	h := b.Middleware(http.NotFoundHandler())
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				r := httptest.NewRequest("GET", fmt.Sprintf("/%d/%d", g, i), nil)
				if i%2 == 0 {
					r.Header.Set("User-Agent", fmt.Sprint("agent", g, i))
					r.URL.RawQuery = "q=1"
				}
				serve(h, r)
			}
		})
	}
	wg.Wait()
	for _, s := range b.spans.Ended() {
		var path, agent string
		query := false
		for _, a := range s.Attributes() {
			switch a.Key {
			case "url.path":
				path = a.Value.AsString()
			case "user_agent.original":
				agent = a.Value.AsString()
			case "url.query":
				query = true
			}
		}
		var g, i int
		fmt.Sscanf(path, "/%d/%d", &g, &i)
		require.Equal(t, i%2 == 0, query)
		if i%2 == 0 {
			require.Equal(t, fmt.Sprint("agent", g, i), agent)
		} else {
			require.Empty(t, agent)
		}
	}
}

// The overflow has its own bound, and keeps apart what failed in which way as long as it has room.
func TestO01_OverflowIsBoundedToo(t *testing.T) {
	const limit = 16
	b := newBench(t, telemetry.Config{MaxSeries: limit, TracerProvider: noop.NewTracerProvider(),
		RouteFunc: func(r *http.Request) string { return r.URL.Path }})
	status := 0
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
	}))
	run := func(i int) {
		defer func() { _ = recover() }()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", fmt.Sprint("/", i), nil))
	}
	status = 200
	for i := range 100 {
		run(i)
	}
	status = 0
	for i := range 100 {
		run(1000 + i)
	}
	points := b.points(t, "http.server.request.duration")
	require.Contains(t, points, "error.type=aborted otel.metric.overflow=true = 100")
	for status = 200; status < 600; status++ {
		run(2000 + status)
	}
	points = b.points(t, "http.server.request.duration")
	require.LessOrEqual(t, len(points), limit)
	total := 0
	for _, p := range points {
		var n int
		fmt.Sscan(p[strings.LastIndexByte(p, '=')+1:], &n)
		total += n
	}
	require.Equal(t, 600, total, "no request goes uncounted")
	require.LessOrEqual(t, b.Stats().Series, limit+1, "the client's side has its overflow series")
}

// Many at once make one series of a key, not one each, whatever the order.
func TestSeriesAreMadeOnce(t *testing.T) {
	for range 50 {
		b := newBench(t, telemetry.Config{MaxSeries: 16, TracerProvider: noop.NewTracerProvider()})
		h := b.Middleware(http.NotFoundHandler())
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				<-start
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
			})
		}
		close(start)
		wg.Wait()
		require.Equal(t, 3, b.Stats().Series, "this one and the overflow of each side")
	}
}

// Events differ by each key, kind and value, also where their hashes are alike.
func TestObserverTellsEventsApart(t *testing.T) {
	b := newBench(t, telemetry.Config{MaxSeries: 64})
	observe := telemetry.Observer[loose](b.Telemetry, "")
	event := func(attrs ...slog.Attr) {
		observe(context.Background(), loose{slog.GroupValue(append([]slog.Attr{slog.String("event", "e")},
			attrs...)...)})
	}
	for range 50 { // the second round finds what the first one made
		event(slog.String("a", "x"))
		event(slog.String("b", "x")) // the same hash as above: it is over values
		event(slog.Bool("a", true))
		event(slog.Bool("a", false))
		event(slog.Bool("a", true), slog.Bool("b", false))
		event(slog.Bool("a", false), slog.Bool("b", true))
		event(slog.String("a", ""))
		event()
		event(slog.Duration("a", time.Second)) // likewise
		event(slog.Duration("b", time.Second))
	}
	require.ElementsMatch(t, []string{
		"a=x = 50", "b=x = 50", "a=true = 50", "a=false = 50", "a=true b=false = 50", "a=false b=true = 50",
		"a= = 50", " = 150",
	}, b.points(t, "trivet.telemetry.e"))
	require.Equal(t, []string{" = 50"}, b.points(t, "trivet.telemetry.e.a"))
	require.Equal(t, []string{" = 50"}, b.points(t, "trivet.telemetry.e.b"))
	require.Zero(t, b.Stats().Overflowed, "no series is made twice")
}

// Words are few by contract. Where they are not, they end at the bound like everything else.
func TestObserverWordsAreBounded(t *testing.T) {
	b := newBench(t, telemetry.Config{MaxSeries: 16})
	observe := telemetry.Observer[loose](b.Telemetry, "")
	for i := range 1000 {
		observe(context.Background(), loose{slog.GroupValue(slog.String("event", fmt.Sprint("word", i)))})
	}
	require.LessOrEqual(t, len(b.metrics(t)), 16)
}

// Reading a snapshot of series while others are made is no race (run it with -race).
func TestObserverIsConcurrent(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	observe := telemetry.Observer[decision](b.Telemetry, "x")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				observe(context.Background(), decision{Policy: fmt.Sprint(g * i % 50), Allowed: true})
			}
		})
	}
	wg.Wait()
	require.Len(t, b.points(t, "trivet.telemetry.decision"), 50-missing())
}

// missing is how many of 0..49 are no g*i%50 for g < 4.
func missing() int {
	seen := map[int]bool{}
	for g := range 4 {
		for i := range 200 {
			seen[g*i%50] = true
		}
	}
	return 50 - len(seen)
}

// A query of any length makes a line of bounded length.
func TestAccessLogLineIsBounded(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{RequestHeaders: []string{"X-A"}})
	b := newBench(t, telemetry.Config{AccessLog: l, TracerProvider: noop.NewTracerProvider()})
	observe := telemetry.Observer[loose](b.Telemetry, "")
	long := strings.Repeat("\n", 1<<20)
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path, r.URL.RawQuery, r.Host = "/"+long, strings.Repeat("a=b&", 1<<18), long
	r.Header["X-A"], r.Header["User-Agent"] = []string{long}, []string{long}
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 10_000 {
			observe(r.Context(), loose{slog.GroupValue(slog.String("event", fmt.Sprint("word", i)),
				slog.GroupAttrs("detail", slog.Any("error", errors.New(long))))})
		}
	})), r)
	require.Less(t, len(out.b.String()), 512<<10)
	require.Len(t, out.all(t)[0]["telemetry"], 32)
	require.Less(t, len(out.all(t)[0]["url.query"].(string)), 1100)
}

// A stream whose first byte came soon is not slow, however long it was.
func TestStreamsAreNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out := logTo(t, telemetry.AccessLogConfig{SampleEvery: -1})
		b := newBench(t, telemetry.Config{AccessLog: l})
		h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/late" {
				time.Sleep(time.Minute)
			}
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			time.Sleep(time.Hour)
			w.(http.Flusher).Flush()
		}))
		serve(h, httptest.NewRequest("GET", "/", nil))
		require.Empty(t, out.all(t))
		serve(h, httptest.NewRequest("GET", "/late", nil))
		require.Len(t, out.all(t), 1, "its first byte was")
	})
}

// A minute's place is used again after three days: by then it is empty.
func TestSLOForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSLO(t, telemetry.SLOConfig{Name: "a", Availability: 0.99, Latency: time.Second,
			LatencyTarget: 0.9, MinEvents: 1})
		h := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{s},
			TracerProvider: noop.NewTracerProvider()}).Middleware(trafficMux())
		traffic(h, 10, "/500")
		traffic(h, 3, "/sleep/2s")
		time.Sleep((72*60+1)*time.Minute - 6*time.Second) // the ring is round: the same place again
		traffic(h, 1, "/ok")
		for _, b := range s.Burn() {
			require.EqualValues(t, 1, b.Total, "%+v", b)
			require.Zero(t, b.Bad)
		}
		// A window's end is where it says, to the minute.
		traffic(h, 1, "/500")
		time.Sleep(58 * time.Minute)
		require.EqualValues(t, 1, find(t, s.Burn(), telemetry.Availability, time.Hour).Bad)
		time.Sleep(2 * time.Minute)
		require.Zero(t, find(t, s.Burn(), telemetry.Availability, time.Hour).Bad)
		require.EqualValues(t, 1, find(t, s.Burn(), telemetry.Availability, 6*time.Hour).Bad)
	})
}

// The pairs are those of the Site Reliability Workbook, chapter 5, table 5-8: each fires just above
// its factor.
func TestBurnPairs(t *testing.T) {
	s := newSLO(t, telemetry.SLOConfig{Name: "a", Availability: 0.999})
	var got []string
	for _, b := range s.Burn() {
		got = append(got, fmt.Sprint(b.Severity, " ", b.Long, " ", b.Short, " ", b.Factor))
	}
	require.Equal(t, []string{"page 1h0m0s 5m0s 14.4", "page 6h0m0s 30m0s 6", "ticket 24h0m0s 2h0m0s 3",
		"ticket 72h0m0s 6h0m0s 1"}, got)
}

// A first attempt to send the header that came to nothing leaves no second line of timings.
func TestServerTimingOnce(t *testing.T) {
	b := newBench(t, telemetry.Config{ServerTiming: true})
	w := serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, iotest.ErrReader(errors.New("no source")))
		telemetry.Measure(r.Context(), "fallback")()
		w.WriteHeader(502)
	})), httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 502, w.Code)
	require.Len(t, w.Header().Values("Server-Timing"), 1)
	require.Contains(t, w.Header().Get("Server-Timing"), "fallback;dur=")
}

// TestWrappedTwice: a request that passes one Telemetry twice is one request, however it is wrapped
// between; a request of its own is another.
func TestWrappedTwice(t *testing.T) {
	b := newBench(t, telemetry.Config{RequestID: "X-Request-Id"})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /a/{x}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(202) })
	inner := b.Middleware(mux)
	between := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(response.NewRecorder(w, r), r.WithContext(context.WithValue(r.Context(), t, 1)))
	})
	w := serve(b.Middleware(b.Middleware(between)), httptest.NewRequest("GET", "/a/1", nil))
	require.Equal(t, 202, w.Code)
	require.Len(t, w.Header()["X-Request-Id"], 1)
	require.EqualValues(t, 1, b.Stats().Requests)
	require.Len(t, b.spans.Ended(), 1)
	require.Zero(t, b.Stats().InFlight)

	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve(b.Middleware(mux), r.WithContext(r.Context())) // with an answer of its own
	})), httptest.NewRequest("GET", "/a/1", nil))
	require.EqualValues(t, 3, b.Stats().Requests)
	other := newBench(t, telemetry.Config{})
	serve(b.Middleware(other.Middleware(mux)), httptest.NewRequest("GET", "/a/1", nil))
	require.EqualValues(t, 4, b.Stats().Requests)
	require.EqualValues(t, 1, other.Stats().Requests)
}

type oneStats struct{ N uint64 }

// TestRegisterTwice: two Stats of one type and name would be one set of metrics.
func TestRegisterTwice(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	stats := func() oneStats { return oneStats{1} }
	unregister, err := telemetry.Register(b.Telemetry, "a", stats)
	require.NoError(t, err)
	_, err = telemetry.Register(b.Telemetry, "a", stats)
	require.ErrorContains(t, err, `oneStats is registered with the name "a" already`)
	_, err = telemetry.Register(b.Telemetry, "b", stats)
	require.NoError(t, err)
	_, err = telemetry.Register(b.Telemetry, "a", b.Telemetry.Stats)
	require.NoError(t, err, "another type")
	require.NoError(t, unregister())
	_, err = telemetry.Register(b.Telemetry, "a", stats)
	require.NoError(t, err)
}
