package telemetry_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/telemetry"
)

// flooded returns a bench whose server has routes /0 to /9, and do, which has one of them, or
// another, answer with a status. Strangers have made requests to route /0 with all methods,
// protocols and names that there are, and got all statuses up to last.
func flooded(t *testing.T, maxSeries, last int) (b *bench, do func(route string, status int)) {
	t.Helper()
	methods := make([]string, min(maxSeries/4, 150))
	for i := range methods {
		methods[i] = fmt.Sprint("M", i)
	}
	b = newBench(t, telemetry.Config{
		MaxSeries: maxSeries, TracerProvider: noop.NewTracerProvider(),
		Methods: append(methods, "GET"), Hosts: []string{"a.test", "b.test"},
		RouteFunc: func(r *http.Request) string { return r.Header.Get("Route") },
	})
	status := 0
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
	}))
	one := func(route, method, host string, major int, answer int) {
		defer func() { _ = recover() }()
		status = answer
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.Host, r.ProtoMajor, r.ProtoMinor = method, host, major, 2-major
		r.Header.Set("Route", route)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	do = func(route string, status int) { one(route, "GET", "", 1, status) }
	for i := range 10 {
		do(fmt.Sprint("/", i), 200)
	}
	for answer := 200; answer <= last; answer++ {
		for _, method := range methods {
			for _, host := range []string{"a.test", "b.test"} {
				one("/0", method, host, 1+answer%2, answer)
			}
		}
	}
	return b, do
}

// TestO19_FailuresKeepTheirRoute: however strangers have filled the bound, the first failure of a
// route is counted with it, also of a route that nobody has asked for before.
func TestO19_FailuresKeepTheirRoute(t *testing.T) {
	for _, tt := range []struct {
		maxSeries, last    int
		badGateway, aborts string
	}{
		{1000, 204, "error.type=502 http.response.status_code=502 ", "error.type=aborted "},
		{64, 300, "error.type=5xx ", "error.type=5xx "}, // no room for kinds of answers any more
	} {
		b, do := flooded(t, tt.maxSeries, tt.last)
		for i := 1; i < 8; i++ {
			do(fmt.Sprint("/", i), 502)
		}
		do("/7", 200)
		do("/8", 0) // aborts
		do("/new", 502)
		points := b.points(t, "http.server.request.duration")
		requirePoint := func(kind, route string) {
			t.Helper()
			point := kind + "http.route=" + route + " otel.metric.overflow=true = 1"
			require.True(t, slices.Contains(points, point), point)
		}
		for i := 1; i < 8; i++ {
			requirePoint(tt.badGateway, fmt.Sprint("/", i))
		}
		requirePoint(tt.badGateway, "/new")
		requirePoint(tt.aborts, "/8")
		require.LessOrEqual(t, len(points), tt.maxSeries)
	}
}

// TestO19_NothingIsGivenUpBeforeItMust: below the bound each series is whole.
func TestO19_NothingIsGivenUpBeforeItMust(t *testing.T) {
	b := newBench(t, telemetry.Config{
		MaxSeries: 64, RouteFunc: func(r *http.Request) string { return "/" },
	})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200 + int(r.URL.Path[1]-'0'))
	}))
	// 64, less two eighths, less the overflow series and two for the route.
	for i := range 45 {
		r := httptest.NewRequest("GET", fmt.Sprint("/", i%9), nil)
		r.Method = []string{"GET", "PUT", "POST", "HEAD", "DELETE"}[i/9]
		serve(h, r)
		require.Zero(t, b.Stats().Overflowed, "%d", i)
	}
	serve(h, httptest.NewRequest("OPTIONS", "/1", nil))
	require.EqualValues(t, 1, b.Stats().Overflowed)
}

// TestO19_FailuresOfHostsKeepTheirHost, on the client side.
func TestO19_FailuresOfHostsKeepTheirHost(t *testing.T) {
	b := newBench(t, telemetry.Config{MaxSeries: 64, TracerProvider: noop.NewTracerProvider()})
	status := 200
	rt := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Body: http.NoBody, ProtoMajor: 1, ProtoMinor: 1}, nil
	}))
	do := func(host string) {
		req, err := http.NewRequest("GET", "http://"+host+":81/", nil)
		require.NoError(t, err)
		_, err = rt.RoundTrip(req)
		require.NoError(t, err)
	}
	do("a.test")
	do("b.test")
	for status = 200; status < 400; status++ {
		do("b.test")
	}
	status = 503
	do("a.test")
	require.Contains(t, b.points(t, "http.client.request.duration"),
		"error.type=5xx otel.metric.overflow=true server.address=a.test server.port=81 = 1")
}
