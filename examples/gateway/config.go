package main

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// A Config is the whole configuration. A zero field stands for the default at the end of its
// comment. In a file a zero is an error, since its author may expect it to mean something else.
// Negative values are invalid.
type Config struct {
	Server     Server               `yaml:"server"`
	Admin      Admin                `yaml:"admin"`
	Telemetry  Telemetry            `yaml:"telemetry"`  // needs a restart to change
	Objectives map[string]Objective `yaml:"objectives"` // by name; needs a restart to change
	Redis      Redis                `yaml:"redis"`      // needs a restart to change
	Cache      Cache                `yaml:"cache"`      // that all routes share
	Limits     map[string]Limit     `yaml:"limits"`     // by name
	Upstreams  map[string]Upstream  `yaml:"upstreams"`  // by name
	Routes     []Route              `yaml:"routes"`
}

// A Server is the public side.
type Server struct {
	// These need a restart to change.
	Listen            string   `yaml:"listen"`              // host:port or unix:/path; "127.0.0.1:8080"
	ReadHeaderTimeout Duration `yaml:"read_header_timeout"` // for the whole header; 5s
	IdleTimeout       Duration `yaml:"idle_timeout"`        // of a connection between requests; 60s
	MaxHeaderBytes    Size     `yaml:"max_header_bytes"`    // a larger header gets 431; 32KiB
	H2C               bool     `yaml:"h2c"`                 // also speaks HTTP/2 in clear; false

	// TLS turns HTTPS on, HTTP/2 included. A reload reads its certificates again. To turn HTTPS on
	// or off needs a restart.
	TLS TLS `yaml:"tls"`

	// TrustedProxies are the proxies in front of the gateway. Their X-Forwarded-For and other
	// forwarding fields are believed and sent on; those of all other peers are replaced or removed.
	// If empty, no peer is trusted. Needs a restart to change.
	TrustedProxies []Proxy `yaml:"trusted_proxies"`

	// DeadlineField is the request field by which trusted proxies say how many milliseconds a
	// client will still wait, and by which upstreams with retry or hedge are told. It is removed
	// from what other peers send. If empty, there is none. Needs a restart to change.
	DeadlineField string `yaml:"deadline_field"`

	// HintField is the response field by which tiers with retries tell each other that one of them
	// has given up: upstreams with retry or hedge heed and set it. It is removed from requests of
	// peers that are not trusted. If empty, there is none. Needs a restart to change.
	HintField string `yaml:"hint_field"`

	// MaxHeaderFields is how many fields a header may have. Each cookie counts as a field. A
	// request with more gets 431; 100.
	MaxHeaderFields int `yaml:"max_header_fields"`

	// StallTimeout ends an exchange that makes no progress for this long: a request whose body
	// stands still, or, once the answer has begun, an exchange of which both sides do; 20s.
	StallTimeout Timeout `yaml:"stall_timeout"`

	// MinRate is the least pace of a body, over 10 seconds in which the gateway waits for the
	// client: of a request's until the answer has begun, and of an answer's; 240B/s.
	MinRate Pace `yaml:"min_rate"`

	MaxRequests Bound   `yaml:"max_requests"` // in flight at once, more get 503; 10000
	MaxTunnels  Bound   `yaml:"max_tunnels"`  // upgraded connections at once, more get 503; 10000
	TunnelIdle  Timeout `yaml:"tunnel_idle"`  // ends one on which nobody speaks for this long; 1h

	MaxBody      Size     `yaml:"max_body"`      // a larger body gets 413; 10MiB
	DrainDelay   Duration `yaml:"drain_delay"`   // from reporting not ready to closing the listener; 1s
	DrainTimeout Duration `yaml:"drain_timeout"` // for the requests then in flight; 30s
}

// An Admin is the operator's side. Its pages need no authentication, so it listens on loopback
// only.
type Admin struct {
	Listen string `yaml:"listen"` // address and port; needs a restart to change; "127.0.0.1:8081"

	// TokenEnv is the environment variable that holds the token for actions such as POST /purge. If
	// empty, a token is made at each start and printed on stderr. Needs a restart to change.
	TokenEnv string `yaml:"token_env"`

	Metrics MetricsListener `yaml:"metrics"` // for scrapers and probes on other machines; none
}

const (
	defaultStall      = 20 * time.Second
	maxConfigDuration = Duration(24 * time.Hour)
	maxConfigSize     = Size(1 << 40)
	maxHeaderBytes    = Size(1 << 30) // HTTP/2 announces it as a number of 32 bits
)

// withDefaults returns c with all defaults filled in, and every fault that it found.
func (c Config) withDefaults() (Config, faults) {
	var f faults

	s := &c.Server
	if unixPath(s.Listen) == "" {
		f.listen(&s.Listen, "127.0.0.1:8080", "server", "listen")
	}
	f.duration(&s.ReadHeaderTimeout, 5*time.Second, "server", "read_header_timeout")
	f.duration(&s.IdleTimeout, time.Minute, "server", "idle_timeout")
	f.timeout(&s.StallTimeout, defaultStall, "server", "stall_timeout")
	f.timeout(&s.TunnelIdle, time.Hour, "server", "tunnel_idle")
	s.MinRate.orDefault(240)
	s.MaxRequests.orDefault(10000)
	s.MaxTunnels.orDefault(10000)
	f.duration(&s.DrainDelay, time.Second, "server", "drain_delay")
	f.duration(&s.DrainTimeout, 30*time.Second, "server", "drain_timeout")
	f.size(&s.MaxHeaderBytes, 32<<10, "server", "max_header_bytes")
	if s.MaxHeaderBytes > maxHeaderBytes {
		f.add("must be at most 1GiB", "server", "max_header_bytes")
	}
	f.size(&s.MaxBody, 10<<20, "server", "max_body")
	s.TLS = s.TLS.withDefaults(&f)
	if s.H2C && s.TLS.on() {
		f.add("is HTTP/2 in clear, but there are certificates, with which HTTP/2 needs no setting",
			"server", "h2c")
	}
	s.TrustedProxies = slices.Clone(s.TrustedProxies)
	for key, field := range map[string]string{
		"deadline_field": s.DeadlineField, "hint_field": s.HintField,
	} {
		if field != "" && !fieldName.MatchString(field) {
			f.add(fmt.Sprintf("%q is not the name of a header field", field), "server", key)
		}
	}
	if s.MaxHeaderFields == 0 {
		s.MaxHeaderFields = 100
	}
	if s.MaxHeaderFields < 0 {
		f.add("must be positive", "server", "max_header_fields")
	}

	if f.listen(&c.Admin.Listen, "127.0.0.1:8081", "admin", "listen") && !loopback(c.Admin.Listen) {
		f.add("must be a loopback address: the admin server has no authentication", "admin", "listen")
	}

	c.Admin.Metrics.check(&f, "admin", "metrics")
	c.checkListeners(&f)

	c.Telemetry = c.Telemetry.withDefaults(&f)
	c.Redis = c.Redis.withDefaults(&f)
	c.Cache = c.Cache.withDefaults(c.Redis, &f)
	c.Limits = maps.Clone(c.Limits)
	for name, l := range c.Limits {
		c.Limits[name] = l.withDefaults(name, c.Redis, &f)
	}

	if len(c.Upstreams) == 0 {
		f.add("at least one is required", "upstreams")
	}
	c.Upstreams = maps.Clone(c.Upstreams)
	for name, u := range c.Upstreams {
		c.Upstreams[name] = u.withDefaults(name, &f)
	}

	if len(c.Routes) == 0 {
		f.add("at least one is required", "routes")
	}
	c.Routes = slices.Clone(c.Routes)
	taken, rollouts := map[string]int{}, map[string]bool{}
	for i, r := range c.Routes {
		c.Routes[i] = r.withDefaults(i, c, &f)
		for _, key := range c.Routes[i].keys() {
			if first, ok := taken[key]; ok {
				text := fmt.Sprintf("routes[%d] has this host, path and method, too", first)
				f.add(text, "routes", i, "path")
				break
			}
			taken[key] = i
		}
		if r.Rollout != nil {
			if rollouts[r.Rollout.Name] {
				f.add("another rollout has this name", "routes", i, "rollout", "name")
			}
			rollouts[r.Rollout.Name] = true
		}
	}

	for i, r := range c.Routes {
		if r.Redirect != nil && c.leadsBack(r) {
			f.add("leads back to this route", "routes", i, "redirect", "to")
		}
	}

	c.Objectives = maps.Clone(c.Objectives)
	for name, o := range c.Objectives {
		c.Objectives[name] = o.withDefaults(name, c.Routes, &f)
	}
	return c, f
}
