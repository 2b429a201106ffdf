package versioning

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Status is how a version stands, or why a request has none.
type Status string

// How the version of a request stands. Requests of the last two are refused.
const (
	Active     Status = "active"
	Deprecated Status = "deprecated" // Version.Deprecated has passed
	BrownedOut Status = "brownout"   // refused for a while
	Gone       Status = "gone"       // Version.Sunset has passed
)

// Why a request has no version.
const (
	Missing     Status = "missing"     // it names none, and Default is Require
	Malformed   Status = "malformed"   // what it names cannot be one
	Duplicate   Status = "duplicate"   // one source names several
	Conflicting Status = "conflict"    // sources name different ones
	Unsupported Status = "unsupported" // what it names is not spoken, or not yet
)

// A version is a Version and what requests need of it.
type version struct {
	Version
	ends        bool     // it has a Sunset or Brownouts
	deprecation string   // the field's value, "" if there is none
	sunset      string   // likewise
	links       []string // likewise
}

func newVersion(v Version) version {
	d := version{Version: v, ends: !v.Sunset.IsZero() || len(v.Brownouts) > 0}
	if !v.Deprecated.IsZero() {
		// RFC 9745, section 2: a Date of structured fields.
		d.deprecation = "@" + strconv.FormatInt(v.Deprecated.Unix(), 10)
	}
	if !v.Sunset.IsZero() {
		d.sunset = v.Sunset.UTC().Format(http.TimeFormat) // RFC 8594, section 3
	}
	for _, l := range v.links() {
		d.links = append(d.links, l.String())
	}
	return d
}

// status returns how the version with that index stands at now, and until when if it is a brownout.
func (v *Versions) status(index int, now time.Time) (s Status, until time.Time) {
	d := &v.versions[index]
	if d.ends {
		ended := !d.Sunset.IsZero() && !now.Before(d.Sunset)
		for _, b := range d.Brownouts {
			if !now.Before(b.From) && b.Until.After(now) && b.Until.After(until) {
				until = b.Until
			}
		}
		refused := ended || !until.IsZero()
		if v.cfg.Enforce != nil {
			refused = v.cfg.Enforce(d.Name, now)
		}
		switch {
		case refused && ended:
			return Gone, time.Time{}
		case refused:
			return BrownedOut, until
		}
	}
	if !d.Deprecated.IsZero() && !now.Before(d.Deprecated) {
		return Deprecated, time.Time{}
	}
	return Active, time.Time{}
}

// supported returns the names of the versions that have not ended, oldest first.
func (v *Versions) supported(now time.Time) []string {
	names := make([]string, 0, len(v.versions))
	for i := range v.versions {
		if s, _ := v.status(i, now); s != Gone {
			names = append(names, v.versions[i].Name)
		}
	}
	return names
}

// next returns the index of the oldest version after index that is spoken, or the head's.
func (v *Versions) next(index int, now time.Time) int {
	for i := index + 1; i < len(v.versions); i++ {
		if s, _ := v.status(i, now); s == Active || s == Deprecated {
			return i
		}
	}
	return len(v.versions) - 1
}

// oldest returns the index of the oldest version that has not ended, or the head's. A brownout does
// not make another version the oldest: its clients are to notice.
func (v *Versions) oldest(now time.Time) int {
	for i := range v.versions {
		if s, _ := v.status(i, now); s != Gone {
			return i
		}
	}
	return v.head()
}

// A supportedList is the value of the field Supported, until the next version ends.
type supportedList struct {
	until time.Time // zero: for ever
	value string
}

// supportedValue returns the value of the field Supported at now.
func (v *Versions) supportedValue(now time.Time) string {
	if l := v.list.Load(); l != nil && (l.until.IsZero() || now.Before(l.until)) {
		return l.value
	}
	l := &supportedList{value: strings.Join(v.supported(now), ", ")}
	if v.cfg.Enforce != nil {
		return l.value // which may change at any time
	}
	for i := range v.versions {
		end := v.versions[i].Sunset
		if end.After(now) && (l.until.IsZero() || end.Before(l.until)) {
			l.until = end
		}
	}
	v.list.Store(l)
	return l.value
}

// announce sets the fields that tell about the version of s. It may be called again: a handler, or
// a proxied server that has versions too, may have set or removed them.
func (s *scope) announce(h http.Header) {
	d := &s.versions.versions[s.index]
	cfg := &s.versions.cfg
	if cfg.Echo != "" {
		s.field(h, cfg.Echo, &s.echo, d.Name)
	}
	if cfg.Supported != "" {
		s.field(h, cfg.Supported, &s.supported, s.supported[0])
	}
	if d.deprecation != "" {
		s.field(h, "Deprecation", &s.deprecation, d.deprecation)
	}
	if d.sunset != "" {
		s.field(h, "Sunset", &s.sunset, d.sunset)
	}
	for _, link := range d.links {
		addOnce(h, "Link", link)
	}
	if s.successor != "" {
		addOnce(h, "Link", s.successor)
	}
}

// field sets the field to value, in room that the scope has.
func (s *scope) field(h http.Header, name string, room *[1]string, value string) {
	if have := h[name]; len(have) != 1 || have[0] != value {
		room[0] = value
		h[name] = room[:1:1]
	}
}

func addOnce(h http.Header, name, value string) {
	if !slices.Contains(h[name], value) {
		h[name] = append(h[name], value)
	}
}
