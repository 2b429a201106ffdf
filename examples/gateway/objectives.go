package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trivet-go/trivet/telemetry"
)

// An Objective is what users of some routes are promised: an availability, a latency, or both.
type Objective struct {
	// Routes are hosts and paths of routes: "api.example.com/users/". If empty, all routes count.
	Routes []string `yaml:"routes"`

	// Availability is the share of requests that must not fail by our fault: 0.999.
	Availability Share `yaml:"availability"`

	// LatencyTarget is the share of requests that must be done within Latency: 0.99.
	Latency       Duration `yaml:"latency"`
	LatencyTarget Share    `yaml:"latency_target"`

	MinEvents int `yaml:"min_events"` // the fewest bad requests for which an alert fires; 5
}

func (o Objective) withDefaults(name string, routes []Route, f *faults) Objective {
	known := map[string]bool{}
	for _, r := range routes {
		known[r.Host+r.Path] = true
	}
	for i, r := range o.Routes {
		if !known[r] {
			f.add(fmt.Sprintf("%q is not host and path of a route: %s", r, names(known)),
				"objectives", name, "routes", i)
		}
	}
	if _, err := o.slo(name, "any"); err != nil {
		f.wrapped(err, map[string]string{
			"Availability": "availability", "Latency": "latency", "LatencyTarget": "latency_target",
			"MinEvents": "min_events",
		}, "objectives", name)
	}
	return o
}

// slo returns the objective as an SLO of telemetry. Its rules are for a Prometheus that scrapes the
// gateway as job service.
func (o Objective) slo(name, service string) (*telemetry.SLO, error) {
	return telemetry.NewSLO(telemetry.SLOConfig{
		Name: name, Routes: o.Routes, Availability: float64(o.Availability),
		Latency: time.Duration(o.Latency), LatencyTarget: float64(o.LatencyTarget), MinEvents: o.MinEvents,
		Selector: "job=" + strconv.Quote(service), // Prometheus may know other servers with the same metrics
	})
}

// writeRules writes Prometheus rules that alert when an objective's budget burns too fast.
func writeRules(w io.Writer, cfg Config) error {
	var all bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(cfg.Objectives)) {
		slo, err := cfg.Objectives[name].slo(name, cfg.Telemetry.Service)
		if err != nil {
			return err
		}
		var one bytes.Buffer
		if err := slo.WriteRules(&one); err != nil {
			return err
		}
		text := one.String()
		if all.Len() > 0 {
			text = strings.TrimPrefix(text, "groups:\n") // all groups are one list
		}
		all.WriteString(text)
	}
	if all.Len() == 0 {
		return errors.New("there are no objectives")
	}
	_, err := w.Write(all.Bytes())
	return err
}
