package telemetry_test

import (
	"context"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/telemetry/health"
)

// The package comment lists the metrics of this package: those and no others come out.
func TestDocListsTheMetrics(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	require.NoError(t, err)
	_, text, found := strings.Cut(f.Doc.Text(), "This package's own, by Register(tel, \"\", x.Stats):")
	require.True(t, found)
	table, _, found := strings.Cut(text, "In Prometheus")
	require.True(t, found)
	listed := map[string]bool{}
	prefix := ""
	for _, word := range strings.Fields(table) {
		word, _, _ = strings.Cut(word, "{")
		switch {
		case strings.HasPrefix(word, "trivet."):
			listed[word] = true
			prefix = word[:strings.LastIndexByte(word, '.')]
		case strings.HasPrefix(word, "."):
			listed[prefix+word] = true
		}
	}

	slo := newSLO(t, telemetry.SLOConfig{Name: "web", Availability: 0.999})
	b := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{slo}})
	probes, err := health.New(health.Config{Checks: []health.CheckConfig{
		{Name: "a", Func: func(context.Context) error { return nil }},
	}})
	require.NoError(t, err)
	for _, register := range []func() (func() error, error){
		func() (func() error, error) { return telemetry.Register(b.Telemetry, "", b.Stats) },
		func() (func() error, error) { return telemetry.Register(b.Telemetry, "", slo.Stats) },
		func() (func() error, error) { return telemetry.Register(b.Telemetry, "", probes.Stats) },
	} {
		_, err := register()
		require.NoError(t, err)
	}
	emitted := map[string]bool{}
	for name := range b.metrics(t) {
		emitted[name] = true
	}
	require.Equal(t, emitted, listed)

	// And the HTTP metrics above.
	b = newBench(t, telemetry.Config{ActiveRequests: true, BodySizes: true})
	serve(b.Middleware(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil))
	_, err = b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})).
		RoundTrip(httptest.NewRequest("GET", "http://api.test/", nil))
	require.NoError(t, err)
	var names []string
	for name := range b.metrics(t) {
		names = append(names, name)
	}
	var want []string
	for _, side := range []string{"server", "client"} {
		want = append(want, "http."+side+".request.duration", "http."+side+".active_requests",
			"http."+side+".request.body.size", "http."+side+".response.body.size")
	}
	require.ElementsMatch(t, want, names)

	// The classes of error.type, too.
	for _, class := range regexp.MustCompile(`err\w+\s+= "(\w+)"`).FindAllStringSubmatch(
		source(t, "semconv.go"), -1) {
		require.Contains(t, f.Doc.Text(), class[1])
	}
}

func source(t *testing.T, name string) string {
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}
