package versioning

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/settings"
)

const (
	endless        = 1 << 60 // bytes, to which something can still be added
	defaultMaxBody = 1 << 20
	defaultMaxItem = 64 << 10
	defaultMaxKeys = 10_000
	defaultWatch   = 30 * 24 * time.Hour
)

// A Default says which version a request speaks that names none.
type Default string

const (
	// Require refuses the request with 400.
	Require Default = "require"

	// Oldest is the oldest version that has not ended.
	Oldest Default = "oldest"

	// Current is the newest version, the head.
	Current Default = "current"
)

// Fixed returns the Default that is the version with that name.
func Fixed(version string) Default { return Default(fixedPrefix + version) }

const fixedPrefix = "fixed:"

// A Match says what a name means that is not the name of a version.
type Match string

const (
	// Exact refuses such a name.
	Exact Match = "exact"

	// Floor takes the newest version that is not newer than the name. A date means the last version
	// before it, and is refused if it is after today. A number means the last minor version before
	// it, and is refused unless its major version has a later minor one too. Words have no Floor.
	Floor Match = "floor"
)

// A Conflict says what happens when sources name different versions.
type Conflict string

const (
	// Reject refuses the request with 400.
	Reject Conflict = "reject"

	// FirstWins takes the source with the highest precedence and does not read the others.
	FirstWins Conflict = "first_wins"
)

// OnError says what a client gets whose response cannot be converted.
type OnError string

const (
	// Refuse answers 500. A stream that has begun breaks off.
	Refuse OnError = "refuse"

	// Pass sends the response as the handler wrote it, which is the head version's. A stream that
	// has begun breaks off all the same.
	Pass OnError = "pass"
)

// Config configures [Versions].
type Config struct {
	// Versions are what the API speaks, oldest first; the last is the head version, which the
	// handler speaks. Required.
	Versions []Version

	// Sources are where requests name a version. Without any, Pin and Default decide.
	Sources []Source

	// Conflict says what happens when Sources disagree. Empty means [Reject].
	Conflict Conflict

	// Match says whether a request may name a version that does not exist. Empty means [Exact].
	Match Match

	// Pin, if not nil, returns the version that the caller's account is bound to. It is asked if no
	// source names a version. ok is false if there is none.
	Pin func(r *http.Request) (version string, ok bool)

	// PinVary names the fields that Pin looks at, or is "*" if it looks at something else. Empty
	// means Authorization.
	PinVary []string

	// Default is the version of requests that name none and have no Pin. Empty means [Require].
	Default Default

	// Skip, if not nil, names requests whose routes have no versions. They are passed on untouched.
	Skip func(*http.Request) bool

	// Enforce, if not nil, says whether a version with a Sunset or Brownouts is refused at now, in
	// place of these dates: false switches a sunset off again, true before it is a rehearsal. If
	// nil, the dates decide. It is called often, for requests of other versions too.
	Enforce func(version string, now time.Time) bool

	// Echo names the response field that has the version which was spoken, say Api-Version. Empty
	// means none.
	Echo string

	// Supported names the response field that lists the versions which have not ended. Empty means
	// none. Problem documents list them anyway.
	Supported string

	// Changes are what makes versions differ, for [Versions.Convert]. Those of one version are
	// applied to requests in their order, and to responses in the reverse one.
	Changes []Change

	// MaxBody is the most bytes of a body that is converted as a whole. A request with more gets
	// 413; for responses see OnError. Zero means 1 MiB. Negative is invalid.
	MaxBody int64

	// MaxItem is the most bytes of an item (an event, a line) of a stream that is converted. Zero
	// means 64 KiB. Negative is invalid.
	MaxItem int64

	// OnError says what becomes of a response that cannot be converted. Empty means [Refuse].
	OnError OnError

	// Client names who sent a request, for [Versions.Report] and [Versions.Removable]. If nil, or
	// ok is false, the client has no name.
	Client func(r *http.Request) (key string, ok bool)

	// Internal, if not nil, names requests that do not count as use: monitoring, crawlers, services
	// of your own that follow the head version.
	Internal func(*http.Request) bool

	// MaxKeys is how many combinations of version, route and client are counted. Further ones share
	// one more for each version, and no version is removable from then on, until a ledger begins
	// anew: leave room for clients that come and go. Zero means 10,000. Negative is invalid.
	MaxKeys int

	// Watch is how long a version must have been unused before [Versions.Removable] says so. Zero
	// means 30 days. Negative is invalid.
	Watch time.Duration

	// ErrorHandler answers requests that are refused; Vary and other fields are set already, and so
	// is Cache-Control: no-store. err is a [*RefusedError] or a [*ConversionError]. If nil, they
	// get a problem document (RFC 9457).
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Observe, if not nil, receives an event for each request that is given a version or refused,
	// and for each conversion that fails. It is called with no lock held, on the goroutine that
	// serves the request or reads its body, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// withDefaults validates c, Changes excepted, and fills in zero fields.
func (c Config) withDefaults() (Config, table, *settings.Faults) {
	f := settings.Of("versioning", "Config")
	c.Versions = slices.Clone(c.Versions)
	for i := range c.Versions {
		v := &c.Versions[i]
		v.Brownouts, v.Links = slices.Clone(v.Brownouts), slices.Clone(v.Links)
		v.check(f, fmt.Sprintf("Versions[%d]", i))
	}
	t := newTable(f, c.Versions)
	c.Sources = slices.Clone(c.Sources)
	for i := range c.Sources {
		c.Sources[i].check(f, fmt.Sprintf("Sources[%d]", i))
	}
	slices.SortStableFunc(c.Sources, func(a, b Source) int { return cmp.Compare(a.kind, b.kind) })
	oneOf(f, "Conflict", &c.Conflict, Reject, FirstWins)
	oneOf(f, "Match", &c.Match, Exact, Floor)
	oneOf(f, "OnError", &c.OnError, Refuse, Pass)
	if t.floor = c.Match == Floor; t.floor && t.scheme == words && len(c.Versions) > 0 {
		f.Add("Match", "words have no Floor")
	}
	c.checkDefault(f, &t)
	c.PinVary = slices.Clone(c.PinVary)
	if len(c.PinVary) == 0 {
		c.PinVary = []string{"Authorization"}
	}
	for i, name := range c.PinVary {
		c.PinVary[i] = textproto.CanonicalMIMEHeaderKey(name)
		if !grammar.IsToken(name) {
			f.Add(fmt.Sprintf("PinVary[%d]", i), "%q is not the name of a field", name)
		}
	}
	for _, field := range []struct {
		name  string
		value *string
	}{{"Echo", &c.Echo}, {"Supported", &c.Supported}} {
		if *field.value != "" && !grammar.IsToken(*field.value) {
			f.Add(field.name, "%q is not the name of a field", *field.value)
		}
		*field.value = textproto.CanonicalMIMEHeaderKey(*field.value)
	}
	if c.Echo != "" && c.Echo == c.Supported {
		f.Add("Supported", "is the same field as Echo")
	}
	settings.Positive(f, "MaxBody", &c.MaxBody, defaultMaxBody)
	c.MaxBody = min(c.MaxBody, endless)
	settings.Positive(f, "MaxItem", &c.MaxItem, defaultMaxItem)
	settings.Positive(f, "MaxKeys", &c.MaxKeys, defaultMaxKeys)
	settings.Positive(f, "Watch", &c.Watch, defaultWatch)
	return c, t, f
}

func (c *Config) checkDefault(f *settings.Faults, t *table) {
	c.Default = cmp.Or(c.Default, Require)
	if version, ok := strings.CutPrefix(string(c.Default), fixedPrefix); ok {
		if t.index(version) < 0 {
			f.Add("Default", "%q is not one of Versions", version)
		}
		return
	}
	oneOf(f, "Default", &c.Default, Require, Oldest, Current)
	if c.Default == Require && len(c.Sources) == 0 && c.Pin == nil {
		f.Add("Default", "is required: there are no Sources and no Pin")
	}
}

// oneOf sets *v to the first of values if it is empty, and adds a fault if it is none of them.
func oneOf[S ~string](f *settings.Faults, field string, v *S, values ...S) {
	*v = cmp.Or(*v, values[0])
	if !slices.Contains(values, *v) {
		f.Add(field, "%q is none of %q", *v, values)
	}
}
