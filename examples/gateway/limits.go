package main

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v4"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// A Limit says how much each consumer may ask for. Routes that name the same limit share its
// counts.
type Limit struct {
	Rate  Rate  `yaml:"rate"`  // "100/s", "1000/h", "5/10s"; required
	Burst int64 `yaml:"burst"` // how much may be used at once after a pause; a tenth of the rate's number

	// Sliding counts in windows of the rate's time, without a burst, for quotas that a contract
	// names. If false, the limit is a bucket that refills steadily.
	Sliding bool `yaml:"sliding"`

	// By says what tells consumers apart: their "address", or the value of a "header". With "all"
	// they are one consumer. Required.
	By string `yaml:"by"`

	// Header is the header field of by: header, which requires it.
	Header string `yaml:"header"`

	// Missing says what happens to a request without the header, or with several values of it:
	// "reject" answers 400, "skip" leaves the limit out, "shared" counts all such requests as one
	// consumer. Required with by: header.
	Missing string `yaml:"missing"`

	PerRoute bool   `yaml:"per_route"` // each route counts for itself
	Store    string `yaml:"store"`     // "memory" of this process, or "redis" for all gateways; memory

	// OnError says what happens while Redis fails: "local" counts in this process, "open" admits
	// all requests, "closed" answers 503; local.
	OnError string `yaml:"on_error"`

	// Share is the part of the rate that this process admits while it counts locally; 1.
	Share Share `yaml:"share"`
}

const (
	maxLimits = 8 // of a route

	memoryStore = "memory"
	redisStore  = "redis"
)

func (l Limit) withDefaults(name string, r Redis, f *faults) Limit {
	before := len(*f)
	at := func(path ...any) []any { return append([]any{"limits", name}, path...) }
	// oneOf returns the value, or def if the value is empty. If def is empty, too, the key is
	// required.
	oneOf := func(key, value, def string, others ...string) string {
		for _, v := range append([]string{def}, others...) {
			if value == v && v != "" {
				return v
			}
		}
		if value == "" && def != "" {
			return def
		}
		choice := strings.Join(append(others, def), ", ")
		f.add(fmt.Sprintf("%q is not one of: %s", value, strings.TrimSuffix(choice, ", ")), at(key)...)
		return value
	}
	l.Store = oneOf("store", l.Store, memoryStore, redisStore)
	l.By = oneOf("by", l.By, "", "address", "header", "all")
	switch {
	case l.By == "header":
		if !fieldName.MatchString(l.Header) {
			f.add(fmt.Sprintf("%q is not a header field such as X-Api-Key", l.Header), at("header")...)
		}
		l.Missing = oneOf("missing", l.Missing, "", "reject", "skip", "shared")
	case l.Header != "":
		f.add("has a meaning only with by: header", at("header")...)
	case l.Missing != "":
		f.add("has a meaning only with by: header", at("missing")...)
	}
	switch {
	case l.Store == redisStore:
		if r.Addr == "" {
			f.add("there is no redis.addr", at("store")...)
		}
		l.OnError = oneOf("on_error", l.OnError, "local", "open", "closed")
		if l.OnError != "local" && l.Share != 0 {
			f.add("has a meaning only with on_error: local", at("share")...)
		}
		if l.OnError == "local" && l.Share == 0 {
			l.Share = 1
		}
		if l.Share < 0 || l.Share > 1 {
			f.add("must be more than 0 and at most 1", at("share")...)
		}
	case l.OnError != "":
		f.add("has a meaning only with store: redis", at("on_error")...)
	case l.Share != 0:
		f.add("has a meaning only with store: redis", at("share")...)
	}
	if l.Rate == (Rate{}) {
		f.add("is required, such as 100/s", at("rate")...)
	}
	if len(*f) == before {
		for _, fault := range l.check(name) {
			f.add(fault.text, at(fault.path...)...)
		}
	}
	return l
}

// fieldName matches a token: the name of a header field or of a method (RFC 9110, sections 5.1 and
// 9.1).
var fieldName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

// check returns the faults that the packages find in l.
func (l Limit) check(name string) (f faults) {
	policy, err := l.policy(name, "", trust{})
	if err == nil {
		var counts ratelimit.Store
		counts, err = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 1})
		if err == nil && l.Store == redisStore {
			client := redis.NewClient(&redis.Options{})
			defer client.Close() // nothing has connected it
			counts, err = redislimit.New(client, redislimit.Config{})
		}
		if err == nil {
			_, err = ratelimit.New(ratelimit.Config{
				Policies: []ratelimit.Policy{policy}, Store: counts, Local: tinyStore(),
			})
		}
	}
	if err == nil {
		return nil
	}
	f.wrapped(err, map[string]string{
		"Policies[0].Rate.Limit":  "rate",
		"Policies[0].Rate.Window": "rate",
		"Policies[0].Rate.Burst":  "burst",
		"Rate.Limit":              "rate", // what redislimit finds
		"Rate.Window":             "rate",
		"Rate.Burst":              "burst",
	})
	return f
}

// tinyStore returns a store for check, which needs none of the memory that a default one takes.
func tinyStore() *ratelimit.MemoryStore {
	m, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 1})
	if err != nil {
		return nil // ratelimit makes its own then
	}
	return m
}

// policy returns l as a policy of ratelimit. route matters only if each route counts for itself.
func (l Limit) policy(name, route string, trusted trust) (ratelimit.Policy, error) {
	p := ratelimit.Policy{
		Name:    name,
		Rate:    ratelimit.Rate{Limit: l.Rate.Limit, Window: l.Rate.Window, Burst: l.Burst},
		Missing: ratelimit.MissingShared, // a peer of a unix socket has no address
	}
	if l.Sliding {
		p.Algorithm = ratelimit.SlidingWindow
	}
	switch l.By {
	case "address":
		key, err := ratelimit.ByIP(ratelimit.IPConfig{
			TrustedProxies: trusted.proxies, TrustUnix: trusted.unix,
		})
		if err != nil {
			return p, err
		}
		p.Key = key
	case "header":
		p.Key = ratelimit.ByHeader(l.Header)
		p.Missing = ratelimit.Missing(l.Missing)
	default:
		p.Key = constant("all")
		p.Hidden = true // the rest of a common limit would tell each client about the others
	}
	if l.PerRoute {
		p.Key = ratelimit.Join(constant(route), p.Key)
	}
	p.OnError, p.LocalShare = ratelimit.OnError(l.OnError), float64(l.Share)
	return p, nil
}

func constant(key string) ratelimit.KeyFunc {
	return func(*http.Request) (string, bool) { return key, true }
}

// A Rate is a number of requests in a time: "100/s", "30/m", "1000/h", "10000/d", "5/10s".
type Rate struct {
	Limit  int64
	Window time.Duration
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *Rate) UnmarshalYAML(n *yaml.Node) error {
	number, per, _ := strings.Cut(n.Value, "/")
	limit, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	window, unit := map[string]time.Duration{
		"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[strings.TrimSpace(per)]
	if !unit && err == nil {
		window, err = time.ParseDuration(strings.TrimSpace(per))
	}
	if err != nil || limit <= 0 || window <= 0 {
		return fmt.Errorf("must be a rate such as 100/s, 1000/h or 5/10s, not %s", describeNode(n))
	}
	*r = Rate{limit, window}
	return nil
}

// A Share is a part of a whole: 0.25.
type Share float64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Share) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || !(v > 0 && v <= 1) {
		return fmt.Errorf("must be a share such as 0.25, more than 0 and at most 1, not %s", describeNode(n))
	}
	*s = Share(v)
	return nil
}
