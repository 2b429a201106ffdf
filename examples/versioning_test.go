package examples_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

func threeVersions(t *testing.T, cfg versioning.Config) *versioning.Versions {
	t.Helper()
	cfg.Versions = []versioning.Version{{Name: "1"}, {Name: "2"}, {Name: "3"}}
	cfg.Sources = []versioning.Source{versioning.Path("/v"), versioning.Query("version")}
	cfg.Changes = []versioning.Change{{
		Version: "3", Name: "x", Response: func(r *versioning.Response) error { return nil },
	}}
	v, err := versioning.New(cfg)
	require.NoError(t, err)
	return v
}

// V05: a limit counts the requests of all versions together, in front of Resolve and behind
// Convert, also where it counts by route.
func TestV05_OneLimitForAllVersions(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	limited := func(key ratelimit.KeyFunc) func(http.Handler) http.Handler {
		l, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{{
			Name: "p", Rate: ratelimit.PerDay(3).WithBurst(3), Key: key,
			Missing: ratelimit.MissingReject,
		}}})
		require.NoError(t, err)
		return l.Middleware
	}
	v := threeVersions(t, versioning.Config{})
	for name, h := range map[string]http.Handler{
		"outside":          limited(ratelimit.ByPeer)(v.Middleware(mux)),
		"inside":           v.Middleware(limited(ratelimit.ByPeer)(mux)),
		"inside, by route": v.Middleware(limited(ratelimit.ByPattern(mux))(mux)),
	} {
		admitted := 0
		for i := range 12 {
			target := fmt.Sprintf("/v%d/users/7", i%3+1)
			if i%2 == 0 {
				target = fmt.Sprintf("/users/7?version=%d", i%3+1)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
			if w.Code == 200 {
				admitted++
			} else {
				require.Equal(t, 429, w.Code)
			}
		}
		require.Equal(t, 3, admitted, name)
	}
}

// The routes of telemetry are those of the handler, one for all versions, and the events of
// versioning are counted by version.
func TestTelemetryOfVersions(t *testing.T) {
	reader := metric.NewManualReader()
	tel, err := telemetry.New(telemetry.Config{
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	})
	require.NoError(t, err)
	v := threeVersions(t, versioning.Config{Observe: telemetry.Observer[versioning.Event](tel, "versions")})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})
	h := tel.Middleware(v.Middleware(mux))
	for _, version := range []string{"1", "2", "3", "3", "9"} {
		target := "/v" + version + "/users/7"
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", target, nil))
	}
	var rm metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &rm))
	requests, routes := map[string]int64{}, map[string]uint64{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			require.Equal(t, "trivet.versioning.request", m.Name)
			for _, p := range data.DataPoints {
				version, _ := p.Attributes.Value("version")
				status, _ := p.Attributes.Value("status")
				requests[version.AsString()+" "+status.AsString()] += p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				route, _ := p.Attributes.Value("http.route")
				routes[route.AsString()] += p.Count
			}
		}
	}
	require.Equal(t, map[string]int64{
		"1 active": 1, "2 active": 1, "3 active": 2, " unsupported": 1,
	}, requests)
	require.Equal(t, map[string]uint64{"/users/{id}": 4, "": 1}, routes)
}

// TestL21_NoClientTakesTheMarkOffACopy: what Connection nominates ends before the mark is set, so
// that the proxy to the candidate does not take the mark for one of those fields.
func TestL21_NoClientTakesTheMarkOffACopy(t *testing.T) {
	got := make(chan http.Header, 1)
	candidate := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- r.Header
	}))
	defer candidate.Close()
	b, err := balancer.New(balancer.Config{Resolver: balancer.DNS(balancer.DNSConfig{})})
	require.NoError(t, err)
	defer b.Close(t.Context())
	target, err := url.Parse(candidate.URL)
	require.NoError(t, err)
	proxy, err := b.Handler(target, balancer.HandlerConfig{})
	require.NoError(t, err)
	shadow, err := versioning.NewShadow(versioning.ShadowConfig{
		Name: "s", Candidate: proxy, Credentials: versioning.CredentialsStrip, Learn: -1,
	})
	require.NoError(t, err)
	defer shadow.Close(context.Background())
	s := httptest.NewServer(shadow.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer s.Close()
	for _, nominated := range []string{
		versioning.ShadowField, "trivet-shadow, x-own", "close, X-Own,trivet-Shadow ",
	} {
		req, err := http.NewRequest("GET", s.URL, nil)
		require.NoError(t, err)
		req.Header.Set("Connection", nominated)
		req.Header.Set("X-Other", "other")
		resp, err := s.Client().Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		h := <-got
		require.Equal(t, []string{"1"}, h[versioning.ShadowField], "Connection: %s", nominated)
		require.Equal(t, "other", h.Get("X-Other"))
	}
}
