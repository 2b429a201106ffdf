package cache

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"

	"github.com/trivet-go/trivet/internal/grammar"
)

// maxPlainSelecting is the longest normal form that is kept as it is. Longer ones are hashed.
const maxPlainSelecting = 64

// varyNames returns the names in a field Vary, sorted and each once, or star if the response can be
// used for no other request. What is no name may mean anything, so it counts as the star too.
func varyNames(lines []string) (names []string, star bool) {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = strings.Trim(element, " \t")
			switch {
			case element == "":
			case !grammar.IsToken(element) || element == "*":
				return nil, true
			default:
				names = append(names, http.CanonicalHeaderKey(element))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), false
}

// selecting returns what a response with the field Vary depends on in the request whose header is
// h.
func selecting(names []string, h http.Header) []Selecting {
	list := make([]Selecting, 0, len(names))
	for _, name := range names {
		if name == "Host" {
			continue // net/http has taken it out of the header; it is in the key
		}
		s := Selecting{Name: name}
		if values := h[name]; len(values) == 0 {
			s.None = true
		} else {
			s.Value = normalForm(name, values)
			if len(values) == 1 && len(values[0]) <= maxPlainSelecting*4 && !secretField(name) {
				s.raw = values[0]
			}
		}
		list = append(list, s)
	}
	return list
}

// variantOf returns what tells a variant with these selecting fields from others.
func variantOf(list []Selecting) string {
	if len(list) == 0 {
		return ""
	}
	var b []byte
	for _, s := range list {
		b = appendPart(b, s.Name)
		if s.None {
			b = append(b, 0)
		} else {
			b = append(b, 1)
			b = appendPart(b, s.Value)
		}
	}
	return string(b)
}

// matches reports whether h has the same value of the field as the request that s is from.
func (s *Selecting) matches(h http.Header, m *forms) bool {
	values := h[s.Name]
	if len(values) == 0 || s.None {
		return s.None && len(values) == 0
	}
	if len(values) == 1 && s.raw != "" && values[0] == s.raw {
		return true
	}
	return m.of(s.Name, values) == s.Value
}

// matches reports whether e may answer a request with the header h (RFC 9111, section 4.1). The
// normal forms of h are remembered in m.
func (e *Entry) matches(h http.Header, m *forms) bool {
	for i := range e.Vary {
		if !e.Vary[i].matches(h, m) {
			return false
		}
	}
	return true
}

// speaks reports whether e is in the one language that the request wants most, although the origin
// was asked with other words. RFC 9111, section 4.1, lets a cache choose by quality.
func (e *Entry) speaks(h http.Header, m *forms) bool {
	const field = "Accept-Language"
	language := e.Header["Content-Language"]
	if len(language) != 1 || !grammar.IsToken(language[0]) {
		return false
	}
	negotiated := false
	for i := range e.Vary {
		s := &e.Vary[i]
		if s.matches(h, m) {
			continue
		}
		if s.Name != field || len(h[field]) == 0 {
			return false
		}
		negotiated = true
	}
	return negotiated && strings.EqualFold(mostWanted(h[field]), language[0])
}

// accepted reports whether the request says that it accepts the coding of e. An origin that forgets
// Vary: Accept-Encoding must not give clients what they cannot read (C64).
func (e *Entry) accepted(h http.Header) bool {
	return len(e.Header["Content-Encoding"]) == 0 || slices.ContainsFunc(e.Vary, isAcceptEncoding) ||
		e.readable(h)
}

// readable reports whether the request says that it accepts every coding of e. Those that nobody
// negotiates, such as aws-chunked, do not count.
func (e *Entry) readable(h http.Header) bool {
	for _, line := range e.Header["Content-Encoding"] {
		for _, coding := range splitList(line, ',') {
			switch strings.ToLower(coding) {
			case "gzip", "x-gzip", "br", "zstd", "deflate", "compress", "x-compress", "dcb", "dcz":
				if !accepts(h["Accept-Encoding"], coding) {
					return false
				}
			}
		}
	}
	return true
}

func isAcceptEncoding(s Selecting) bool { return s.Name == "Accept-Encoding" }

// pick returns the entry of r that answers x, and whether others are there that do not.
func (x *exchange) pick(r *Resource) (found *Entry, others bool) {
	if r == nil {
		return nil, false
	}
	h := x.r.Header
	for _, e := range r.Entries {
		if !x.found(e) {
			continue
		}
		if e.matches(h, &x.forms) && e.accepted(h) {
			return e, others
		}
		if !others {
			x.varies = e.Vary
		}
		others = true
	}
	if others && x.r.Header["Accept-Language"] != nil {
		for _, e := range r.Entries {
			if x.found(e) && e.speaks(h, &x.forms) && e.accepted(h) {
				return e, others
			}
		}
	}
	return nil, others
}

// found reports whether e, which is stored under the key of x, is of the same resource (C05, C62),
// was not purged, and sets no cookie that another cache of the store was allowed to keep.
func (x *exchange) found(e *Entry) bool {
	return e.Echo == string(x.echo) && e.Mark >= x.least && x.usable(e) &&
		(x.c.cfg.StoreSetCookie || !x.c.policy(e).cookie)
}

// usable reports whether e was not purged hard.
func (x *exchange) usable(e *Entry) bool {
	how, _ := x.c.store.Purged(e)
	return how != Hard
}

// normalForm returns a form of a field's values that is the same for all that mean the same (RFC
// 9111, section 4.1).
func normalForm(name string, values []string) string {
	size := 0
	for _, v := range values {
		size += len(v)
	}
	if size > maxNormal {
		return hashed(strings.Join(values, ", "))
	}
	var form string
	switch name {
	case "Accept-Encoding", "Accept-Language", "Accept-Charset":
		form = weightedForm(values)
	case "Cookie", "Authorization", "Proxy-Authorization":
		return hashed(strings.Join(values, ", "))
	case "User-Agent", "Referer", "Origin", "From", "Date", "If-Modified-Since":
		form = strings.Join(values, ", ")
	default:
		form = listForm(values)
	}
	if len(form) > maxPlainSelecting {
		return hashed(form)
	}
	return form
}

func secretField(name string) bool {
	return name == "Cookie" || name == "Authorization" || name == "Proxy-Authorization"
}

// hashed keeps secrets and long values out of the store.
func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "#" + string(sum[:])
}

// listForm joins the elements of a list without the blanks between them.
func listForm(values []string) string {
	if len(values) == 1 && !strings.ContainsAny(values[0], ", \t") {
		return values[0]
	}
	var b strings.Builder
	for i, v := range values {
		for more := true; more; {
			var element string
			element, v, more = cutUnquoted(v, ',')
			b.WriteString(strings.Trim(element, " \t"))
			if more || i < len(values)-1 {
				b.WriteByte(',') // between empty ones too: not every field is a list
			}
		}
	}
	return b.String()
}
