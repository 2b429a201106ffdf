package versioning

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Versions knows the versions of an API and which one each request speaks. Create one with [New].
// Versions is safe for concurrent use and starts no goroutines.
type Versions struct {
	cfg      Config // read-only after New
	table    table
	timed    bool // what requests get depends on the time
	versions []version
	chains   []chain // by version

	vary    vary // of responses to requests whose Pin was not asked
	varyPin vary

	list   atomic.Pointer[supportedList]
	counts counts
	ledger *ledger
}

// A vary is what responses vary by.
type vary struct {
	names []string
	line  string
}

func newVary(names []string) vary { return vary{names: names, line: strings.Join(names, ", ")} }

// New returns Versions. The error, if any, names every invalid field of cfg. New copies cfg:
// changing it afterwards has no effect.
func New(cfg Config) (*Versions, error) {
	cfg, t, f := cfg.withDefaults()
	changes := newChanges(f, &t, cfg.Changes)
	if err := f.Err(); err != nil {
		return nil, err
	}
	v := &Versions{cfg: cfg, table: t, chains: newChains(len(cfg.Versions), changes)}
	v.timed = t.floor
	for _, version := range cfg.Versions {
		v.versions = append(v.versions, newVersion(version))
		v.timed = v.timed || !version.Deprecated.IsZero() || !version.Sunset.IsZero() ||
			len(version.Brownouts) > 0
	}
	var names []string
	for i := range cfg.Sources {
		names = appendUnique(names, cfg.Sources[i].vary...)
	}
	v.vary = newVary(names)
	v.varyPin = v.vary
	if cfg.Pin != nil {
		v.varyPin = newVary(appendUnique(names[:len(names):len(names)], cfg.PinVary...))
	}
	v.counts.versions = make([]versionCounts, len(v.versions))
	v.ledger = newLedger(len(v.versions), cfg.MaxKeys, cfg.Watch, time.Now())
	return v, nil
}

func (v *Versions) head() int { return len(v.versions) - 1 }

// Changes returns the changes in the order in which requests of the oldest version go through them.
func (v *Versions) Changes() []Change {
	list := make([]Change, 0, len(v.chains[0].changes))
	for i := range v.chains[0].changes {
		list = append(list, v.chains[0].changes[i].Change)
	}
	return list
}

// Middleware returns a handler that finds out which version a request speaks and lets next, which
// speaks the head version, answer it: [Versions.Resolve] around [Versions.Convert]. It panics if
// next is nil.
func (v *Versions) Middleware(next http.Handler) http.Handler { return v.resolve(next, true) }

// Resolved is which version a request speaks.
type Resolved struct {
	Version   string // one of Config.Versions
	Requested string // as the client, or Config.Pin, named it; "" if nobody did
	Source    string // path, host, header, media_type, query, function, pin, default or preflight
	Status    Status // Active or Deprecated
}

// FromContext returns which version the request that ctx belongs to speaks. ok is false outside of
// [Versions.Resolve] and for requests that [Config].Skip named.
func FromContext(ctx context.Context) (r Resolved, ok bool) {
	if s := scopeFrom(ctx); s != nil {
		r = Resolved{Version: s.version(), Requested: s.requested, Source: s.source.String(), Status: Active}
		if s.deprecated {
			r.Status = Deprecated
		}
		return r, true
	}
	return Resolved{}, false
}

// Key returns the version that r speaks, as a part of the key under which a cache inside
// [Versions.Resolve] keeps the response; inside of several, the versions of all of them. ok is
// false where FromContext's is.
func Key(r *http.Request) (key string, ok bool) {
	s := scopeFrom(r.Context())
	if s == nil {
		return "", false
	}
	key = s.version()
	for s = scopeFrom(s.Context); s != nil; s = scopeFrom(s.Context) {
		key = s.version() + "/" + key // which no name has
	}
	return key, true
}

// A scope is the context of a request that has a version. It holds all that the request needs, so
// that it is one allocation.
type scope struct {
	context.Context
	versions   *Versions
	index      int32 // of the version
	deprecated bool  // its status
	isCut      bool  // the path lacks the prefix already, which was of a request to host
	slashes    bool  // it begins with two slashes since
	requested  string
	source     sourceKind
	prefix     string // "/v2", if the path named the version
	host       string
	vary       *vary

	writer    writer
	successor string // a Link, if the version has none of its own

	// Room for the values of fields.
	varies, echo, supported, deprecation, sunset [1]string
}

func (s *scope) version() string { return s.versions.versions[s.index].Name }

type scopeKey struct{}

func (s *scope) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return s
	}
	return s.Context.Value(key)
}

// scopeFrom returns the scope of ctx, or nil.
func scopeFrom(ctx context.Context) *scope {
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

// scopeOf returns the scope that v gave to r, or nil.
func (v *Versions) scopeOf(r *http.Request) *scope {
	s := scopeFrom(r.Context())
	for s != nil && s.versions != v {
		s = scopeFrom(s.Context)
	}
	return s
}
