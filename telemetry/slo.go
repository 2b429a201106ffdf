package telemetry

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

const defaultMinEvents = 5

// SLOConfig configures an [SLO].
type SLOConfig struct {
	// Name identifies the objectives in metrics and alerts. Required: letters, digits, '-' and '_'.
	Name string

	// Routes are the values of http.route that the objectives cover. If empty, all requests.
	Routes []string

	// Availability is the part of requests that must not fail by the server's fault (status 5xx,
	// panic, abort), such as 0.999: at least 0.5 and less than 1. Zero means no such objective.
	Availability float64

	// Latency is the time within which LatencyTarget, such as 0.99, of the requests that
	// did not fail must be done. Both or neither must be set; LatencyTarget has the bounds of Availability.
	Latency       time.Duration
	LatencyTarget float64

	// MinEvents is how many bad requests a long window must hold before its alert fires: where there
	// is little traffic, one failure is a high rate. Zero means 5. Negative is invalid.
	MinEvents int

	// Selector restricts the rules of [SLO.WriteRules] further, such as job="gateway". It is a list
	// of PromQL label matchers and taken as it is.
	Selector string
}

var sloName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)

// An SLO keeps count of how much of an error budget requests use up: set it in [Config.SLOs].
// Create one with [NewSLO]. It covers this process only; across replicas, the rules
// of [SLO.WriteRules] say the same of the metrics.
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
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("telemetry: SLOConfig."+field+": "+format, args...))
	}
	if !sloName.MatchString(cfg.Name) {
		fault("Name", "%q is not a letter followed by letters, digits, '-' and '_'", cfg.Name)
	}
	target := func(field string, v float64) {
		if v != 0 && !(v >= 0.5 && v < 1) { // NaN is none either
			fault(field, "%v is not between 0.5 and 1", v)
		}
	}
	target("Availability", cfg.Availability)
	target("LatencyTarget", cfg.LatencyTarget)
	switch {
	case cfg.Latency < 0:
		fault("Latency", "%v is negative", cfg.Latency)
	case (cfg.Latency == 0) != (cfg.LatencyTarget == 0):
		fault("Latency", "Latency and LatencyTarget need each other")
	case cfg.Latency == 0 && cfg.Availability == 0:
		fault("Availability", "there is no objective")
	}
	if strings.ContainsFunc(cfg.Selector, unicode.IsControl) {
		fault("Selector", "%q has control characters", cfg.Selector)
	}
	if cfg.MinEvents < 0 {
		fault("MinEvents", "%d is negative", cfg.MinEvents)
	}
	if cfg.MinEvents == 0 {
		cfg.MinEvents = defaultMinEvents
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cfg.Routes = slices.Clone(cfg.Routes)
	s := &SLO{cfg: cfg, routes: make(map[string]bool), epoch: time.Now()}
	for _, r := range cfg.Routes {
		s.routes[r] = true
	}
	return s, nil
}

// record counts a request.
func (s *SLO) record(k seriesKey, o outcome) {
	if len(s.routes) > 0 && !s.routes[k.route] {
		return
	}
	bad := serverFault(k)
	timed := !bad && o.latency && s.cfg.Latency > 0
	s.add(time.Since(s.epoch), bad, timed, timed && o.counted > s.cfg.Latency)
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
	Failed   uint64             `json:"failed"`    // by the server's fault
	Timed    uint64             `json:"timed"`     // those that count for the latency objective
	Slow     uint64             `json:"slow"`      // of them, those that took too long
	BurnRate map[string]float64 `json:"burn_rate"` // by objective and window, such as "availability 1h"
	Firing   map[string]float64 `json:"firing"`    // 1 if the alert of the objective and severity fires, such as "latency page"
}

// Stats returns a snapshot, fit for [Register].
func (s *SLO) Stats() SLOStats {
	st := SLOStats{
		Requests: s.all.total.Load(), Failed: s.all.bad.Load(), Timed: s.all.timed.Load(), Slow: s.all.slow.Load(),
		BurnRate: make(map[string]float64), Firing: make(map[string]float64),
	}
	for _, b := range s.Burn() {
		st.BurnRate[b.Objective+" "+promDuration(b.Long)] = b.LongRate
		st.BurnRate[b.Objective+" "+promDuration(b.Short)] = b.ShortRate
		key := b.Objective + " " + b.Severity
		if b.Firing {
			st.Firing[key] = 1
		} else if _, ok := st.Firing[key]; !ok {
			st.Firing[key] = 0
		}
	}
	return st
}
