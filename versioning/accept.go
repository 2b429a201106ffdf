package versioning

import (
	"net/http"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
)

// maxRanges is how many media ranges of a request's Accept are looked at.
const maxRanges = 64

// A mediaRange is one element of Accept, or the value of Content-Type.
type mediaRange struct {
	media   string // "application/json", as written
	text    string // the version it names
	names   bool   // it names one
	twice   bool   // it names two
	quality int    // thousandths
}

// A choice is what Accept says about versions.
type choice struct {
	claim
	index    int  // of the version, if claim.ok
	agrees   bool // the version that was asked about is acceptable too
	excludes bool // some version is not acceptable (q=0)
}

// accept reads Accept. The best version is the one with the highest quality, among these that of
// the more specific range, and among these the newest. want is a version that another source named,
// or -1.
func (s *Source) accept(lines []string, t *table, want int, now time.Time) choice {
	best := choice{index: -1}
	var bestQuality, bestRank, seen int
	var unknown claim
	open := false
	for _, line := range lines {
		for line != "" && seen < maxRanges {
			var m mediaRange
			var ok bool
			if m, line, ok = s.nextRange(line, t); !ok {
				continue
			}
			seen++
			switch {
			case m.twice:
				return choice{claim: claim{text: m.text, why: Duplicate}, index: -1}
			case !m.names:
				open = open || m.quality > 0
				continue
			}
			index, why := t.find(m.text, now)
			switch {
			case why != "":
				// The range cannot be served. It may be about something else: browsers accept
				// signed exchanges with "v=b3".
				if m.quality > 0 && unknown.why != Unsupported {
					unknown = claim{text: m.text, why: why}
				}
				continue
			case m.quality == 0:
				best.excludes = true
				continue
			}
			best.agrees = best.agrees || index == want
			rank := specificity(m.media)
			if !best.ok || m.quality > bestQuality || m.quality == bestQuality &&
				(rank > bestRank || rank == bestRank && index > best.index) {
				best.claim, best.index = claim{text: m.text, ok: true}, index
				bestQuality, bestRank = m.quality, rank
			}
		}
	}
	if !best.ok && !open {
		best.claim = unknown
	}
	return best
}

// excludes reports whether Accept says that the version with that index is not acceptable.
func (s *Source) excludes(lines []string, t *table, index int, now time.Time) bool {
	seen := 0
	for _, line := range lines {
		for line != "" && seen < maxRanges {
			var m mediaRange
			var ok bool
			if m, line, ok = s.nextRange(line, t); !ok {
				continue
			}
			seen++
			if i, _ := t.find(m.text, now); m.names && m.quality == 0 && i == index {
				return true
			}
		}
	}
	return false
}

// contentType reads the version that Content-Type names.
func (s *Source) contentType(h http.Header, t *table) (claim, string) {
	lines := h["Content-Type"]
	if len(lines) == 0 {
		return claim{}, ""
	}
	m, rest, ok := s.nextRange(lines[0], t)
	switch {
	case len(lines) > 1 || ok && strings.Trim(rest, ", \t") != "":
		return claim{text: lines[0], why: Duplicate}, ""
	case !ok || !m.names:
		return claim{}, ""
	case m.twice:
		return claim{text: m.text, why: Duplicate}, ""
	}
	return claim{text: m.text, ok: true}, m.media
}

func specificity(media string) int {
	switch {
	case media == "*/*":
		return 0
	case strings.HasSuffix(media, "/*"):
		return 1
	}
	return 2
}

// nextRange reads the first element of an Accept field (RFC 9110, section 12.5.1) and returns what
// follows it. ok is false if the element cannot be read, which is then left out.
func (s *Source) nextRange(line string, t *table) (m mediaRange, rest string, ok bool) {
	end := spaces(line)
	line = line[end:]
	m.quality, ok = 1000, true
	slash := token(line)
	end = slash
	if slash > 0 && slash < len(line) && line[slash] == '/' {
		end = slash + 1 + token(line[slash+1:])
		ok = end > slash+1
	} else {
		ok = false
	}
	m.media, line = line[:end], line[end:]
	if s.vendor && ok {
		s.vendorVersion(&m, t)
	}
	qualities := 0
	for {
		line = line[spaces(line):]
		switch {
		case line == "":
			return m, "", ok
		case line[0] == ',':
			return m, line[1:], ok
		case line[0] != ';':
			// Not readable: go on behind the next comma.
			i := strings.IndexByte(line, ',')
			if i < 0 {
				return m, "", false
			}
			return m, line[i+1:], false
		}
		line = line[1+spaces(line[1:]):]
		end := token(line)
		name := line[:end]
		line = line[end:]
		if end == 0 || line == "" || line[0] != '=' {
			ok = ok && end == 0 // an empty parameter is allowed, one without a value is not
			continue
		}
		var value string
		var valid bool
		value, line, valid = parameterValue(line[1:])
		ok = ok && valid
		switch {
		case len(name) == 1 && name[0]|0x20 == 'q':
			m.quality, valid = parseQuality(value)
			qualities++
			ok = ok && valid && qualities == 1
		case !s.vendor && strings.EqualFold(name, s.name):
			m.twice = m.twice || m.names
			m.text, m.names = value, true
		}
	}
}

// vendorVersion reads the version in m.media.
func (s *Source) vendorVersion(m *mediaRange, t *table) {
	if len(m.media) <= len(s.name) || !strings.EqualFold(m.media[:len(s.name)], s.name) {
		return
	}
	text := m.media[len(s.name):]
	if i := strings.LastIndexByte(text, '+'); i >= 0 {
		text = text[:i]
	}
	if t.claims(text) {
		m.text, m.names = text, true
	}
}

// parameterValue reads a token or a quoted string.
func parameterValue(line string) (value, rest string, ok bool) {
	if line == "" || line[0] != '"' {
		end := token(line)
		return line[:end], line[end:], end > 0
	}
	escaped := false
	for i := 1; i < len(line); i++ {
		switch line[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			value = line[1:i]
			if escaped {
				value = unquote(value)
			}
			return value, line[i+1:], true
		}
	}
	return "", "", false
}

func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseQuality reads a weight (RFC 9110, section 12.4.2) in thousandths.
func parseQuality(s string) (q int, ok bool) {
	if s == "" || s[0] != '0' && s[0] != '1' || len(s) > 1 && s[1] != '.' || len(s) > 5 {
		return 0, false
	}
	q = int(s[0] - '0')
	for i := 2; i < 5; i++ {
		q *= 10
		if i < len(s) {
			if !isDigit(s[i]) {
				return 0, false
			}
			q += int(s[i] - '0')
		}
	}
	return q, q <= 1000
}

// spaces returns how many spaces and tabs s begins with.
func spaces(s string) int {
	for i := range len(s) {
		if s[i] != ' ' && s[i] != '\t' {
			return i
		}
	}
	return len(s)
}

// token returns how many bytes the token has that s begins with.
func token(s string) int {
	for i := range len(s) {
		if !grammar.IsTokenByte(s[i]) {
			return i
		}
	}
	return len(s)
}
