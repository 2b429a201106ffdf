package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"time"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/telemetry"
)

// A gate holds the limits that a route's requests must pass before they are proxied.
type gate struct {
	settings    gateSettings
	limiter     *ratelimit.Limiter              // nil without limits
	unambiguous func(http.Handler) http.Handler // nil without limits by header
	concurrency *ratelimit.Concurrency          // nil without a bound
}

// gateSettings are the settings that a gate depends on. A reload that leaves them keeps the gate.
type gateSettings struct {
	label       string
	names       []string
	limits      []Limit
	concurrency int
}

func newGateSettings(r Route, cfg Config) gateSettings {
	s := gateSettings{label: r.label(), names: r.Limits, concurrency: r.Concurrency}
	for _, name := range r.Limits {
		s.limits = append(s.limits, cfg.Limits[name])
	}
	return s
}

// headers returns the fields that limits count by.
func (s gateSettings) headers() (fields []string) {
	for _, l := range s.limits {
		if l.By == "header" {
			fields = append(fields, l.Header)
		}
	}
	return fields
}

// newGate returns a gate with settings s: old, which may be nil, if it has the same.
func newGate(
	s gateSettings, old *gate, c *counts, trusted trust, tel *telemetry.Telemetry, log *slog.Logger,
) (*gate, error) {
	if old != nil && reflect.DeepEqual(old.settings, s) {
		return old, nil
	}
	g := &gate{settings: s}
	if len(s.names) > 0 {
		cfg := ratelimit.Config{Store: c.memory, RetryJitter: time.Second}
		if s.limits[0].Store == redisStore {
			cfg.Store, cfg.Local = c.redis, c.local
		}
		for i, name := range s.names {
			p, err := s.limits[i].policy(name, s.label, trusted)
			if err != nil {
				return nil, fmt.Errorf("limits.%s: %w", name, err)
			}
			cfg.Policies = append(cfg.Policies, p)
		}
		report := telemetry.Observer[ratelimit.Event](tel, s.label)
		cfg.Observe = func(ctx context.Context, e ratelimit.Event) {
			if e.Kind == ratelimit.StoreChanged {
				log.LogAttrs(ctx, slog.LevelWarn, "limits", slog.String("route", s.label), inline(e))
			}
			report(ctx, e)
		}
		var err error
		if g.limiter, err = ratelimit.New(cfg); err != nil {
			return nil, fmt.Errorf("limits of route %s: %w (to change sliding, "+
				"or the window of a sliding limit, restart or give it another name)", s.label, err)
		}
		if fields := s.headers(); len(fields) > 0 {
			// The upstream must not read another value than the one that was counted.
			if g.unambiguous, err = ratelimit.Unambiguous(fields...); err != nil {
				return nil, fmt.Errorf("limits of route %s: %w", s.label, err)
			}
		}
	}
	if s.concurrency > 0 {
		var err error
		g.concurrency, err = ratelimit.NewConcurrency(ratelimit.ConcurrencyConfig{
			Limit: s.concurrency, Key: constant(s.label), Missing: ratelimit.MissingReject,
			// The answer is not 429: the client has not asked for too much.
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
				w.Header().Set("Retry-After", "1")
				writeProblem(w, http.StatusServiceUnavailable, "too many requests are in flight")
			},
			Observe: telemetry.Observer[ratelimit.ConcurrencyEvent](tel, s.label),
		})
		if err != nil {
			return nil, fmt.Errorf("routes: %s: %w", s.label, err)
		}
	}
	return g, nil
}

// limit puts the limits before a route's handler.
func (g *gate) limit(next http.Handler) http.Handler {
	if g.limiter == nil {
		return next
	}
	h := g.limiter.Middleware(next)
	if g.unambiguous == nil {
		return h
	}
	return g.unambiguous(h)
}

// bound puts the bound of requests in flight before a route's handler.
func (g *gate) bound(next http.Handler) http.Handler {
	if g.concurrency == nil {
		return next
	}
	return g.concurrency.Middleware(next)
}

// status returns the statistics for the admin server.
func (g *gate) status() any {
	var s struct {
		Limits      *ratelimit.Stats            `json:"limits,omitempty"`
		Concurrency *ratelimit.ConcurrencyStats `json:"concurrency,omitempty"`
	}
	if g.limiter != nil {
		st := g.limiter.Stats()
		s.Limits = &st
	}
	if g.concurrency != nil {
		st := g.concurrency.Stats()
		s.Concurrency = &st
	}
	return s
}

// register exports the gate's statistics. add gets the functions that end the exports.
func (g *gate) register(tel *telemetry.Telemetry, add func(unregister func() error, err error)) {
	if g.limiter != nil {
		add(telemetry.Register(tel, g.settings.label, g.limiter.Stats))
	}
	if g.concurrency != nil {
		add(telemetry.Register(tel, g.settings.label, g.concurrency.Stats))
	}
}
