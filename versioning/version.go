package versioning

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// A Version is one of the versions that an API speaks, and until when it does.
type Version struct {
	// Name is what clients write: a date such as "2026-10-01", a number such as "2" or "2.1", or
	// any 1 to 64 letters, digits, '.', '_' and '-'. All names of an API are of one kind. Required.
	Name string

	// Deprecated is since when clients should leave the version; it may be in the future. If it is
	// set, responses have a Deprecation field (RFC 9745).
	Deprecated time.Time

	// Sunset is when the version ends. If it is set, responses have a Sunset field (RFC 8594), and
	// afterwards requests get 410; see [Config.Enforce]. It must not be before Deprecated.
	Sunset time.Time

	// Brownouts are times at which requests get 410 although the version has not ended, so that its
	// clients notice. They lie between Deprecated and Sunset, of which one must be set.
	Brownouts []Brownout

	// Successor is the URL of what replaces the version, for a Link with the relation
	// successor-version. If it is empty and the path named the version, the link is to the same
	// path in the next version that is still spoken.
	Successor string

	// Info is the URL of a page about the deprecation, for a Link with the relation deprecation.
	Info string

	// Links are sent with each response of the version, say latest-version, predecessor-version,
	// sunset or alternate.
	Links []Link
}

// A Brownout is a time at which a version is refused. From is in it, Until is not.
type Brownout struct {
	From, Until time.Time
}

// A Link is a field Link (RFC 8288): what Target, a URL, is to the version.
type Link struct {
	Rel, Target string
}

func (l Link) String() string { return "<" + l.Target + `>; rel="` + l.Rel + `"` }

// check adds the faults of v, which stands in field.
func (v *Version) check(f *settings.Faults, field string) {
	if !validName(v.Name) {
		f.Add(field+".Name", "%q is not 1 to 64 letters, digits, '.', '_' and '-'", v.Name)
	}
	// RFC 9745, section 4: the sunset must not be before the deprecation.
	if !v.Sunset.IsZero() && v.Sunset.Before(v.Deprecated) {
		f.Add(field+".Sunset", "is before Deprecated")
	}
	if len(v.Brownouts) > 0 && v.Sunset.IsZero() && v.Deprecated.IsZero() {
		f.Add(field+".Brownouts", "need Deprecated or Sunset")
	}
	for _, b := range v.Brownouts {
		switch {
		case !b.From.Before(b.Until):
			f.Add(field+".Brownouts", "one ends before it begins")
		case b.From.Before(v.Deprecated):
			f.Add(field+".Brownouts", "one is before Deprecated")
		case !v.Sunset.IsZero() && b.Until.After(v.Sunset):
			f.Add(field+".Brownouts", "one is after Sunset")
		}
	}
	for _, at := range []struct {
		field string
		time  time.Time
	}{{".Deprecated", v.Deprecated}, {".Sunset", v.Sunset}} {
		if !at.time.IsZero() && (at.time.UTC().Year() < 1970 || at.time.UTC().Year() > 9999) {
			f.Add(field+at.field, "the year is not 1970 to 9999")
		}
	}
	for _, l := range v.links() {
		if !validTarget(l.Target) || !validRelation(l.Rel) {
			f.Add(field+".Links", "%v is not a link", l)
		}
	}
}

// links returns all that v says of itself, its successor first.
func (v *Version) links() []Link {
	var links []Link
	if v.Successor != "" {
		links = append(links, Link{"successor-version", v.Successor})
	}
	if v.Info != "" {
		links = append(links, Link{"deprecation", v.Info})
	}
	return append(links, v.Links...)
}

func validTarget(s string) bool {
	_, err := url.Parse(s)
	return err == nil && s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '"'
	})
}

// validRelation reports whether s is one relation (RFC 8288, section 3.3): a word or a URL.
func validRelation(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"<>;,\`, c)
	})
}

func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// A scheme is the kind of an API's version names.
type scheme uint8

const (
	words scheme = iota
	dates
	numbers
)

// fewNames is how many names are compared before one is parsed.
const fewNames = 16

// A table knows the versions of an API, oldest first.
type table struct {
	scheme   scheme
	floor    bool
	names    []string
	ordinals []uint64 // of dates and numbers, ascending
}

// newTable returns the table of versions and adds to f what is wrong with their order.
func newTable(f *settings.Faults, versions []Version) table {
	t := table{}
	kinds := [3]int{}
	for _, v := range versions {
		t.names = append(t.names, v.Name)
		if _, ok := parseDate(v.Name); ok {
			kinds[dates]++
		} else if _, ok := parseNumber(v.Name); ok {
			kinds[numbers]++
		} else {
			kinds[words]++
		}
	}
	switch len(versions) {
	case 0:
		f.Add("Versions", "there are none")
	case kinds[dates]:
		t.scheme = dates
	case kinds[numbers]:
		t.scheme = numbers
	case kinds[words]:
	default:
		f.Add("Versions", "the names are not all dates, all numbers or all words")
	}
	for i, name := range t.names {
		if t.scheme == words {
			if slices.Contains(t.names[:i], name) {
				f.Add("Versions", "%q is there twice", name)
			}
			continue
		}
		at, _ := t.parse(name)
		if i > 0 && at <= t.ordinals[i-1] {
			f.Add("Versions", "%q is not newer than %q before it", name, t.names[i-1])
		}
		t.ordinals = append(t.ordinals, at)
	}
	return t
}

func (t *table) parse(s string) (ordinal uint64, ok bool) {
	if t.scheme == dates {
		return parseDate(s)
	}
	return parseNumber(s)
}

// find returns the index of the version that s means, or a negative number and why there is none.
// now is a point after which dates mean nothing yet.
func (t *table) find(s string, now time.Time) (index int, why Status) {
	if t.scheme == words {
		if !validName(s) {
			return -1, Malformed
		}
		if i := slices.Index(t.names, s); i >= 0 {
			return i, ""
		}
		return -1, Unsupported
	}
	if len(t.names) <= fewNames {
		if i := slices.Index(t.names, s); i >= 0 {
			return i, ""
		}
	}
	at, ok := t.parse(s)
	if !ok {
		return -1, Malformed
	}
	i, found := slices.BinarySearch(t.ordinals, at)
	switch {
	case found:
		return i, ""
	case !t.floor || i == 0:
		return -1, Unsupported
	case t.scheme == dates:
		// What a date after today will mean nobody knows: a version may be added until then.
		if at > ordinal(now.UTC().Date()) {
			return -1, Unsupported
		}
	case i == len(t.ordinals) || t.ordinals[i-1]>>32 != at>>32 || t.ordinals[i]>>32 != at>>32:
		return -1, Unsupported // no later minor version, and no other major one
	}
	return i - 1, ""
}

// index returns the index of the version with that name, or -1.
func (t *table) index(name string) int { return slices.Index(t.names, name) }

// claims reports whether s, which stands where a version may, is meant as one.
func (t *table) claims(s string) bool {
	switch {
	case s == "":
		return false
	case t.scheme == words:
		return slices.Contains(t.names, s)
	case len(s) == len("latest") && strings.EqualFold(s, "latest"):
		return true
	}
	return startsWithDigit(s)
}

// parseDate reads a date as RFC 3339 writes it, in ASCII.
func parseDate(s string) (uint64, bool) {
	if len(s) != len("2006-01-02") || s[4] != '-' || s[7] != '-' {
		return 0, false
	}
	year, ok1 := decimal(s[:4])
	month, ok2 := decimal(s[5:7])
	day, ok3 := decimal(s[8:])
	if !ok1 || !ok2 || !ok3 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return 0, false
	}
	return ordinal(int(year), time.Month(month), int(day)), true
}

func daysIn(year, month uint64) uint64 {
	return uint64(time.Date(int(year), time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day())
}

func ordinal(year int, month time.Month, day int) uint64 {
	return uint64(year)*10000 + uint64(month)*100 + uint64(day)
}

// parseNumber reads "2" or "2.1". One version has one spelling, but for "2" and "2.0".
func parseNumber(s string) (uint64, bool) {
	major, minor, dotted := strings.Cut(s, ".")
	a, ok := shortest(major)
	if !ok || !dotted {
		return a << 32, ok
	}
	b, ok := shortest(minor)
	return a<<32 | b, ok
}

// shortest reads a number of at most 9 digits that has no zeros in front.
func shortest(s string) (uint64, bool) {
	if s == "" || len(s) > 9 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	return decimal(s)
}

func decimal(s string) (n uint64, ok bool) {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + uint64(s[i]-'0')
	}
	return n, true
}
