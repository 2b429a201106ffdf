package telemetry

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// faultTypes are the values of error.type that [SLO] counts as failures.
// (5xx, errFailed, is among what "[5-9].." matches.)
const faultTypes = "[5-9]..|" + errPanic + "|" + errAborted + "|" + errTimeout

// WriteRules writes a Prometheus rule file that alerts on the same windows as [SLO.Burn], for
// http.server.request.duration as OpenTelemetry's Prometheus exporter names it. The latency
// threshold is a boundary of the histogram of every [Telemetry] that has the SLO, so the rules are
// exact.
func (s *SLO) WriteRules(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "groups:\n  - name: trivet-slo-%s\n    rules:\n", s.cfg.Name)
	for _, o := range s.goals() {
		bad, total := s.badExpr, s.totalExpr
		if o.name == Latency {
			bad, total = s.slowExpr, s.timedExpr
		}
		for _, d := range distinctWindows(o.target) {
			record(&b, ratioName(d), s.labels(o),
				fmt.Sprintf("(%s) / (%s)", bad("rate", d), total("rate", d)))
		}
		for _, p := range windowPairs {
			if p.reachable(o.target) {
				s.alert(&b, o, p, bad("increase", p.long))
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// distinctWindows returns the windows of all reachable pairs, shortest first.
func distinctWindows(target float64) []time.Duration {
	var all []time.Duration
	for _, w := range windowPairs {
		if w.reachable(target) {
			all = append(all, w.short, w.long)
		}
	}
	slices.Sort(all)
	return slices.Compact(all) // 6 h is in two pairs
}

func ratioName(d time.Duration) string { return "trivet:slo_bad:ratio_rate" + promDuration(d) }

func (s *SLO) labels(o goal) [][2]string {
	return [][2]string{{"slo", s.cfg.Name}, {"objective", string(o.name)}}
}

func record(b *bytes.Buffer, name string, labels [][2]string, expr string) {
	fmt.Fprintf(b, "      - record: %s\n        expr: |-\n          %s\n        labels:\n", name, expr)
	for _, l := range labels {
		fmt.Fprintf(b, "          %s: %s\n", l[0], l[1])
	}
}

func (s *SLO) alert(b *bytes.Buffer, o goal, p windowPair, bad string) {
	match := fmt.Sprintf(`{slo=%q,objective=%q}`, s.cfg.Name, o.name)
	threshold := strconv.FormatFloat(p.factor*(1-o.target), 'g', 6, 64)
	fmt.Fprintf(b, "      - alert: SLOBudgetBurn\n        expr: |-\n")
	fmt.Fprintf(b, "          %s%s > %s\n          and %s%s > %s\n          and on() (%s) >= %d\n",
		ratioName(p.long), match, threshold, ratioName(p.short), match, threshold, bad, s.cfg.MinEvents)
	fmt.Fprintf(b, "        labels:\n")
	labels := append(s.labels(o),
		[2]string{"severity", string(p.severity)}, [2]string{"window", promDuration(p.long)})
	for _, l := range labels {
		fmt.Fprintf(b, "          %s: %s\n", l[0], l[1])
	}
	fmt.Fprintf(b, "        annotations:\n          summary: "+
		"'%s: the %s budget burns more than %s times too fast over %s'\n",
		s.cfg.Name, o.name, strconv.FormatFloat(p.factor, 'g', -1, 64), promDuration(p.long))
}

// The expressions are sums over f, "rate" or "increase", of a window.

func (s *SLO) badExpr(f string, d time.Duration) string {
	return s.sum(f, "count", d, fmt.Sprintf("error_type=~%q", faultTypes)) + " or vector(0)"
}

func (s *SLO) totalExpr(f string, d time.Duration) string { return s.sum(f, "count", d) }

func (s *SLO) timedExpr(f string, d time.Duration) string {
	return s.sum(f, "count", d, fmt.Sprintf("error_type!~%q", faultTypes))
}

func (s *SLO) slowExpr(f string, d time.Duration) string {
	le := strconv.FormatFloat(s.cfg.Latency.Seconds(), 'g', -1, 64)
	bound := fmt.Sprintf("le=%q", le)
	if !strings.ContainsAny(le, ".e") { // the form that is scraped depends on Prometheus' version
		bound = fmt.Sprintf("le=~%q", le+"|"+le+`\.0`)
	}
	return s.timedExpr(f, d) + " - " + s.sum(f, "bucket", d, fmt.Sprintf("error_type!~%q", faultTypes), bound)
}

func (s *SLO) sum(f, part string, d time.Duration, matchers ...string) string {
	if len(s.cfg.Routes) > 0 {
		quoted := make([]string, len(s.cfg.Routes))
		for i, r := range s.cfg.Routes {
			quoted[i] = regexp.QuoteMeta(r)
		}
		matchers = append(matchers, fmt.Sprintf("http_route=~%q", strings.Join(quoted, "|")))
	}
	if s.cfg.Selector != "" {
		matchers = append(matchers, s.cfg.Selector)
	}
	return fmt.Sprintf("sum(%s(http_server_request_duration_seconds_%s{%s}[%s]))",
		f, part, strings.Join(matchers, ","), promDuration(d))
}

// promDuration writes whole minutes, hours or days.
func promDuration(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dm", d/time.Minute)
}
