package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
	"github.com/trivet-go/trivet/telemetry"
)

// counts are where limits are counted. They outlive a reload, so that it grants no fresh burst.
type counts struct {
	memory *ratelimit.MemoryStore
	local  *ratelimit.MemoryStore // while Redis fails
	client *redis.Client          // nil without Redis
	redis  *redislimit.Store
}

func newCounts(cfg Redis) (*counts, error) {
	c := &counts{}
	var err error
	if c.memory, err = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{}); err != nil {
		return nil, err
	}
	if cfg.Addr == "" {
		return c, nil
	}
	if c.local, err = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{}); err != nil {
		return nil, err
	}
	opt := &redis.Options{
		Addr: cfg.Addr, Username: cfg.Username,
		// A call ends with its context, and redislimit's breaker is the one to try again.
		ContextTimeoutEnabled: true, MaxRetries: -1,
	}
	if path, ok := strings.CutPrefix(cfg.Addr, "unix:"); ok {
		opt.Network, opt.Addr = "unix", path
	} else if !strings.Contains(strings.TrimPrefix(cfg.Addr, "["), ":") {
		opt.Addr += ":6379"
	}
	if cfg.PasswordEnv != "" {
		if opt.Password = os.Getenv(cfg.PasswordEnv); opt.Password == "" {
			return nil, fmt.Errorf("redis.password_env: the environment has no %s", cfg.PasswordEnv)
		}
	}
	if cfg.TLS {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c.client = redis.NewClient(opt)
	c.redis, err = redislimit.New(c.client, redislimit.Config{
		Prefix: cfg.Prefix, Timeout: time.Duration(cfg.Timeout),
	})
	if err != nil {
		return nil, errors.Join(err, c.client.Close())
	}
	return c, nil
}

// retain forgets what routes no longer count.
func (c *counts) retain(routes []Route) {
	var names []string
	for _, r := range routes {
		names = append(names, r.Limits...)
	}
	c.memory.Retain(names...)
	if c.local != nil {
		c.local.Retain(names...)
	}
}

func (c *counts) close() {
	if c.client != nil {
		_ = c.client.Close()
	}
}

// A gate is what a route's requests must pass before they are proxied.
type gate struct {
	settings    gateSettings
	limiter     *ratelimit.Limiter     // nil without limits
	concurrency *ratelimit.Concurrency // nil without
}

// gateSettings are all that a gate depends on: if they stay, the gate does.
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

// newGate returns the gate of a route: old, if it has the same settings.
func newGate(
	s gateSettings, old *gate, c *counts, trusted []netip.Prefix, tel *telemetry.Telemetry, log *slog.Logger,
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
			return nil, fmt.Errorf("limits of route %s: %w (to change sliding, or the window of a sliding "+
				"limit, restart or give it another name)", s.label, err)
		}
	}
	if s.concurrency > 0 {
		var err error
		g.concurrency, err = ratelimit.NewConcurrency(ratelimit.ConcurrencyConfig{
			Limit: s.concurrency, Key: constant(s.label), Missing: ratelimit.MissingReject,
			// Not 429: it is not the client who asks for too much.
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

// wrap puts the gate before a route's handler.
func (g *gate) wrap(next http.Handler) http.Handler {
	if g.concurrency != nil {
		next = g.concurrency.Middleware(next)
	}
	if g.limiter != nil {
		next = g.limiter.Middleware(next)
	}
	return next
}

// status is what the admin server shows.
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

// register exports the gate's statistics.
func (g *gate) register(tel *telemetry.Telemetry, add func(unregister func() error, err error)) {
	if g.limiter != nil {
		add(telemetry.Register(tel, g.settings.label, g.limiter.Stats))
	}
	if g.concurrency != nil {
		add(telemetry.Register(tel, g.settings.label, g.concurrency.Stats))
	}
}
