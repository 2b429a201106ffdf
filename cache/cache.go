package cache

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"time"
)

// ErrPurge reports that a purge cannot be carried out: the URL is not absolute, or how is neither
// [Soft] nor [Hard].
var ErrPurge = errors.New("cache: bad purge")

// A Cache is an HTTP cache. Create one with [New]. It is safe for concurrent use.
//
// A Cache runs handlers and sends requests on goroutines of its own, so that a response is stored
// although its client has left; [Cache.Close] ends those that no client waits for.
type Cache struct {
	cfg   Config // read-only after New
	store Store
	drops map[string]bool // response fields that are not stored
	quiet bool            // nobody observes

	shared bool        // several processes share the store
	fleet  coordinator // of their fetches; may be nil

	tallies []tally // a power of two
	counts  counts

	fills  fillTable
	passes *Memory[Key, struct{}] // what could not be shared lately
	rules  *ruleBook              // of No-Vary-Search
	work   work

	changes changes
}

const (
	passFor    = 10 * time.Second
	maxPasses  = 16384
	maxTallies = 64
)

// New returns a Cache. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Cache, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Store == nil {
		if cfg.Store, err = NewMemoryStore(MemoryStoreConfig{}); err != nil {
			return nil, err
		}
	}
	c := &Cache{cfg: cfg, store: cfg.Store, quiet: cfg.Observe == nil}
	c.fleet, _ = c.store.(coordinator)
	_, far := c.store.(FarStore)
	c.shared = far || c.fleet != nil
	c.drops = make(map[string]bool)
	for _, name := range notReplayed {
		c.drops[name] = true
	}
	for _, name := range cfg.Drop {
		c.drops[name] = true
	}
	c.tallies = make([]tally, min(maxTallies, 4*ceilPowerOf2(runtime.GOMAXPROCS(0))))
	c.fills.init()
	c.work.init()
	c.passes, err = NewMemory(MemoryConfig[Key, struct{}]{
		MaxEntries: maxPasses,
		TTL:        func(Key, struct{}) time.Duration { return passFor },
	})
	if err != nil {
		return nil, err
	}
	// A purge through any of the caches that share a store must find what their rules find.
	if shared, ok := c.store.(interface{ ruleBook() *ruleBook }); ok {
		c.rules = shared.ruleBook()
		return c, nil
	}
	c.rules, err = newRuleBook()
	return c, err
}

// Close ends the fetches that no client waits for and waits until they have ended, or until ctx
// does; then the error is ctx's cause. Afterwards the Cache goes on without such fetches.
func (c *Cache) Close(ctx context.Context) error { return c.work.close(ctx) }

// PurgeURL purges what is stored for an absolute URL: all its variants and parts, for each
// [Config.KeyExtra] and each body of QUERY, and the fetches under way. Neither its scheme nor its
// fragment counts. [Soft] responses are as if they had just become stale; [Hard] ones are gone.
func (c *Cache) PurgeURL(ctx context.Context, url string, how Invalidation) error {
	u, err := purgeURL(url)
	if err != nil {
		return err
	}
	for _, label := range c.urlLabels(u) {
		if err := c.purge(ctx, "url", Purge{Label: label, How: how}); err != nil {
			return err
		}
	}
	return nil
}

// PurgePrefix purges what is stored for the URLs that begin with prefix, which is an absolute URL
// with a path: "https://example.com/products/". The scheme does not count.
func (c *Cache) PurgePrefix(ctx context.Context, prefix string, how Invalidation) error {
	u, err := purgeURL(prefix)
	if err != nil {
		return err
	}
	plain := plainURL(u.Scheme, u.Host, u.EscapedPath(), u.RawQuery)
	if u.ForceQuery {
		plain += "?" // what begins with a query, and not all that begins with its path
	}
	return c.purge(ctx, "prefix", Purge{Prefix: plain, How: how})
}

// PurgeTag purges the responses that had tag in their field Surrogate-Key or Cache-Tag.
func (c *Cache) PurgeTag(ctx context.Context, tag string, how Invalidation) error {
	return c.purge(ctx, "tag", Purge{Label: tagLabel(tag), How: how})
}

// PurgeGroup purges the responses of an origin ("https://example.com") that had group in their
// field Cache-Groups (RFC 9875). The origin's scheme does not count.
func (c *Cache) PurgeGroup(ctx context.Context, origin, group string, how Invalidation) error {
	u, err := purgeURL(origin)
	if err != nil {
		return err
	}
	return c.purge(ctx, "group", Purge{Label: groupLabel(plainHost(u.Scheme, u.Host), group), How: how})
}

func (c *Cache) purge(ctx context.Context, by string, p Purge) error {
	if p.How != Soft && p.How != Hard {
		return fmt.Errorf("%w: neither Soft nor Hard", ErrPurge)
	}
	c.counts.purges.Add(1)
	c.changes.any.Add(1) // first, for what a POST may store
	err := c.store.Purge(ctx, p)
	c.storeResult(ctx, err)
	c.observe(ctx, Event{Kind: Purged, By: by, Soft: p.How == Soft, Err: err})
	if err != nil {
		return fmt.Errorf("cache: purge: %w", err)
	}
	return nil
}

// purgeURL parses an absolute URL.
func purgeURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%w: %q is not an absolute URL of http or https", ErrPurge, s)
	}
	return u, nil
}

// observe calls Observe, if there is one. If it panics, the event is lost.
func (c *Cache) observe(ctx context.Context, e Event) {
	if !c.quiet {
		c.cfg.Observe(ctx, e)
	}
}

// storeResult counts an error of the store, and tells when it begins or ceases to fail.
func (c *Cache) storeResult(ctx context.Context, err error) {
	if err == nil {
		if c.counts.storeDown.Load() != 0 && c.counts.storeDown.Swap(0) != 0 {
			c.observe(ctx, Event{Kind: StoreChanged, Up: true})
		}
		return
	}
	c.counts.failures.Add(1)
	if c.counts.storeDown.Swap(1) == 0 {
		c.observe(ctx, Event{Kind: StoreChanged, Err: err})
	}
}

// notReplayed are the response fields that say something about one exchange, and not about the
// response.
var notReplayed = []string{
	"Idempotent-Replayed", "Ratelimit", "Ratelimit-Policy", "Retry-After", "Server-Timing", "Trivet-Load",
}

// hopByHop are the fields of one connection (RFC 9110, section 7.6.1, and RFC 9111, section 3.1).
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authentication-Info": true,
	"Proxy-Authorization": true, "Proxy-Connection": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true,
}
