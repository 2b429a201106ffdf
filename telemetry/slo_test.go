package telemetry_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/internal/program"
	"github.com/trivet-go/trivet/telemetry"
)

func newSLO(t testing.TB, cfg telemetry.SLOConfig) *telemetry.SLO {
	s, err := telemetry.NewSLO(cfg)
	require.NoError(t, err)
	return s
}

// traffic sends requests that the path describes: "/500", "/panic", "/sleep/300ms".
func traffic(h http.Handler, n int, path string) {
	for range n {
		func() {
			defer func() { _ = recover() }()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
		}()
	}
}

func trafficMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/404", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	mux.HandleFunc("/500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("boom") })
	mux.HandleFunc("/sleep/{d}", func(_ http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.PathValue("d"))
		time.Sleep(d)
	})
	return mux
}

func find(t testing.TB, burns []telemetry.Burn, objective telemetry.Objective,
	long time.Duration) telemetry.Burn {
	for _, b := range burns {
		if b.Objective == objective && b.Long == long {
			return b
		}
	}
	t.Fatalf("no %s over %v", objective, long)
	return telemetry.Burn{}
}

func TestBurnRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSLO(t, telemetry.SLOConfig{Name: "all", Availability: 0.99, MinEvents: 5})
		b := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{s},
			TracerProvider: noop.NewTracerProvider()})
		h := b.Middleware(trafficMux())

		// One hour of 1 % errors burns at rate 1: nothing fires but what fires above 1.
		for range 60 {
			traffic(h, 99, "/ok")
			traffic(h, 1, "/500")
			time.Sleep(time.Minute)
		}
		hour := find(t, s.Burn(), telemetry.Availability, time.Hour)
		require.InDelta(t, 1.0, hour.LongRate, 0.05)
		require.InDelta(t, 1.0, hour.ShortRate, 0.3)
		for _, b := range s.Burn() {
			require.False(t, b.Firing, "%+v", b)
		}

		// An outage in which half of the requests fail: the page comes when the hour holds 14.4 %
		// failures, and ends with the outage, while the long window still remembers.
		fired := -1
		for i := range 20 {
			traffic(h, 50, "/ok")
			traffic(h, 25, "/500")
			traffic(h, 25, "/panic")
			time.Sleep(time.Minute)
			if fired < 0 && find(t, s.Burn(), telemetry.Availability, time.Hour).Firing {
				fired = i + 1
			}
		}
		require.InDelta(t, 17, fired, 1)
		for range 10 {
			traffic(h, 100, "/ok")
			time.Sleep(time.Minute)
		}
		hour = find(t, s.Burn(), telemetry.Availability, time.Hour)
		require.False(t, hour.Firing)
		require.Greater(t, hour.LongRate, 14.4)
		require.Less(t, hour.ShortRate, 0.1)

		// Three days later all is forgotten.
		time.Sleep(73 * time.Hour)
		for _, b := range s.Burn() {
			require.Zero(t, b.Total)
		}
		require.EqualValues(t, 60+1000, s.Stats().Failures)
	})
}

func TestBurnNeedsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSLO(t, telemetry.SLOConfig{Name: "quiet", Availability: 0.999, MinEvents: 3})
		b := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{s},
			TracerProvider: noop.NewTracerProvider()})
		h := b.Middleware(trafficMux())
		traffic(h, 3, "/ok")
		traffic(h, 2, "/500")
		burn := find(t, s.Burn(), telemetry.Availability, time.Hour)
		require.Greater(t, burn.LongRate, 100.0)
		require.False(t, burn.Firing, "two failures at night are no page")
		traffic(h, 1, "/500")
		require.True(t, find(t, s.Burn(), telemetry.Availability, time.Hour).Firing)
		require.True(t, s.Stats().Firing["availability page"])
		require.InDelta(t, 500.0, s.Stats().BurnRate["availability 1h"], 0.1)
		require.Contains(t, s.Stats().BurnRate, "availability 3d")
	})
}

func TestObjectives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSLO(t, telemetry.SLOConfig{Name: "x", Routes: []string{"/ok", "/404", "/500", "/panic",
			"/sleep/{d}"}, Availability: 0.9, Latency: 300 * time.Millisecond, LatencyTarget: 0.9})
		b := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{s},
			TracerProvider: noop.NewTracerProvider()})
		h := b.Middleware(trafficMux())
		traffic(h, 4, "/ok")
		traffic(h, 3, "/404") // the client's fault
		traffic(h, 2, "/500")
		traffic(h, 1, "/panic")
		traffic(h, 2, "/sleep/300ms")
		traffic(h, 5, "/sleep/301ms")
		traffic(h, 7, "/elsewhere")
		st := s.Stats()
		require.Equal(t, []uint64{17, 3, 14, 5}, []uint64{st.Requests, st.Failures, st.Timed, st.Slow})
		require.Len(t, s.Burn(), 2*3, "14.4 times 10 %% is more than all requests: that pair can never fire")

		// The threshold is a boundary of the histogram, so Prometheus counts the same.
		var slow uint64
		m := b.metrics(t)["http.server.request.duration"]
		for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
			if _, failed := p.Attributes.Value("error.type"); failed {
				continue
			}
			at := -1
			for i, bound := range p.Bounds {
				if bound == 0.3 {
					at = i
				}
			}
			require.GreaterOrEqual(t, at, 0)
			for _, n := range p.BucketCounts[at+1:] {
				slow += n
			}
		}
		require.Equal(t, st.Slow, slow)
	})
}

func TestNewSLONamesEveryFault(t *testing.T) {
	_, err := telemetry.NewSLO(telemetry.SLOConfig{Name: `<script>"`, Availability: 99.9, Latency: -1,
		LatencyTarget: 1, MinEvents: -1})
	for _, want := range []string{"Name: ", "Availability: 99.9", "LatencyTarget: 1 ",
		"Latency: -1ns is negative", "MinEvents: -1"} {
		require.ErrorContains(t, err, want)
	}
	_, err = telemetry.NewSLO(telemetry.SLOConfig{Name: "a", Latency: 1})
	require.ErrorContains(t, err, "need each other")
	_, err = telemetry.NewSLO(telemetry.SLOConfig{Name: "a"})
	require.ErrorContains(t, err, "no objective")
}

func writeRules(t *testing.T, s *telemetry.SLO) (dir string) {
	var b bytes.Buffer
	require.NoError(t, s.WriteRules(&b))
	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yml"), b.Bytes(), 0o600))
	return dir
}

func TestRulesAreAccepted(t *testing.T) {
	tool := program.Path(t, "promtool")
	for _, cfg := range []telemetry.SLOConfig{
		{Name: "a", Availability: 0.999},
		{Name: "b", Latency: time.Second, LatencyTarget: 0.5},
		{Name: "c", Availability: 0.9, Latency: 1500 * time.Microsecond, LatencyTarget: 0.99,
			Selector: `job="gateway"`,
			Routes:   []string{"/users/{id}", `/files/{path...}`, `/a.b|c"d\e`}},
	} {
		out, err := exec.Command(tool, "check", "rules",
			filepath.Join(writeRules(t, newSLO(t, cfg)), "rules.yml")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "SUCCESS")
	}
}

// The rules do what Burn does: an outage fires both pages, a quiet service with
// one failure fires none, and a slow one fires the latency alert.
func TestRulesFire(t *testing.T) {
	tool := program.Path(t, "promtool")
	s := newSLO(t, telemetry.SLOConfig{Name: "web", Availability: 0.99, Latency: time.Second,
		LatencyTarget: 0.99, Routes: []string{"/users/{id}"}})
	dir := writeRules(t, s)
	series := func(part, labels, values string) string {
		return fmt.Sprintf("      - {series: 'http_server_request_duration_seconds_%s{"+
			`http_route="/users/{id}",http_request_method="GET",%s}', values: '%s'}`+"\n", part, labels,
			values)
	}
	const ok, failed = `http_response_status_code="200"`, `http_response_status_code="500",error_type="500"`
	availability := firing("availability", "1h", "page", "14.4") + firing("availability", "6h", "page", "6") +
		firing("availability", "1d", "ticket", "3") + firing("availability", "3d", "ticket", "1")
	latency := firing("latency", "6h", "page", "6") +
		firing("latency", "1d", "ticket", "3") + firing("latency", "3d", "ticket", "1")
	unit := `
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - name: outage
    interval: 1m
    input_series:
` + series("count", ok, "0+80x120") +
		series("bucket", `le="1",`+ok, "0+80x120") +
		series("count", failed, "0+10x120") +
		series("count", `error_type="panic"`, "0+4x120") +
		series("count", `error_type="aborted"`, "0+3x120") +
		series("count", `error_type="timeout"`, "0+3x120") +
		series("count", `error_type="canceled"`, "0+10x120") + `
    alert_rule_test:
      - eval_time: 90m
        alertname: SLOBudgetBurn
        exp_alerts:
` + availability + latency + `
  - name: one failure in a quiet hour
    interval: 1m
    input_series:
` + series("count", ok, "0+0x120") +
		series("count", failed, "0+0x60 1+0x60") + `
    alert_rule_test:
      - {eval_time: 62m, alertname: SLOBudgetBurn, exp_alerts: []}
  - name: slow
    interval: 1m
    input_series:
` + series("count", ok, "0+100x120") +
		series("bucket", `le="1.0",`+ok, "0+80x120") + `
    alert_rule_test:
      - eval_time: 90m
        alertname: SLOBudgetBurn
        exp_alerts:
` + firing("latency", "1h", "page", "14.4") + latency
	require.NoError(t, os.WriteFile(filepath.Join(dir, "unit.yml"), []byte(unit), 0o600))
	cmd := exec.Command(tool, "test", "rules", "unit.yml")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func firing(objective, window, severity, factor string) string {
	return fmt.Sprintf("          - {exp_labels: {slo: web, objective: %s, severity: %s, window: %s}, "+
		"exp_annotations: {summary: 'web: the %s budget burns more than %s times too fast over %s'}}\n",
		objective, severity, window, objective, factor, window)
}

func TestRulesNameOnlyWhatIsEmitted(t *testing.T) {
	var b strings.Builder
	require.NoError(t, newSLO(t, telemetry.SLOConfig{Name: "a", Availability: 0.999, Latency: time.Second,
		LatencyTarget: 0.99}).WriteRules(&b))
	between := func(r rune) bool {
		return !(r == '_' || r == ':' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9')
	}
	for _, word := range strings.FieldsFunc(b.String(), between) {
		if strings.HasPrefix(word, "http_server_") {
			require.Contains(t, []string{"http_server_request_duration_seconds_count",
				"http_server_request_duration_seconds_bucket"}, word)
		}
	}
}

// And they fire for each kind of failure, and do not where they must not: below the threshold, once
// an outage is over, by a counter that a restart reset, by clients' errors, by other routes, by
// other jobs.
func TestRulesFireForFailuresOnly(t *testing.T) {
	tool := program.Path(t, "promtool")
	s := newSLO(t, telemetry.SLOConfig{Name: "web", Availability: 0.99, Latency: time.Second,
		LatencyTarget: 0.99, Routes: []string{"/users/{id}"}, Selector: `job="a"`})
	dir := writeRules(t, s)
	const count, bucket = "http_server_request_duration_seconds_count",
		"http_server_request_duration_seconds_bucket"
	series := func(name, labels, values string) string {
		return fmt.Sprintf("      - {series: '%s{job=\"a\",http_route=\"/users/{id}\",%s}', values: '%s'}\n",
			name, labels, values)
	}
	// good requests, all of them fast
	good := func(values string) string {
		return series(count, `http_response_status_code="200"`, values) +
			series(bucket, `le="1",http_response_status_code="200"`, values)
	}
	failed := func(values string) string {
		return series(count, `http_response_status_code="500",error_type="500"`, values)
	}
	check := func(at string, alerts ...string) string {
		if len(alerts) == 0 {
			return "      - {eval_time: " + at + ", alertname: SLOBudgetBurn, exp_alerts: []}\n"
		}
		return "      - eval_time: " + at + "\n        alertname: SLOBudgetBurn\n        exp_alerts:\n" +
			strings.Join(alerts, "")
	}
	tickets := []string{firing("availability", "1d", "ticket", "3"),
		firing("availability", "3d", "ticket", "1")}
	all := check("90m", firing("availability", "1h", "page", "14.4"),
		firing("availability", "6h", "page", "6"), tickets[0], tickets[1])
	tests := []struct{ name, series, checks string }{
		// 0.9 % of errors is within a budget of 1 %.
		{"within the budget", good("0+991x240"), ""},
		{"0.9 % of errors", good("0+991x240") + failed("0+9x240"), check("4h")},
		// 2 % over four hours burns twice as fast as it should: a ticket of the slow pair, no page.
		{"2 % of errors", good("0+980x240") + failed("0+20x240"), check("4h", tickets[1])},
		// Half of all for 20 minutes, and then nothing for 40: the pages end with the short
		// windows.
		{"an outage and its end", good("0+50x20 1050+100x220") + failed("0+50x20 1000+0x220"),
			check("20m", firing("availability", "1h", "page", "14.4"),
				firing("availability", "6h", "page", "6"), tickets[0], tickets[1]) +
				check("30m", firing("availability", "6h", "page", "6"), tickets[0], tickets[1]) +
				check("1h", tickets...)},
		// A restart sets counters back: that is no burst of negative or of huge numbers.
		{"restart", good("0+1000x60 0+1000x60") + failed("500+1x60 0+1x60"), check("90m")},
		{"errors of clients", series(count, `http_response_status_code="404"`, "0+100x120") +
			series(bucket, `le="1",http_response_status_code="404"`, "0+100x120"), check("90m")},
		{"clients that left", good("0+10x120") + series(count, `error_type="canceled"`, "0+100x120") +
			series(bucket, `le="1",error_type="canceled"`, "0+100x120"), check("90m")},
		{"another route, another job", good("0+10x120") +
			"      - {series: '" + count + "{job=\"a\",http_route=\"/other\",error_type=\"500\"}', values: " +
			"'0+100x120'}\n" +
			"      - {series: '" + count + "{job=\"b\",http_route=\"/users/{id}\",error_type=\"500\"}', " +
			"values: '0+100x120'}\n", check("90m")},
		// Each kind of failure counts by itself, as it does in Burn.
		{"panics", good("0+50x120") + series(count, `error_type="panic"`, "0+50x120"), all},
		{"aborts", good("0+50x120") + series(count, `error_type="aborted"`, "0+50x120"), all},
		{"timeouts", good("0+50x120") + series(count, `error_type="timeout"`, "0+50x120"), all},
		// A status beyond 599 is a failure to Burn, and so it is here.
		{"odd status", good("0+50x120") + series(count, `http_response_status_code="777",error_type="777"`,
			"0+50x120"),
			all},
	}
	unit := "rule_files: [rules.yml]\nevaluation_interval: 5m\ntests:\n"
	for _, tt := range tests {
		if tt.checks == "" {
			tt.checks = check("2h")
		}
		unit += "  - name: " + tt.name + "\n    interval: 1m\n    input_series:\n" + tt.series +
			"    alert_rule_test:\n" + tt.checks
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "unit.yml"), []byte(unit), 0o600))
	cmd := exec.Command(tool, "test", "rules", "unit.yml")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
