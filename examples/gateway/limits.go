package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v4"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// A Limit is how much each consumer may ask for. Routes that name the same limit share its counts.
type Limit struct {
	Rate    Rate  `yaml:"rate"`    // "100/s", "1000/h", "5/10s"; required
	Burst   int64 `yaml:"burst"`   // used at once after a pause, at most; a tenth of the rate's number
	Sliding bool  `yaml:"sliding"` // count in windows of the rate's time, as contracts do; no burst
	// a consumer is an "address", a value of a "header", or "all"; required
	By     string `yaml:"by"`
	Header string `yaml:"header"` // with by: header
	// without header: "reject" with 400, "skip", or "shared"; required with header
	Missing  string `yaml:"missing"`
	PerRoute bool   `yaml:"per_route"` // each route counts for itself
	Store    string `yaml:"store"`     // "memory" of this process, or "redis" for all gateways; memory
	// while Redis fails: count "local"ly, be "open", or "closed" (503); local
	OnError string `yaml:"on_error"`
	Share   Share  `yaml:"share"` // of the rate for this process while it counts locally; 1
}

// A Redis is where limits are counted that several gateways share.
type Redis struct {
	Addr        string `yaml:"addr"`         // "127.0.0.1:6379"; without it there is none
	TLS         bool   `yaml:"tls"`          // speak TLS, with the system's authorities
	Username    string `yaml:"username"`     // of Redis' ACL
	PasswordEnv string `yaml:"password_env"` // the environment variable that holds the password
	// of every key: gateways that share it share counts; "gateway:"
	Prefix  string   `yaml:"prefix"`
	Timeout Duration `yaml:"timeout"` // the most that a decision may wait for Redis; 25ms
}

const (
	maxLimits = 8 // of a route

	memoryStore = "memory"
	redisStore  = "redis"
)

func (r Redis) withDefaults(f *faults) Redis {
	f.duration(&r.Timeout, 25*time.Millisecond, "redis", "timeout")
	if r.Prefix == "" {
		r.Prefix = "gateway:"
	}
	if strings.ContainsAny(r.Prefix, "{}") {
		f.add("must not contain braces", "redis", "prefix")
	}
	if r.Addr != "" && !validAddr(r.Addr) {
		f.add(unsecret(r.Addr)+" is not an address such as 127.0.0.1:6379", "redis", "addr")
	}
	if r.Addr == "" && (r.TLS || r.Username != "" || r.PasswordEnv != "") {
		f.add("is required", "redis", "addr")
	}
	return r
}

func (l Limit) withDefaults(name string, r Redis, f *faults) Limit {
	before := len(*f)
	at := func(path ...any) []any { return append([]any{"limits", name}, path...) }
	// oneOf is the value, def if it is empty. Without a default it is required.
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
	case l.Header != "" || l.Missing != "":
		key := map[bool]string{true: "header", false: "missing"}[l.Header != ""]
		f.add("has a meaning only with by: header", at(key)...)
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
	case l.OnError != "" || l.Share != 0:
		key := map[bool]string{true: "on_error", false: "share"}[l.OnError != ""]
		f.add("has a meaning only with store: redis", at(key)...)
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

// fieldName is of a token, as methods are (RFC 9110, section 5.1).
var fieldName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

// check returns what the packages have to say about l.
func (l Limit) check(name string) (f faults) {
	policy, err := l.policy(name, "", nil)
	if err == nil {
		var counts ratelimit.Store
		counts, err = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 1})
		if err == nil && l.Store == redisStore {
			client := redis.NewClient(&redis.Options{})
			defer client.Close() // it has never been connected
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
	found := fieldFaults(err)
	if len(found) == 0 {
		f.add(err.Error())
	}
	for _, fault := range found {
		switch field := fault.Field(); {
		case strings.HasSuffix(field, ".Name"):
			f.add("the name must be 1 to 64 letters, digits, '_', '-' and '.'")
		case strings.HasSuffix(field, "Rate.Burst"):
			f.add(fault.Reason(), "burst")
		case strings.Contains(field, "Rate."):
			f.add(fault.Reason(), "rate")
		default:
			f.add(fault.Error())
		}
	}
	return f
}

// A fieldFault is what a package's New says about one field of its Config.
type fieldFault interface {
	error
	Field() string
	Reason() string
}

// fieldFaults returns the faults that err holds, without those that only pass another one on.
func fieldFaults(err error) (found []fieldFault) {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			found = append(found, fieldFaults(inner)...)
		}
	case interface{ Unwrap() error }:
		found = fieldFaults(e.Unwrap())
	}
	if fault, ok := err.(fieldFault); ok && len(found) == 0 {
		found = append(found, fault)
	}
	return found
}

func tinyStore() *ratelimit.MemoryStore {
	m, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 1})
	if err != nil {
		return nil // ratelimit makes one itself
	}
	return m
}

// policy is l as ratelimit has it, for a route if each counts for itself.
func (l Limit) policy(name, route string, trusted []netip.Prefix) (ratelimit.Policy, error) {
	p := ratelimit.Policy{
		Name:    name,
		Rate:    ratelimit.Rate{Limit: l.Rate.Limit, Window: l.Rate.Window, Burst: l.Burst},
		Missing: ratelimit.MissingShared, // peers of a unix socket have no address
	}
	if l.Sliding {
		p.Algorithm = ratelimit.SlidingWindow
	}
	switch l.By {
	case "address":
		key, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: trusted})
		if err != nil {
			return p, err
		}
		p.Key = key
	case "header":
		p.Key = ratelimit.ByHeader(l.Header) // hashed: it may be a credential
		p.Missing = ratelimit.Missing(l.Missing)
	default:
		p.Key = constant("all")
		p.Hidden = true // what is left for all tells each about the others
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

// A Rate is so many requests in a time: "100/s", "30/m", "1000/h", "10000/d", "5/10s".
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
