package cache

import (
	"net/http"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/trivet-go/trivet/internal/grammar"
)

// directives are what a response says about how it may be cached.
type directives struct {
	noStore, noCache, private, public         bool
	mustRevalidate, proxyRevalidate           bool
	mustUnderstand, immutable                 bool
	maxAge, sMaxage, whileRevalidate, ifError seconds
	noCacheFields, privateFields              []string // that the qualified forms name
	targeted                                  bool     // from a field of RFC 9213
}

// seconds is a delta-seconds, or absent.
type seconds int64

const (
	absent     seconds = -1
	maxSeconds seconds = 1 << 31 // RFC 9111, section 1.2.2: greater ones count as this
)

func (s seconds) duration() time.Duration { return time.Duration(max(s, 0)) * time.Second }

func noDirectives() directives {
	return directives{maxAge: absent, sMaxage: absent, whileRevalidate: absent, ifError: absent}
}

// responseDirectives returns the directives of a response: those of the first targeted field that
// is valid and not empty, otherwise those of Cache-Control.
func responseDirectives(h http.Header, targeted []string) directives {
	for _, name := range targeted {
		if d, ok := targetedDirectives(h[name]); ok {
			return d
		}
	}
	d := noDirectives()
	eachDirective(h["Cache-Control"], d.set)
	// RFC 9111, section 5.4, leaves Pragma in responses undefined.
	return d
}

// set takes one directive of Cache-Control. The first of several of the same name counts (RFC 9111,
// section 4.2.1), and an invalid age counts as zero: such a response is stale.
func (d *directives) set(name, value string, hasValue bool) {
	switch {
	case strings.EqualFold(name, "max-age"):
		d.maxAge.set(value)
	case strings.EqualFold(name, "s-maxage"):
		d.sMaxage.set(value)
	case strings.EqualFold(name, "stale-while-revalidate"):
		d.whileRevalidate.set(value)
	case strings.EqualFold(name, "stale-if-error"):
		d.ifError.set(value)
	case strings.EqualFold(name, "no-store"):
		d.noStore = true
	case strings.EqualFold(name, "no-cache"):
		// RFC 9111, section 5.2.2.4: an argument names the fields that must not be replayed.
		if fields := fieldList(value); hasValue && len(fields) > 0 {
			d.noCacheFields = append(d.noCacheFields, fields...)
		} else {
			d.noCache = true
		}
	case strings.EqualFold(name, "private"):
		if fields := fieldList(value); hasValue && len(fields) > 0 {
			d.privateFields = append(d.privateFields, fields...)
		} else {
			d.private = true
		}
	case strings.EqualFold(name, "public"):
		d.public = true
	case strings.EqualFold(name, "must-revalidate"):
		d.mustRevalidate = true
	case strings.EqualFold(name, "proxy-revalidate"):
		d.proxyRevalidate = true
	case strings.EqualFold(name, "must-understand"):
		d.mustUnderstand = true
	case strings.EqualFold(name, "immutable"):
		d.immutable = true
	}
}

func (s *seconds) set(value string) {
	if *s == absent {
		*s = parseSeconds(value)
	}
}

// parseSeconds parses a delta-seconds. Anything else is 0.
func parseSeconds(s string) seconds {
	n, _ := deltaSeconds(s)
	return n
}

func deltaSeconds(s string) (n seconds, ok bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = min(maxSeconds, n*10+seconds(s[i]-'0'))
	}
	return n, true
}

// fieldList returns the names of fields in the argument of a qualified directive.
func fieldList(value string) []string {
	var names []string
	for _, name := range splitList(value, ',') {
		if grammar.IsToken(name) {
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	return names
}

// targetedDirectives parses a field of RFC 9213. It reports false if the field must be ignored: it
// is empty, no Dictionary, or the value of a directive has the wrong type.
func targetedDirectives(values []string) (d directives, ok bool) {
	if len(values) == 0 {
		return d, false
	}
	dict, err := httpsfv.UnmarshalDictionary(values)
	if err != nil || len(dict.Names()) == 0 {
		return d, false
	}
	d = noDirectives()
	d.targeted = true
	for _, name := range dict.Names() {
		member, _ := dict.Get(name)
		item, isItem := member.(httpsfv.Item)
		switch name {
		case "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error":
			n, isInt := item.Value.(int64)
			if !isItem || !isInt {
				return d, false
			}
			age := seconds(min(max(n, 0), int64(maxSeconds)))
			switch name {
			case "max-age":
				d.maxAge = age
			case "s-maxage":
				d.sMaxage = age
			case "stale-while-revalidate":
				d.whileRevalidate = age
			default:
				d.ifError = age
			}
		case "no-cache", "private":
			// The argument of the qualified form is a String.
			if s, isString := item.Value.(string); isItem && isString {
				d.set(name, s, true)
				continue
			}
			fallthrough
		case "no-store", "public", "must-revalidate", "proxy-revalidate", "must-understand", "immutable":
			on, isBool := item.Value.(bool)
			if !isItem || !isBool {
				return d, false
			}
			if on {
				d.set(name, "", false)
			}
		}
	}
	return d, true
}

// requestDirectives are what a request asks of a cache.
type requestDirectives struct {
	noStore, noCache, onlyIfCached      bool
	maxAge, minFresh, maxStale, ifError seconds
}

// maxStaleAny is the value of a max-stale without argument.
const maxStaleAny = maxSeconds + 1

// unasked is what a request without directives asks for.
var unasked = requestDirectives{maxAge: absent, minFresh: absent, maxStale: absent, ifError: absent}

func parseRequestDirectives(h http.Header) requestDirectives {
	d := unasked
	values := h["Cache-Control"]
	eachDirective(values, func(name, value string, hasValue bool) {
		switch {
		case strings.EqualFold(name, "no-store"):
			d.noStore = true
		case strings.EqualFold(name, "no-cache"):
			d.noCache = true
		case strings.EqualFold(name, "only-if-cached"):
			d.onlyIfCached = true
		case strings.EqualFold(name, "max-age"):
			d.maxAge.set(value)
		case strings.EqualFold(name, "min-fresh"):
			d.minFresh.set(value)
		case strings.EqualFold(name, "stale-if-error"):
			d.ifError.set(value)
		case strings.EqualFold(name, "max-stale"):
			switch n, ok := deltaSeconds(value); {
			case d.maxStale != absent:
			case ok:
				d.maxStale = n
			case !hasValue:
				d.maxStale = maxStaleAny
			}
		}
	})
	if len(values) == 0 {
		// RFC 9111, section 5.4: Pragma counts only where there is no Cache-Control.
		eachDirective(h["Pragma"], func(name, _ string, _ bool) {
			d.noCache = d.noCache || strings.EqualFold(name, "no-cache")
		})
	}
	return d
}

// eachDirective calls f for each directive in the lines of a field: a token, and after an equals
// sign a token or a quoted string. It goes on behind what it cannot read at the next comma, so that
// one fault hides no other directive.
func eachDirective(lines []string, f func(name, value string, hasValue bool)) {
	for _, line := range lines {
		for line != "" {
			line = strings.TrimLeft(line, " \t,")
			end := 0
			for end < len(line) && grammar.IsTokenByte(line[end]) {
				end++
			}
			name, rest := line[:end], line[end:]
			var value string
			hasValue := strings.HasPrefix(rest, "=")
			if hasValue {
				value, rest = directiveValue(rest[1:])
			}
			// Whatever stands between here and the comma makes an age invalid, and nothing else.
			// A stray quote does not hide the comma.
			junk, next, _ := strings.Cut(rest, ",")
			if strings.Trim(junk, " \t") != "" {
				value += junk
			}
			if name != "" {
				f(name, value, hasValue)
			}
			line = next
		}
	}
}

// directiveValue returns the argument at the beginning of s, unquoted, and what follows it.
func directiveValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := 0
		for end < len(s) && grammar.IsTokenByte(s[end]) {
			end++
		}
		return s[:end], s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			i++
			if i == len(s) {
				return "", s
			}
		}
		b.WriteByte(s[i])
	}
	return "", s // without an end: it is no argument
}

// cutUnquoted cuts s at the first sep that is not in a quoted string.
func cutUnquoted(s string, sep byte) (before, after string, found bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// splitList returns the elements of a list, without the blanks around them and without empty ones.
func splitList(s string, sep byte) []string {
	var list []string
	for s != "" {
		var element string
		element, s, _ = cutUnquoted(s, sep)
		if element = strings.Trim(element, " \t"); element != "" {
			list = append(list, element)
		}
	}
	return list
}
