package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/telemetry"
)

// A Breaker configures the circuit breakers of an upstream, one for each host: requests no longer
// go to a host that keeps failing, until a few of them succeed again.
type Breaker struct {
	FailureRatio Share    `yaml:"failure_ratio"` // share of failures that opens it; 0.5
	MinRequests  int      `yaml:"min_requests"`  // outcomes that the window must hold; 20
	Window       Duration `yaml:"window"`        // the time whose outcomes count; 10s
	OpenFor      Duration `yaml:"open_for"`      // doubles from one failed attempt to the next; 5s
	MaxOpen      Duration `yaml:"max_open"`      // 60s, or open_for if that is longer
	Probes       int      `yaml:"probes"`        // requests that must succeed before it closes; 1
	SlowAfter    Duration `yaml:"slow_after"`    // an answer that takes longer is a failure; no limit
}

// check adds to f the faults that package breaker finds in b.
func (b *Breaker) check(f *faults, path ...any) {
	before := len(*f)
	for key, d := range map[string]*Duration{
		"window": &b.Window, "open_for": &b.OpenFor, "max_open": &b.MaxOpen, "slow_after": &b.SlowAfter,
	} {
		f.duration(d, 0, append(path[:len(path):len(path)], key)...)
	}
	if len(*f) > before {
		return // package breaker would find the same
	}
	if _, err := breaker.New(b.settings()); err != nil {
		f.wrapped(err, map[string]string{
			"FailureRatio": "failure_ratio", "MinRequests": "min_requests", "MaxOpen": "max_open",
			"Probes": "probes",
		}, path...)
	}
}

func (b *Breaker) settings() breaker.Config {
	return breaker.Config{
		FailureRatio: float64(b.FailureRatio), MinRequests: b.MinRequests, Probes: b.Probes,
		Window: time.Duration(b.Window), OpenFor: time.Duration(b.OpenFor), MaxOpen: time.Duration(b.MaxOpen),
		SlowAfter: time.Duration(b.SlowAfter),
	}
}

// newBreaker returns the breaker of the hosts of an upstream, or nil if it is to have none.
func newBreaker(
	name string, b *Breaker, tel *telemetry.Telemetry, log *slog.Logger,
) (*breaker.Breaker, error) {
	if b == nil {
		return nil, nil
	}
	settings := b.settings()
	report := telemetry.Observer[breaker.Event](tel, name)
	settings.Observe = func(ctx context.Context, e breaker.Event) {
		report(ctx, e)
		if e.Kind == breaker.Transition {
			log.LogAttrs(ctx, slog.LevelInfo, "breaker", slog.String("upstream", name), inline(e))
		}
	}
	return breaker.New(settings)
}

// guard puts the breaker of an endpoint around its transport.
func (u *upstream) guard(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
	if u.breaker == nil {
		return next
	}
	return u.breaker.TransportFor(e.Addr, next)
}

// forgetBreakers removes the breakers of hosts that the upstream no longer has.
func (u *upstream) forgetBreakers() {
	if u.breaker == nil {
		return
	}
	known := map[string]bool{}
	for _, e := range u.balancer.Endpoints(u.target.String()) {
		if e.State != balancer.Draining { // that only waits for the requests that it has
			known[e.Addr] = true
		}
	}
	for addr := range u.breaker.Stats().Keys {
		if !known[addr] {
			u.breaker.Forget(addr)
		}
	}
}
