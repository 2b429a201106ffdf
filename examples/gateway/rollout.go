package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/versioning"
)

// A Rollout gives a growing share of a route's requests to another upstream, the canary, and
// compares it with the route's own. It promotes the release that runs there, or rolls it back, by
// itself.
type Rollout struct {
	Name    string        `yaml:"name"`    // no other rollout has it; required
	Release string        `yaml:"release"` // what runs on the canary; required
	Canary  string        `yaml:"canary"`  // the upstream with the release; required
	Steps   []RolloutStep `yaml:"steps"`   // of the weight; required

	// By says what an arm is given to: an "address", the value of a "header" or of a "cookie", or
	// each "request" anew. Required.
	By     string `yaml:"by"`
	Header string `yaml:"header"` // the header field of by: header
	Cookie string `yaml:"cookie"` // the cookie of by: cookie

	// Missing says what happens to a request without the header or the cookie: the "stable"
	// upstream answers it, it is drawn "per_request", or its client gets a "cookie" with a key.
	// Required with by: header and by: cookie.
	Missing string  `yaml:"missing"`
	Sticky  *Sticky `yaml:"sticky"` // the cookie of missing: cookie

	Manual     bool    `yaml:"manual"`      // each step begins by POST /rollouts; false
	OnFail     string  `yaml:"on_fail"`     // a release that is worse: "roll_back" or "pause"; roll_back
	OnDeadline string  `yaml:"on_deadline"` // one not judged in time: "pause" or "roll_back"; pause
	Alpha      Share   `yaml:"alpha"`       // the chance that a test rolls a good release back; 0.005
	Tolerance  float64 `yaml:"tolerance"`   // how many times as slow a release may be; 1.25
	Floor      Share   `yaml:"floor"`       // the share of failures with which a release is broken; 0.5

	// TagField is the response field that gets the tag of the arm. With a cache, which needs one,
	// it is Surrogate-Key by default; otherwise none.
	TagField string `yaml:"tag_field"`

	// Apart says that the arms differ on purpose: the route's cache keeps their answers apart. If
	// false, it gives everybody what either has answered.
	Apart bool `yaml:"apart"`

	Store string `yaml:"store"` // "memory" of this process, or "redis" for all gateways; memory
}

// A RolloutStep is one weight of a rollout. It ends when each of its minimums is met.
type RolloutStep struct {
	Weight   Share   `yaml:"weight"`   // the canary's share; required
	For      Timeout `yaml:"for"`      // the least time; 5m
	Requests Bound   `yaml:"requests"` // the least number that the canary has answered; 500
	Deadline Timeout `yaml:"deadline"` // when on_deadline happens; 1h, or twice for if that is longer
}

// A Sticky is the cookie with a random key that clients get who have no key.
type Sticky struct {
	Name     string   `yaml:"name"`     // trivet_rollout
	MaxAge   Duration `yaml:"max_age"`  // how long browsers keep it; for their session
	Insecure bool     `yaml:"insecure"` // it is also sent in clear; false
}

// check adds to f the faults of the key rollout of a route.
func (o *Rollout) check(r Route, c Config, f *faults, path ...any) {
	at := func(keys ...any) []any { return append(path[:len(path):len(path)], keys...) }
	before := len(*f)
	if r.Versions != nil {
		f.add("a route with versions has no upstream to compare with", path...)
	}
	if _, ok := c.Upstreams[o.Canary]; !ok {
		f.add(fmt.Sprintf("%q is not one of the upstreams: %s", o.Canary, names(c.Upstreams)),
			at("canary")...)
	}
	o.checkKey(f, at)
	switch {
	case o.Store == redisStore && c.Redis.Addr == "":
		f.add("there is no redis.addr", at("store")...)
	case o.Store != "" && o.Store != redisStore && o.Store != memoryStore:
		f.add(fmt.Sprintf("%q is not one of: redis, memory", o.Store), at("store")...)
	}
	if r.Cache != nil && o.TagField != "" &&
		http.CanonicalHeaderKey(o.TagField) != "Surrogate-Key" &&
		http.CanonicalHeaderKey(o.TagField) != "Cache-Tag" {
		f.add("the cache reads Surrogate-Key and Cache-Tag", at("tag_field")...)
	}
	if r.Cache == nil && o.Apart {
		f.add("needs a cache", at("apart")...)
	}
	for i := range o.Steps {
		s := &o.Steps[i]
		f.trial(Duration(s.For), at("steps", i, "for")...)
		f.trial(Duration(s.Deadline), at("steps", i, "deadline")...)
	}
	if o.Sticky != nil {
		f.trial(o.Sticky.MaxAge, at("sticky", "max_age")...)
	}
	if len(*f) > before {
		return // package versioning would find the same
	}
	rollout, err := versioning.NewRollout(o.config(trust{}))
	if err == nil {
		closeNow(rollout)
		return
	}
	keys := map[string][]any{
		"Name": {"name"}, "Release": {"release"}, "Steps": {"steps"}, "OnFail": {"on_fail"},
		"OnDeadline": {"on_deadline"}, "Alpha": {"alpha"}, "Tolerance": {"tolerance"},
		"TagField": {"tag_field"}, "Cookie.Name": {"sticky", "name"}, "Cookie.MaxAge": {"sticky", "max_age"},
	}
	for i := range o.Steps {
		keys[fmt.Sprintf("Steps[%d].Weight", i)] = []any{"steps", i, "weight"}
		keys[fmt.Sprintf("Steps[%d].Deadline", i)] = []any{"steps", i, "deadline"}
	}
	for _, fault := range fieldFaults(err) {
		f.add(fault.Reason(), at(keys[fault.Field()]...)...)
	}
}

// maxTrial is how long a store keeps the state of a rollout.
const maxTrial = Duration(90 * 24 * time.Hour)

// trial checks a duration that may be as long as a release is tried.
func (f *faults) trial(d Duration, path ...any) {
	if d < 0 && d != off {
		f.add("must be positive", path...)
	}
	if d > maxTrial {
		f.add("must be at most "+time.Duration(maxTrial).String(), path...)
	}
}

// checkKey adds the faults of what an arm is given to.
func (o *Rollout) checkKey(f *faults, at func(...any) []any) {
	for key, value := range map[string]string{"header": o.Header, "cookie": o.Cookie} {
		switch {
		case o.By == key && !fieldName.MatchString(value):
			f.add(fmt.Sprintf("%q is not the name of a %s", value, key), at(key)...)
		case o.By != key && value != "":
			f.add("has a meaning only with by: "+key, at(key)...)
		}
	}
	switch o.By {
	case "header", "cookie":
		switch versioning.MissingKey(o.Missing) {
		case versioning.MissingStable, versioning.MissingPerRequest, versioning.MissingCookie:
		default:
			f.add(fmt.Sprintf("%q is not one of: stable, per_request, cookie", o.Missing), at("missing")...)
		}
	case "address", "request":
		if o.Missing != "" {
			f.add("has a meaning only with by: header and by: cookie", at("missing")...)
		}
	default:
		f.add(fmt.Sprintf("%q is not one of: address, header, cookie, request", o.By), at("by")...)
	}
	if o.Sticky != nil && o.Missing != string(versioning.MissingCookie) {
		f.add("has a meaning only with missing: cookie", at("sticky")...)
	}
}

// config returns what versioning.NewRollout takes, without what belongs to a gateway.
func (o *Rollout) config(trusted trust) versioning.RolloutConfig {
	cfg := versioning.RolloutConfig{
		Name: o.Name, Release: o.Release, Manual: o.Manual, TagField: o.TagField,
		OnFail: versioning.Action(o.OnFail), OnDeadline: versioning.Action(o.OnDeadline),
		Alpha: float64(o.Alpha), Tolerance: o.Tolerance, Floor: float64(o.Floor),
	}
	for _, s := range o.Steps {
		cfg.Steps = append(cfg.Steps, versioning.Step{
			Weight: float64(s.Weight), MinTime: time.Duration(s.For), MinRequests: int(s.Requests),
			Deadline: time.Duration(s.Deadline),
		})
	}
	if s := o.Sticky; s != nil {
		cfg.Cookie = versioning.CookieConfig{
			Name: s.Name, MaxAge: time.Duration(s.MaxAge), Insecure: s.Insecure,
		}
	}
	cfg.Key, cfg.Missing = o.key(trusted), versioning.MissingKey(o.Missing)
	switch o.By {
	case "address":
		cfg.Missing = versioning.MissingStable // a peer of a unix socket has no address
	case "request":
		cfg.Missing = versioning.MissingPerRequest
	}
	return cfg
}

// key returns the function that says to whom an arm is given.
func (o *Rollout) key(trusted trust) func(*http.Request) (string, bool) {
	switch o.By {
	case "address":
		key, err := ratelimit.ByIP(ratelimit.IPConfig{
			TrustedProxies: trusted.proxies, TrustUnix: trusted.unix,
		})
		if err == nil {
			return key
		}
	case "header":
		return ratelimit.ByHeader(o.Header)
	case "cookie":
		return func(r *http.Request) (string, bool) {
			c, err := r.Cookie(o.Cookie)
			if err != nil || c.Value == "" {
				return "", false
			}
			return c.Value, true
		}
	}
	return func(*http.Request) (string, bool) { return "", false }
}
