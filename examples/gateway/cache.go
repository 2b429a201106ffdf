package main

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

// A Cache configures the store that the caches of all routes share.
type Cache struct {
	// These need a restart to change.
	Size  Size   `yaml:"size"`  // what this process holds at most; 64MiB
	Store string `yaml:"store"` // "memory" of this process, or "redis" too, for all gateways; memory

	// Snapshot is a file that keeps the contents over a restart: it is written once a minute and at
	// the end, and read at the start. If empty, there is none.
	Snapshot string `yaml:"snapshot"`
}

// A RouteCache makes the gateway answer requests of a route from its cache, as RFC 9111 allows.
// Without more keys, the responses' own fields decide what is stored, and for how long.
type RouteCache struct {
	TTL          Duration `yaml:"ttl"`            // of responses that say nothing themselves; not stored
	Max          Duration `yaml:"max"`            // the most that any response is fresh; no limit
	Override     bool     `yaml:"override"`       // ttl is also in place of what responses say; false
	Stale        Duration `yaml:"stale"`          // after the ttl: served while it is fetched; not at all
	StaleIfError Duration `yaml:"stale_if_error"` // after the ttl: served if fetching fails; not at all
	IgnoreQuery  []string `yaml:"ignore_query"`   // parameters that make no difference: "utm_*"; none
	SetCookie    bool     `yaml:"set_cookie"`     // responses that set cookies are stored, with these; false
}

func (c Cache) withDefaults(r Redis, f *faults) Cache {
	f.size(&c.Size, 64<<20, "cache", "size")
	if c.Size < 64<<10 {
		f.add("must be at least 64KiB", "cache", "size")
	}
	c.Store = cmp.Or(c.Store, memoryStore)
	switch {
	case c.Store != memoryStore && c.Store != redisStore:
		f.add(fmt.Sprintf("%q is not one of: redis, memory", c.Store), "cache", "store")
	case c.Store == redisStore && r.Addr == "":
		f.add("there is no redis.addr", "cache", "store")
	case c.Store == redisStore && c.Snapshot != "":
		f.add("has no meaning with store: redis, which outlives the gateway", "cache", "snapshot")
	}
	return c
}

// check adds to f the faults of the key cache of a route.
func (c *RouteCache) check(f *faults, path ...any) {
	before := len(*f)
	for key, d := range map[string]*Duration{
		"ttl": &c.TTL, "max": &c.Max, "stale": &c.Stale, "stale_if_error": &c.StaleIfError,
	} {
		f.duration(d, 0, append(slices.Clone(path), key)...)
	}
	if c.Override && c.TTL == 0 {
		f.add("needs a ttl", append(slices.Clone(path), "override")...)
	}
	if len(*f) > before {
		return // package cache would find the same
	}
	keys := map[string]string{
		"TTL": "ttl", "Max": "max", "Stale": "stale", "StaleIfError": "stale_if_error",
		"IgnoreQuery": "ignore_query",
	}
	if _, err := cache.NewHeaders(c.headers()); err != nil {
		f.wrapped(err, keys, path...)
	}
	if _, err := cache.New(c.settings()); err != nil {
		f.wrapped(err, keys, path...)
	}
}

// settings returns what cache.New takes, without a store.
func (c *RouteCache) settings() cache.Config {
	return cache.Config{IgnoreQuery: c.IgnoreQuery, StoreSetCookie: c.SetCookie, Detail: true}
}

// headers returns what gives responses the fields that they lack.
func (c *RouteCache) headers() cache.HeadersConfig {
	return cache.HeadersConfig{
		TTL: time.Duration(c.TTL), Max: time.Duration(c.Max), Override: c.Override,
		Stale: time.Duration(c.Stale), StaleIfError: time.Duration(c.StaleIfError),
		StoreSetCookie: c.SetCookie, MaxBody: -1, // responses stream, so there are no entity tags
	}
}

// A routeCache is the cache of one route.
type routeCache struct {
	settings RouteCache
	versions bool // the version of the API is a part of the key
	arms     bool // the arm of the rollout is
	cache    *cache.Cache
	headers  *cache.Headers
}

// newRouteCache returns the cache of a route, or nil if it has none: old, which may be nil, if it
// has the same settings.
func newRouteCache(
	r Route, old *routeCache, store *cacheStore, tel *telemetry.Telemetry,
) (*routeCache, error) {
	if r.Cache == nil {
		return nil, nil
	}
	c := &routeCache{
		settings: *r.Cache, versions: r.Versions != nil, arms: r.Rollout != nil && r.Rollout.Apart,
	}
	if old != nil && old.versions == c.versions && old.arms == c.arms &&
		reflect.DeepEqual(old.settings, c.settings) {
		return old, nil
	}
	cfg := r.Cache.settings()
	cfg.Store = store.Store // itself, of which package cache knows more than the interface says
	cfg.Observe = telemetry.Observer[cache.Event](tel, r.label())
	if c.versions {
		cfg.KeyExtra = versioning.Key
	}
	if c.arms {
		cfg.KeyExtra = func(r *http.Request) (string, bool) {
			arm, ok := versioning.ArmOf(r)
			return string(arm), ok
		}
	}
	var err error
	if c.cache, err = cache.New(cfg); err != nil {
		return nil, err
	}
	c.headers, err = cache.NewHeaders(r.Cache.headers())
	return c, err
}

// wrap puts the cache before a route's handler.
func (c *routeCache) wrap(next http.Handler) http.Handler {
	if c == nil {
		return next
	}
	return c.cache.Middleware(c.headers.Middleware(next))
}
