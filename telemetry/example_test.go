package telemetry_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func Example() {
	reader := metric.NewManualReader() // a program has an exporter instead
	tel, err := telemetry.New(telemetry.Config{
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, user %s", r.PathValue("id"))
	})
	handler := tel.Middleware(mux)

	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, httptest.NewRequest("GET", "/users/7", nil))
	fmt.Println(rec.Body)

	var rm metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &rm); err != nil {
		log.Fatal(err)
	}
	m := rm.ScopeMetrics[0].Metrics[0]
	point := m.Data.(metricdata.Histogram[float64]).DataPoints[0]
	route, _ := point.Attributes.Value("http.route")
	fmt.Println(m.Name, route.AsString(), point.Count)
	// Output:
	// hello, user 7
	// http.server.request.duration /users/{id} 1
}

func ExampleTelemetry_Transport() {
	tel, err := telemetry.New(telemetry.Config{})
	if err != nil {
		log.Fatal(err)
	}
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	client := &http.Client{Transport: tel.Transport(srv.Client().Transport)}
	resp, err := client.Get(srv.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output: 404
}

func ExampleNewAccessLog() {
	var line strings.Builder
	accessLog, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: slog.NewTextHandler(&line, nil),
	})
	if err != nil {
		log.Fatal(err)
	}
	tel, err := telemetry.New(telemetry.Config{AccessLog: accessLog, Query: []string{"page"}})
	if err != nil {
		log.Fatal(err)
	}
	handler := tel.Middleware(http.NotFoundHandler())
	r := httptest.NewRequest("GET", "/users?page=2&token=s3cr3t", nil)
	handler.ServeHTTP(httptest.NewRecorder(), r)
	for field := range strings.FieldsSeq(line.String()) {
		if key, _, _ := strings.Cut(field, "="); key != "time" && key != "duration" {
			fmt.Println(field)
		}
	}
	// Output:
	// level=INFO
	// msg=request
	// http.request.method=GET
	// url.path=/users
	// url.query="page=2&token=REDACTED"
	// http.response.status_code=404
	// http.response.body.size=19
	// server.address=example.com
	// network.protocol.version=1.1
	// client.address=192.0.2.0/24
}

// lookup stands for an event of another package, such as balancer.Event.
type lookup struct{ Result string }

func (e lookup) LogValue() slog.Value {
	return slog.GroupValue(slog.String("event", "lookup"), slog.String("result", e.Result))
}

func ExampleObserver() {
	var line bytes.Buffer
	accessLog, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: slog.NewJSONHandler(&line, nil),
	})
	if err != nil {
		log.Fatal(err)
	}
	tel, err := telemetry.New(telemetry.Config{AccessLog: accessLog})
	if err != nil {
		log.Fatal(err)
	}
	observe := telemetry.Observer[lookup](tel, "pages") // the Observe field of a Config
	handler := tel.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe(r.Context(), lookup{"hit"})
	}))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	_, fields, _ := strings.Cut(line.String(), `"pages":`)
	fmt.Print(fields)
	// Output: {"lookup":{"result":"hit"}}}
}

func ExampleRegister() {
	tel, err := telemetry.New(telemetry.Config{})
	if err != nil {
		log.Fatal(err)
	}
	unregister, err := telemetry.Register(tel, "", tel.Stats) // and the Stats of other packages
	if err != nil {
		log.Fatal(err)
	}
	defer unregister()
	// Output:
}

func ExampleRoute() {
	tel, err := telemetry.New(telemetry.Config{})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	authenticate := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			type user struct{}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), user{}, "bob")))
		})
	}
	handler := tel.Middleware(authenticate(telemetry.Route(mux)))
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, httptest.NewRequest("GET", "/users/7", nil))
	fmt.Println(rec.Code)
	// Output: 200
}

// Without Route between, the copy that authenticate makes takes the pattern with it: the
// series and the span have no http.route.
func ExampleRoute_incorrect() {
	tel, err := telemetry.New(telemetry.Config{})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	authenticate := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
		})
	}
	_ = tel.Middleware(authenticate(mux)) // telemetry.Route(mux) is missing
	// Output:
}

func ExampleNewSLO() {
	slo, err := telemetry.NewSLO(telemetry.SLOConfig{
		Name:          "checkout",
		Routes:        []string{"/checkout"},
		Availability:  0.999,
		Latency:       300 * time.Millisecond,
		LatencyTarget: 0.99,
		MinEvents:     1,
	})
	if err != nil {
		log.Fatal(err)
	}
	tel, err := telemetry.New(telemetry.Config{SLOs: []*telemetry.SLO{slo}})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /checkout", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	})
	tel.Middleware(mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/checkout", nil))
	for _, b := range slo.Burn() {
		if b.Firing {
			fmt.Printf("%s: %s burns %.0f times too fast over %v\n",
				b.Severity, b.Objective, b.LongRate, b.Long)
		}
	}
	// Output:
	// page: availability burns 1000 times too fast over 1h0m0s
	// page: availability burns 1000 times too fast over 6h0m0s
	// ticket: availability burns 1000 times too fast over 24h0m0s
	// ticket: availability burns 1000 times too fast over 72h0m0s
}

func ExampleMeasure() {
	tel, err := telemetry.New(telemetry.Config{ServerTiming: true})
	if err != nil {
		log.Fatal(err)
	}
	handler := tel.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		end := telemetry.Measure(r.Context(), "db")
		// query the database
		end()
		fmt.Fprint(w, "done")
	}))
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	fmt.Println(strings.Contains(rec.Header().Get("Server-Timing"), "db;dur="))
	// Output: true
}
