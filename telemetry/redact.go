package telemetry

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	redacted   = "REDACTED" // the word that the conventions ask for
	maxMethod  = 32         // bytes of an unknown method in a span
	maxText    = 1024       // bytes of a path, query or field in logs and spans
	maxMessage = 1024       // bytes of an error's text
	maxStack   = 16 << 10   // bytes of a stack
)

// redactQuery returns query with the values of all parameters but the allowed ones replaced. A
// parameter without '=' may be a secret all by itself.
func redactQuery(query string, allowed map[string]bool) string {
	var b strings.Builder
	for pair := range strings.SplitSeq(query, "&") {
		if b.Len() > maxText {
			b.WriteString("&...")
			break
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		name, value, ok := strings.Cut(pair, "=")
		switch {
		case pair == "":
		case !ok:
			b.WriteString(redacted)
		default:
			b.WriteString(clip(name, maxText/4))
			b.WriteByte('=')
			// Some servers take ';' for another '&': what follows it has another name.
			if plain, err := url.QueryUnescape(name); err == nil && allowed[plain] && !strings.Contains(value, ";") {
				b.WriteString(clip(value, maxText))
			} else {
				b.WriteString(redacted)
			}
		}
	}
	return b.String()
}

// redactURL returns u without credentials and secrets, as url.full has it.
func redactURL(u *url.URL, allowed map[string]bool) string {
	c := *u
	if c.User != nil {
		c.User = url.UserPassword(redacted, redacted)
	}
	if c.RawQuery != "" {
		c.RawQuery = redactQuery(c.RawQuery, allowed)
	}
	c.Fragment, c.RawFragment = "", "" // never sent, and some put tokens there
	return c.String()
}

var (
	// urls finds the parts of URLs within a text that may be secret: user information and query.
	urls = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)([^\s/?#"'<>]*@)?([^\s?#"'<>]*)(\?[^\s"'<>]*)?`)
	// userinfo finds user:password@ where no scheme announces it, as in the DSNs of SQL drivers.
	userinfo = regexp.MustCompile(`[^\s:/?#@"'<>=]*:[^\s/?#@"'<>]+@`)
	// fields finds header fields that hold credentials: all of the line, since a Cookie has several,
	// and Digest has them in quotes.
	fields = regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(["']?\s*[:=]\s*)[^\r\n]+`)
	// credentials finds values that follow the name of a secret.
	credentials = regexp.MustCompile(`(?i)([\w-]*(?:authorization|cookie|idempotency-key|api[-_]?key|access[-_]?key|token|passw(?:or)?d|passphrase|secret|signature)\w*)(["']?\s*[:=]\s*)("[^"]*"|'[^']*'|(?:(?:bearer|basic|digest)\s+)?[^\s,;&"']+)`)
	// schemes finds credentials that no name announces, and JSON web tokens.
	schemes = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}`)
	jwts    = regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]*`)
)

// scrub returns text, bounded and without what looks like a secret. Texts of errors and panics quote
// URLs and fields; there is no certainty in patterns, but these are the usual ones.
func scrub(text string) string {
	text = clip(text, maxMessage)
	if strings.Contains(text, "://") {
		text = urls.ReplaceAllStringFunc(text, func(u string) string {
			m := urls.FindStringSubmatch(u)
			if m[2] != "" {
				m[2] = redacted + ":" + redacted + "@"
			}
			if m[4] != "" {
				m[4] = "?" + redacted
			}
			return m[1] + m[2] + m[3] + m[4]
		})
	}
	if strings.IndexByte(text, '@') >= 0 {
		text = userinfo.ReplaceAllString(text, redacted+":"+redacted+"@")
	}
	if strings.ContainsAny(text, ":= ") {
		text = fields.ReplaceAllString(text, "${1}${2}"+redacted)
		text = credentials.ReplaceAllString(text, "${1}${2}"+redacted)
		text = schemes.ReplaceAllString(text, "${1} "+redacted)
	}
	if strings.Contains(text, "eyJ") {
		text = jwts.ReplaceAllString(text, redacted)
	}
	return text
}

// secretName reports whether name announces a secret.
func secretName(name string) bool {
	name = strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
	for _, word := range [...]string{"authorization", "cookie", "token", "secret", "passw", "passphrase", "apikey", "accesskey", "idempotencykey", "signature"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// spanText returns s as a value of a span or metric: at most n bytes of valid UTF-8. OTLP is protobuf, which has no other
// strings: one invalid value would lose its exporter the whole batch.
func spanText(s string, n int) string {
	return strings.ToValidUTF8(clip(s, n), "\ufffd")
}

// clip returns at most n bytes of s, whole characters only.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// escape returns s on one line, bounded, and without characters that steer a terminal or reorder text.
// A good slog handler escapes too, but not every one is good.
func escape(s string) string {
	s = clip(s, maxText)
	plain := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}
