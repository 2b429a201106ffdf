package versioning

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
)

// A sourceKind is a place where a version is found. The kinds are in order of precedence.
type sourceKind uint8

const (
	noSource sourceKind = iota
	sourcePath
	sourceHost
	sourceHeader
	sourceMediaType
	sourceQuery
	sourceFunction
	sourcePin
	sourceDefault
	sourcePreflight
)

// sourceNames are the values of [Resolved].Source, by kind.
var sourceNames = [...]string{
	"", "path", "host", "header", "media_type", "query", "function", "pin", "default", "preflight",
}

func (k sourceKind) String() string { return sourceNames[k] }

// A Source is a place in requests where clients name a version. Its precedence is that of its kind,
// wherever it stands in [Config].Sources: [Path], [Host], [Header], [MediaType] and [VendorType],
// [Query], [Func]. Sources of one kind have that of their order.
type Source struct {
	kind   sourceKind
	name   string // what the version follows, or the name of the field or parameter
	suffix string // of a host
	vendor bool   // name is the start of a media type, not a parameter
	read   func(*http.Request) (string, bool)
	vary   []string
}

// Path returns the Source that reads the first segment of the path, whole: with the prefix "/v" the
// version of /v2/users is "2". A segment that does not go on with a digit and is not "latest", such
// as /vehicles, is no version; where versions are words, only a segment that is one counts.
// [Versions.Convert] and [Versions.Select] strip the segment.
//
// With such a source, paths with dot segments get 400, however they are written: what follows
// might read another version in them.
func Path(prefix string) Source { return Source{kind: sourcePath, name: prefix} }

// Host returns the Source that reads the request's host. pattern has one '*', which stands for the
// version: "v*.api.example.com". Other hosts say nothing.
func Host(pattern string) Source {
	before, after, _ := strings.Cut(strings.ToLower(pattern), "*")
	if !strings.Contains(pattern, "*") || strings.Contains(after, "*") {
		before, after = "", "" // which New refuses
	}
	return Source{kind: sourceHost, name: before, suffix: after}
}

// Header returns the Source that reads the named field. Responses vary by it.
func Header(name string) Source {
	return Source{kind: sourceHeader, name: textproto.CanonicalMIMEHeaderKey(name),
		vary: []string{textproto.CanonicalMIMEHeaderKey(name)}}
}

// MediaType returns the Source that reads the named parameter of the media types in Accept and
// Content-Type, as in "application/json;version=2". Responses vary by Accept.
func MediaType(parameter string) Source {
	return Source{kind: sourceMediaType, name: strings.ToLower(parameter), vary: []string{"Accept"}}
}

// VendorType returns the Source that reads media types of a vendor in Accept and Content-Type: with
// the prefix "application/vnd.example.v" the version of "application/vnd.example.v2+json" is "2".
// Responses vary by Accept.
func VendorType(prefix string) Source {
	return Source{kind: sourceMediaType, name: strings.ToLower(prefix), vendor: true,
		vary: []string{"Accept"}}
}

// Query returns the Source that reads the named query parameter.
func Query(name string) Source { return Source{kind: sourceQuery, name: name} }

// Func returns a Source of your own. ok is false if the request says nothing. vary names the fields
// that read looks at, by which responses then vary. read must be safe for concurrent use.
func Func(read func(r *http.Request) (version string, ok bool), vary ...string) Source {
	s := Source{kind: sourceFunction, read: read}
	for _, name := range vary {
		s.vary = append(s.vary, textproto.CanonicalMIMEHeaderKey(name))
	}
	return s
}

func (s *Source) check(f *settings.Faults, field string) {
	switch s.kind {
	case noSource:
		f.Add(field, "is empty: use Path, Host, Header, MediaType, VendorType, Query or Func")
	case sourcePath:
		if !strings.HasPrefix(s.name, "/") || strings.ContainsAny(s.name[1:], "/%.\\;?#") {
			f.Add(field, "the prefix %q is not a slash and the start of one segment", s.name)
		}
	case sourceHost:
		if s.name == "" && s.suffix == "" {
			f.Add(field, "the pattern of a Host needs one '*' and more")
		}
	case sourceHeader:
		if !grammar.IsToken(s.name) {
			f.Add(field, "%q is not the name of a field", s.name)
		}
		if s.name == "Host" {
			f.Add(field, "the host is no field: use Host")
		}
	case sourceMediaType:
		base, subtype, ok := strings.Cut(s.name, "/")
		if s.vendor && (!ok || !grammar.IsToken(base) || !grammar.IsToken(subtype)) {
			f.Add(field, "%q is not the start of a media type", s.name)
		}
		if !s.vendor && (!grammar.IsToken(s.name) || s.name == "q") {
			f.Add(field, "%q is not the name of a parameter", s.name)
		}
	case sourceQuery:
		if s.name == "" {
			f.Add(field, "the parameter has no name")
		}
	case sourceFunction:
		if s.read == nil {
			f.Add(field, "the function is nil")
		}
	}
	for _, name := range s.vary {
		if !grammar.IsToken(name) {
			f.Add(field, "%q is not the name of a field", name)
		}
	}
}

// A claim is what one source says.
type claim struct {
	text string // the version, as the client writes it
	ok   bool   // there is one
	why  Status // Malformed or Duplicate; then there is none
}

// claim reads r at any source but a media type.
func (s *Source) claim(r *http.Request, t *table) claim {
	switch s.kind {
	case sourcePath:
		return s.pathClaim(r.URL, t)
	case sourceHost:
		return s.hostClaim(r.Host, t)
	case sourceHeader:
		return headerClaim(r.Header[s.name])
	case sourceQuery:
		return queryClaim(r.URL.RawQuery, s.name)
	}
	text, ok := s.read(r)
	return claim{text: text, ok: ok}
}

// pathClaim reads the first segment of u as http.ServeMux does: the bytes that were sent. A segment
// that is written in a roundabout way is refused, so that nobody reads another version there.
func (s *Source) pathClaim(u *url.URL, t *table) claim {
	if hasDotSegment(u.Path) {
		return claim{text: u.Path, why: Malformed}
	}
	segment := firstSegment(u.Path)
	text, ok := s.inSegment(segment, t)
	sent := segment
	if u.RawPath != "" {
		sent = firstSegment(u.EscapedPath())
	}
	if ok && segment != sent {
		return claim{text: sent, why: Malformed}
	}
	return claim{text: text, ok: ok}
}

// inSegment returns the version that a segment with its slash, "/v2", names.
func (s *Source) inSegment(segment string, t *table) (text string, ok bool) {
	text, ok = strings.CutPrefix(segment, s.name)
	return text, ok && t.claims(text)
}

// firstSegment returns the first segment of path with the slash before it.
func firstSegment(path string) string {
	if path == "" || path[0] != '/' {
		return ""
	}
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[:i+1]
	}
	return path
}

// hasDotSegment reports whether someone could read a segment of path, decoded, as "." or "..":
// some servers take a backslash for a slash and cut a segment at a semicolon.
func hasDotSegment(path string) bool {
	first := strings.IndexByte(path, '.')
	if first < 0 {
		return false
	}
	for i := first; i < len(path); i++ {
		if path[i] != '.' || i > 0 && path[i-1] != '/' && path[i-1] != '\\' {
			continue
		}
		end := i + 1
		if end < len(path) && path[end] == '.' {
			end++
		}
		if end == len(path) || path[end] == '/' || path[end] == '\\' || path[end] == ';' {
			return true
		}
	}
	return false
}

func (s *Source) hostClaim(host string, t *table) claim {
	host, _ = origin.SplitHost(host)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	text, ok1 := strings.CutPrefix(host, s.name)
	text, ok2 := strings.CutSuffix(text, s.suffix)
	return claim{text: text, ok: ok1 && ok2 && t.claims(text)}
}

func headerClaim(values []string) claim {
	switch {
	case len(values) == 0:
		return claim{}
	case len(values) > 1 || strings.IndexByte(values[0], ',') >= 0:
		return claim{text: values[0], why: Duplicate}
	}
	return claim{text: values[0], ok: true}
}

// queryClaim finds a parameter as url.ParseQuery does, but without a map of all the others.
func queryClaim(query, name string) (c claim) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if strings.IndexByte(pair, ';') >= 0 {
			// net/url drops such a pair, others see two in it.
			for part := range strings.SplitSeq(pair, ";") {
				if key, _, _ := strings.Cut(part, "="); isParameter(key, name) {
					return claim{text: pair, why: Malformed}
				}
			}
			continue
		}
		if !isParameter(key, name) {
			continue
		}
		if c.ok {
			return claim{text: value, why: Duplicate}
		}
		if strings.ContainsAny(value, "%+") {
			decoded, err := url.QueryUnescape(value)
			if err != nil {
				return claim{text: value, why: Malformed}
			}
			value = decoded
		}
		c = claim{text: value, ok: true}
	}
	return c
}

// isParameter reports whether key, as it stands in a query, is name.
func isParameter(key, name string) bool {
	if key == name || !strings.ContainsAny(key, "%+") {
		return key == name
	}
	key, err := url.QueryUnescape(key)
	return err == nil && key == name
}

// startsWithDigit reports whether s begins with a digit of any script: "٢" is meant as a version
// and is none.
func startsWithDigit(s string) bool {
	c, _ := utf8.DecodeRuneInString(s)
	return unicode.IsDigit(c)
}
