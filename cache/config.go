package cache

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultHeuristic    = 0.1
	maxHeuristic        = 24 * time.Hour
	defaultMaxVariants  = 32
	defaultMaxBody      = 64 << 10
	defaultFetchTimeout = time.Minute
	defaultWait         = 5 * time.Second

	objectShare    = 16 // MaxObject is this part of the store's bound
	maxObjectShare = 4  // and at most this part
)

// An UnkeyedAction says what is done with the request fields that many handlers read and no key
// holds: X-Original-URL, all X-Forwarded-* but X-Forwarded-For, and their like, in any spelling.
// One client's value must not shape what another client gets.
type UnkeyedAction int

const (
	// UnkeyedKey makes the values of these fields part of the key. The parameters for and by of
	// the field Forwarded, which tell one client from another, stay out.
	UnkeyedKey UnkeyedAction = iota
	// UnkeyedDrop keeps these fields from the handler, X-Forwarded-User and a client's certificate
	// among them.
	UnkeyedDrop
)

// Config configures a [Cache]. The zero Config is valid: a shared cache with a store of its own.
// Its functions must be safe for concurrent use.
type Config struct {
	// Store keeps the responses. If nil, the Cache has a [MemoryStore] of 64 MiB of its own.
	// Several caches, of routes with rules of their own, may share one: then they have one bound,
	// and a purge through any of them reaches all.
	Store Store

	// Private makes the cache one of a single user: it stores what is private and obeys no
	// directive meant for shared caches. The default is a shared cache.
	Private bool

	// KeyExtra, if not nil, returns what else tells one response from another, such as the version
	// of the API that was resolved (versioning.Key). If ok is false nothing is added to the key,
	// as without KeyExtra. An empty key with ok true is a value of its own.
	KeyExtra func(r *http.Request) (key string, ok bool)

	// IgnoreQuery names the parameters of the URL's query that make no difference, such as
	// "fbclid". A name that ends in "*" stands for all names that begin so: "utm_*". The handler
	// gets them all the same.
	IgnoreQuery []string

	// Skip, if not nil, reports which requests pass untouched: neither answered from the cache nor
	// stored, and they invalidate nothing.
	Skip func(r *http.Request) bool

	// StoreSetCookie allows a response with Set-Cookie to be stored and replayed, cookies included.
	// By default it is not stored.
	StoreSetCookie bool

	// TargetedFields are the fields of RFC 9213 that are obeyed instead of Cache-Control and
	// Expires, the first valid one first. If nil, they are CDN-Cache-Control in a shared cache and
	// none in a private one. Empty and not nil means none.
	TargetedFields []string

	// Heuristic is the share of the time since Last-Modified for which a response without explicit
	// freshness is fresh, for 24 hours at most. Zero means a tenth. Negative means that there is no
	// heuristic freshness. More than 1 is invalid.
	Heuristic float64

	// MaxObject is the size in bytes of the largest body that is stored. Larger ones stream
	// through. Zero means a sixteenth of the store's bound. Negative is invalid, and so is more
	// than a quarter of it.
	MaxObject int64

	// MaxVariants is the most variants (Vary) of one URL that are stored. The oldest leave. Zero
	// means 32. Negative is invalid.
	MaxVariants int

	// MaxBackground is the most fetches at once that no client waits for: refreshes of stale
	// responses, and fills whose clients have left. Beyond it, refreshes are put off and abandoned
	// fills are canceled. Zero means 64. Negative means none.
	MaxBackground int

	// MaxBody is the size in bytes of the largest request body of QUERY that can be part of a key.
	// Requests with larger ones pass. Zero means 64 KiB. Negative is invalid.
	MaxBody int64

	// FetchTimeout ends a fetch that no client waits for. Zero means one minute. Negative is
	// invalid.
	FetchTimeout time.Duration

	// Wait is for how long a request waits for the header of a fetch that another began; then it
	// fetches for itself. Zero means 5 seconds. Negative means not at all.
	Wait time.Duration

	// Unkeyed says what is done with request fields that handlers read and keys do not hold. Zero
	// is [UnkeyedKey]: their values become part of the key.
	Unkeyed UnkeyedAction

	// Drop names further fields of responses that are not replayed.
	Drop []string

	// IgnoreReload makes the cache answer requests that ask for validation or for something fresher
	// (no-cache, max-age, min-fresh, Pragma) like others, so that no client can make it fetch.
	IgnoreReload bool

	// Detail adds to the field Cache-Status the reason, in the words of [Reason].
	Detail bool

	// Observe, if not nil, receives every [Event]. It must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// withDefaults validates c, copies what it refers to and fills in zero fields. Store is left alone.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("cache", "Config")
	settings.Share(f, "Heuristic", &c.Heuristic, defaultHeuristic)
	settings.Positive(f, "MaxVariants", &c.MaxVariants, defaultMaxVariants)
	settings.Default(f, "MaxBackground", &c.MaxBackground, defaultMaxBackground)
	settings.Positive(f, "MaxBody", &c.MaxBody, defaultMaxBody)
	settings.Positive(f, "FetchTimeout", &c.FetchTimeout, defaultFetchTimeout)
	settings.Default(f, "Wait", &c.Wait, defaultWait)
	if c.Unkeyed != UnkeyedKey && c.Unkeyed != UnkeyedDrop {
		f.Add("Unkeyed", "%d is unknown", int(c.Unkeyed))
	}
	bound := int64(defaultMaxBytes)
	if c.Store != nil {
		bound = c.Store.Capacity()
	}
	settings.Positive(f, "MaxObject", &c.MaxObject, max(1, bound/objectShare))
	if most := bound / maxObjectShare; c.MaxObject > max(1, most) {
		f.Add("MaxObject", "%d is more than a quarter of the store's bound, %d", c.MaxObject, most)
	}
	c.IgnoreQuery = slices.Clone(c.IgnoreQuery)
	for i, name := range c.IgnoreQuery {
		if name == "" || strings.Contains(strings.TrimSuffix(name, "*"), "*") {
			f.Add("IgnoreQuery", "entry %d, %q, is neither a name nor a beginning and a final *", i, name)
		}
	}
	if c.TargetedFields == nil && !c.Private {
		c.TargetedFields = []string{"CDN-Cache-Control"}
	}
	c.TargetedFields = fieldNames(f, "TargetedFields", c.TargetedFields)
	c.Drop = fieldNames(f, "Drop", c.Drop)
	return c, f.Err()
}

// fieldNames returns names in their canonical form. One that cannot name a field is a fault.
func fieldNames(f *settings.Faults, field string, names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		if !grammar.IsToken(name) {
			f.Add(field, "entry %d, %q, is not the name of a field", i, name)
		}
		list[i] = http.CanonicalHeaderKey(name)
	}
	return list
}
