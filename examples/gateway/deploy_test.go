package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/internal/program"
)

func TestRulesAreThoseOfTheCommentedConfiguration(t *testing.T) {
	path, err := binary()
	require.NoError(t, err)
	out, err := exec.Command(path, "-rules", "-config", "gateway.yaml").Output()
	require.NoError(t, err)
	written, err := os.ReadFile("deploy/slo.rules.yml")
	require.NoError(t, err)
	require.Equal(t, string(written), string(out), "write it anew with go run ./examples/gateway -rules "+
		"-config examples/gateway/gateway.yaml > examples/gateway/deploy/slo.rules.yml")
	promtool := program.Path(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "deploy/slo.rules.yml", "deploy/gateway.rules.yml"},
		{"check", "config", "deploy/prometheus.yml"},
	} {
		out, err := exec.Command(promtool, args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
}

// A promQuery is an expression of a dashboard or rule, and the labels that its legend or
// annotations name.
type promQuery struct {
	where, expr string
	labels      []string
	shows       bool // it must have a result; the expression of a rule may have none
}

var (
	legendLabel     = regexp.MustCompile(`{{\s*(\w+)\s*}}`)
	annotationLabel = regexp.MustCompile(`\$labels\.(\w+)`)
)

// deployed returns all expressions of the dashboard, the rules and keda.yaml.
func deployed(t *testing.T) (all []promQuery) {
	t.Helper()
	submatches := func(re *regexp.Regexp, text string) (names []string) {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		return names
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct{ List []struct{ Query string } }
	}
	text, err := os.ReadFile("deploy/dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &dashboard))
	fill := strings.NewReplacer("$__rate_interval", "1m", "$job", "gateway")
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			labels := submatches(legendLabel, target.LegendFormat)
			all = append(all, promQuery{p.Title, fill.Replace(target.Expr), labels, true})
		}
	}
	for _, v := range dashboard.Templating.List {
		if m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Query); m != nil {
			all = append(all, promQuery{"template", m[1], []string{m[2]}, true})
		}
	}
	for _, file := range []string{"deploy/gateway.rules.yml", "deploy/slo.rules.yml"} {
		var rules struct {
			Groups []struct {
				Rules []struct {
					Alert, Record, Expr string
					Annotations         map[string]string
				}
			}
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &rules))
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				labels := submatches(annotationLabel, fmt.Sprint(r.Annotations))
				all = append(all, promQuery{r.Alert + r.Record, r.Expr, labels, false})
			}
		}
	}
	var scaling struct {
		Spec struct {
			Triggers []struct{ Metadata struct{ Query string } }
		}
	}
	text, err = os.ReadFile("deploy/keda.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &scaling))
	require.NotEmpty(t, scaling.Spec.Triggers)
	for _, trigger := range scaling.Spec.Triggers {
		all = append(all, promQuery{"keda.yaml", trigger.Metadata.Query, nil, true})
	}
	require.Greater(t, len(all), 80)
	return all
}

// selectors returns the selectors of an expression, name{matchers}, and the labels that it groups
// by or matches on.
func selectors(t *testing.T, expr string) (series, labels []string) {
	t.Helper()
	word := regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	skip := regexp.MustCompile(`^(\[[^\]]*\]|[0-9][0-9.e]*|[-+*/<>=!(),\s])`)
	matchers := regexp.MustCompile(`^\{([^"{}]|"([^"\\]|\\.)*")*\}`)
	list := regexp.MustCompile(`^\s*\(([^)]*)\)`)
	for rest := expr; rest != ""; {
		name := word.FindString(rest)
		if name == "" {
			gone := skip.FindString(rest)
			require.NotEmpty(t, gone, "%q in %q", rest, expr)
			rest = rest[len(gone):]
			continue
		}
		rest = rest[len(name):]
		switch {
		case slices.Contains([]string{"by", "without", "on", "ignoring", "group_left", "group_right"}, name):
			m := list.FindStringSubmatch(rest)
			require.NotNil(t, m, expr)
			for l := range strings.SplitSeq(m[1], ",") {
				if l = strings.TrimSpace(l); l != "" {
					labels = append(labels, l)
				}
			}
			rest = rest[len(m[0]):]
		case slices.Contains([]string{"and", "or", "unless", "bool"}, name):
		case list.MatchString(rest), strings.HasPrefix(strings.TrimSpace(rest), "("): // a call
		case regexp.MustCompile(`^\s+(by|without)\b`).MatchString(rest): // an aggregation
		default:
			m := matchers.FindString(rest)
			series = append(series, name+m)
			rest = rest[len(m):]
		}
	}
	return series, labels
}

// A prometheusServer is a Prometheus that scrapes a gateway and evaluates its rules.
type prometheusServer struct {
	url    string
	client *http.Client
}

// startPrometheus runs a Prometheus with the files of deploy/ that scrapes the admin server at
// target.
func startPrometheus(t *testing.T, target string) *prometheusServer {
	t.Helper()
	path := program.Path(t, "prometheus")
	dir, addr := t.TempDir(), freeport.Reserve(t)
	// A scrape may take as long as the interval, which a busy machine needs.
	adapt := strings.NewReplacer("127.0.0.1:8081", target, "interval: 15s", "interval: 2s")
	for _, file := range []string{"slo.rules.yml", "gateway.rules.yml", "prometheus.yml"} {
		text, err := os.ReadFile("deploy/" + file)
		require.NoError(t, err)
		adapted := adapt.Replace(string(text))
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(adapted), 0o600))
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd := exec.Command(path,
		"--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	})
	p := &prometheusServer{"http://" + addr, client(t)}
	require.Eventually(t, func() bool {
		resp, err := p.client.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}, 30*time.Second, 20*time.Millisecond)
	return p
}

// api decodes the data of an answer into data.
func (p *prometheusServer) api(path string, form url.Values, data any) error {
	resp, err := p.client.Get(p.url + path + "?" + form.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", form, answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// check returns an error if q reads series or names labels that do not exist.
func (p *prometheusServer) check(t *testing.T, q promQuery) error {
	reads, labels := selectors(t, q.expr)
	if len(reads) == 0 {
		return fmt.Errorf("%s: reads nothing", q.where)
	}
	have := map[string]bool{}
	for _, s := range reads {
		var series []map[string]string
		if err := p.api("/api/v1/series", url.Values{"match[]": {s}}, &series); err != nil {
			return fmt.Errorf("%s: %w", q.where, err)
		}
		if len(series) == 0 {
			return fmt.Errorf("%s: no series is %s", q.where, s)
		}
		for _, one := range series {
			for name := range one {
				have[name] = true
			}
		}
	}
	var result struct {
		Result []struct{ Metric map[string]string }
	}
	if err := p.api("/api/v1/query", url.Values{"query": {q.expr}}, &result); err != nil {
		return fmt.Errorf("%s: %w", q.where, err)
	}
	if q.shows {
		if len(result.Result) == 0 {
			return fmt.Errorf("%s: %s shows nothing", q.where, q.expr)
		}
		have = map[string]bool{}
		for _, r := range result.Result {
			for name := range r.Metric {
				have[name] = true
			}
		}
	}
	for _, name := range append(labels, q.labels...) {
		// histogram_quantile consumes le.
		if !have[name] && !(name == "le" && strings.Contains(q.expr, "_bucket")) {
			return fmt.Errorf("%s: nothing has the label %q", q.where, name)
		}
	}
	return nil
}

// A gateway with the commented configuration emits every metric and label that the dashboard and
// the rules name.
func TestDashboardAndRulesNameWhatTheGatewayEmits(t *testing.T) {
	var app []*backend.Process
	for range 3 {
		app = append(app, backend.StartProcess(t, backend.Config{Name: "app"}))
	}
	users := backend.Start(t, backend.Config{Name: "users"})
	redis := program.Redis(t)
	text, err := os.ReadFile("gateway.yaml")
	require.NoError(t, err)
	config := string(text)
	for old, replacement := range map[string]string{
		"127.0.0.1:9001":                   app[0].Addr,
		"127.0.0.1:9002":                   app[1].Addr,
		"127.0.0.1:9003":                   app[2].Addr,
		"url: https://users.internal:8443": "hosts: [\"" + users.Addr + "\"]",
		"addr: 127.0.0.1:6379":             "addr: \"" + redis.Addr + "\"",
		"timeout: 25ms":                    "timeout: 1s",
		"rate: 50/s ":                      "rate: 1/h ", // which a slow machine exceeds, too
	} {
		require.Equal(t, 1, strings.Count(config, old), old)
		config = strings.ReplaceAll(config, old, replacement)
	}
	p, _ := launchWith(t, config)
	prom := startPrometheus(t, p.admin)

	c := client(t)
	drive := func(n int, host, path string) map[int]int {
		return statuses(t, c, "http://"+p.addr+path, n, func(_ int, r *http.Request) {
			r.Host = host
			r.Header.Set("X-Api-Key", "key")
		})
	}
	// One host is killed while so many requests are in flight that it is ejected.
	for _, a := range app {
		a.Set(backend.Behaviour{Delay: 500 * time.Millisecond})
	}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			resp, err := c.Get("http://" + p.addr)
			if err == nil {
				resp.Body.Close()
			}
		})
	}
	require.Eventually(t, func() bool { return app[0].Requests() > 5 }, time.Minute, time.Millisecond)
	app[0].Kill()
	p.await(t, p.stderr, "state=ejected")
	wg.Wait()
	app[1].Set(backend.Behaviour{})
	app[2].Set(backend.Behaviour{})
	require.NotZero(t, drive(400, "", "/")[429])
	require.Equal(t, map[int]int{200: 20}, drive(20, "api.example.com", "/users/1"))
	users.Set(backend.Behaviour{Status: 500})
	require.Equal(t, map[int]int{500: 3}, drive(3, "api.example.com", "/users/1"))
	users.Set(backend.Behaviour{})
	require.Equal(t, map[int]int{200: 5}, drive(5, "orders.example.com", "/v1/orders"))
	require.Equal(t, map[int]int{404: 5}, drive(5, "orders.example.com", "/v3/orders"))
	require.Equal(t, map[int]int{200: 5}, drive(5, "", "/static/a"))
	require.Equal(t, map[int]int{200: 20}, drive(20, "shop.example.com", "/"))
	redis.Kill()
	require.Equal(t, map[int]int{200: 5}, drive(5, "api.example.com", "/users/1"))

	// The only host of users fails until its breaker opens.
	users.Set(backend.Behaviour{Status: 500})
	require.Eventually(t, func() bool { return drive(5, "api.example.com", "/users/1")[503] > 0 },
		time.Minute, time.Millisecond)
	p.await(t, p.stderr, "msg=breaker upstream=users .*to=open")

	all := deployed(t)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for _, q := range all {
			assert.NoError(c, prom.check(t, q))
		}
	}, 2*time.Minute, 300*time.Millisecond)

	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	require.NoError(t, prom.api("/api/v1/rules", nil, &rules))
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			require.Equal(t, "ok", r.Health, "%s: %s", r.Name, r.LastError)
			n++
		}
	}
	require.Equal(t, 43, n)

	// check notices metrics, labels, values and legends that nothing emits.
	for _, q := range []promQuery{
		{where: "metric", expr: "rate(trivet_balancer_guesses_total[1m])", shows: true},
		{where: "label", expr: "sum by (backend) (rate(trivet_balancer_attempt_total[1m]))", shows: true},
		{where: "value", expr: `trivet_ratelimit_decision_total{outcome="refused"} > 1`},
		{where: "legend", expr: "trivet_balancer_available", labels: []string{"upstream"}, shows: true},
	} {
		require.Error(t, prom.check(t, q), q.where)
	}
}
