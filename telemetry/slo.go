package telemetry

import (
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/trivet-go/trivet/internal/settings"
)

const defaultMinEvents = 5

// SLOConfig configures an [SLO].
type SLOConfig struct {
	// Name identifies the objectives in metrics and alerts. Required: a letter, then at most 62
	// letters, digits, '-' and '_'.
	Name string

	// Routes are the values of http.route that the objectives cover. If empty, all requests.
	Routes []string

	// Availability is the share of requests that must not fail by the server's fault (status 5xx,
	// panic, abort, timeout), such as 0.999. Zero means no such objective. Anything else that is
	// less than 0.5, or is 1 or more, is invalid.
	Availability float64

	// Latency is the time within which a share of the requests that did not fail must be done; of
	// a stream, its first byte. Zero means no such objective. Negative is invalid.
	Latency time.Duration

	// LatencyTarget is that share, such as 0.99. It must be set if Latency is, and only then, and
	// has the bounds of Availability.
	LatencyTarget float64

	// MinEvents is how many bad requests a long window must hold before its alert fires: where
	// there is little traffic, one failure is a high rate. Zero means 5. Negative is invalid.
	MinEvents int

	// Selector restricts the rules of [SLO.WriteRules] further, such as job="gateway". It is a list
	// of PromQL label matchers and taken as it is. If empty, there is no such restriction.
	Selector string
}

var sloName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)

// An SLO keeps count of how much of an error budget requests use up: set it in [Config.SLOs].
// Create one with [NewSLO]. It covers this process only; across replicas, the rules of
// [SLO.WriteRules] say the same of the metrics.
//
// An SLO is safe for concurrent use, starts no goroutines and takes about 170 KB.
type SLO struct {
	cfg    SLOConfig // read-only after NewSLO
	routes map[string]bool
	epoch  time.Time
	all    counts

	ring [ringMinutes]minute
	mu   sync.Mutex // serialises the reuse of minutes
}

// counts of requests. Failed ones do not count as timed.
type counts struct{ total, bad, timed, slow atomic.Uint64 }

func (c *counts) add(bad, timed, slow bool) {
	c.total.Add(1)
	if bad {
		c.bad.Add(1)
	}
	if timed {
		c.timed.Add(1)
	}
	if slow {
		c.slow.Add(1)
	}
}

// A minute counts the requests of one minute.
type minute struct {
	index atomic.Int64 // minutes since epoch, plus 1; 0 if never used
	counts
}

// NewSLO returns an SLO. The error, if any, names every invalid field of cfg.
func NewSLO(cfg SLOConfig) (*SLO, error) {
	f := settings.Of("telemetry", "SLOConfig")
	if !sloName.MatchString(cfg.Name) {
		f.Add("Name", "%q is not a letter followed by letters, digits, '-' and '_'", cfg.Name)
	}
	target := func(field string, v float64) {
		if v != 0 && !(v >= 0.5 && v < 1) { // NaN is none either
			f.Add(field, "%v is not between 0.5 and 1", v)
		}
	}
	target("Availability", cfg.Availability)
	target("LatencyTarget", cfg.LatencyTarget)
	settings.NotNegative(f, "Latency", cfg.Latency)
	switch {
	case cfg.Latency < 0:
	case (cfg.Latency == 0) != (cfg.LatencyTarget == 0):
		f.Add("Latency", "Latency and LatencyTarget need each other")
	case cfg.Latency == 0 && cfg.Availability == 0:
		f.Add("Availability", "there is no objective")
	}
	if strings.ContainsFunc(cfg.Selector, unicode.IsControl) {
		f.Add("Selector", "%q has control characters", cfg.Selector)
	}
	settings.Positive(f, "MinEvents", &cfg.MinEvents, defaultMinEvents)
	if err := f.Err(); err != nil {
		return nil, err
	}
	cfg.Routes = slices.Clone(cfg.Routes)
	s := &SLO{cfg: cfg, routes: make(map[string]bool), epoch: time.Now()}
	for _, r := range cfg.Routes {
		s.routes[r] = true
	}
	return s, nil
}

// record counts a request if the objectives cover its route.
func (s *SLO) record(k seriesKey, o outcome) {
	if len(s.routes) > 0 && !s.routes[k.route] {
		return
	}
	bad := k.serverFault()
	timed := !bad && o.timed && s.cfg.Latency > 0
	s.add(time.Since(s.epoch), bad, timed, timed && o.latency > s.cfg.Latency)
}

// add counts a request at an offset since the epoch.
func (s *SLO) add(at time.Duration, bad, timed, slow bool) {
	index := int64(at/time.Minute) + 1
	m := &s.ring[index%ringMinutes]
	if m.index.Load() != index {
		s.mu.Lock()
		if m.index.Load() < index {
			m.total.Store(0)
			m.bad.Store(0)
			m.timed.Store(0)
			m.slow.Store(0)
			m.index.Store(index)
		}
		s.mu.Unlock()
	}
	m.add(bad, timed, slow)
	s.all.add(bad, timed, slow)
}

// SLOStats is a snapshot of an [SLO].
type SLOStats struct {
	Requests uint64             `json:"requests"`
	Failures uint64             `json:"failures"`  // by the server's fault
	Timed    uint64             `json:"timed"`     // those that count for the latency objective
	Slow     uint64             `json:"slow"`      // of them, those that took too long
	BurnRate map[string]float64 `json:"burn_rate"` // by objective and window: "availability 1h"
	Firing   map[string]bool    `json:"firing"`    // by objective and severity: "latency page"
}

// Stats returns a snapshot.
func (s *SLO) Stats() SLOStats {
	st := SLOStats{
		Requests: s.all.total.Load(), Failures: s.all.bad.Load(),
		Timed: s.all.timed.Load(), Slow: s.all.slow.Load(),
		BurnRate: make(map[string]float64), Firing: make(map[string]bool),
	}
	for _, b := range s.Burn() {
		st.BurnRate[string(b.Objective)+" "+promDuration(b.Long)] = b.LongRate
		st.BurnRate[string(b.Objective)+" "+promDuration(b.Short)] = b.ShortRate
		alert := string(b.Objective) + " " + string(b.Severity)
		st.Firing[alert] = st.Firing[alert] || b.Firing // two pairs share a severity
	}
	return st
}
