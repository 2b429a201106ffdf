// Package redact makes texts fit for logs, spans and admin pages: without secrets, of bounded
// length, and on one line. It imports no OpenTelemetry, since telemetry/health shares it.
package redact

import (
	"net/url"
	"regexp"
	"strings"
)

// Word stands for what was removed. The HTTP semantic conventions ask for it.
const Word = "REDACTED"

const (
	maxQuery = 1024 // bytes of a query before the rest is left out, and of one value
	maxName  = 256  // bytes of a parameter's name
	maxText  = 1024 // bytes of an error's text
)

// Query returns query with the values of all parameters but the allowed ones replaced. A parameter
// without '=' may be a secret all by itself.
func Query(query string, allowed map[string]bool) string {
	var b strings.Builder
	for pair := range strings.SplitSeq(query, "&") {
		if b.Len() > maxQuery {
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
			b.WriteString(Word)
		default:
			b.WriteString(Clip(name, maxName))
			b.WriteByte('=')
			// Some servers take ';' for another '&': what follows it has another name.
			plain, err := url.QueryUnescape(name)
			if err == nil && allowed[plain] && !strings.Contains(value, ";") {
				b.WriteString(Clip(value, maxQuery))
			} else {
				b.WriteString(Word)
			}
		}
	}
	return b.String()
}

// URL returns u without credentials and secrets, as url.full has it.
func URL(u *url.URL, allowed map[string]bool) string {
	c := *u
	if c.User != nil {
		c.User = url.UserPassword(Word, Word)
	}
	if c.RawQuery != "" {
		c.RawQuery = Query(c.RawQuery, allowed)
	}
	c.Fragment, c.RawFragment = "", "" // never sent, and some put tokens there
	return c.String()
}

var (
	// urls finds the parts of URLs within a text that may be secret: user information and query.
	urls = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)([^\s/?#"'<>]*@)?([^\s?#"'<>]*)(\?[^\s"'<>]*)?`)
	// userinfo finds user:password@ where no scheme announces it, as in the DSNs of SQL drivers.
	userinfo = regexp.MustCompile(`[^\s:/?#@"'<>=]*:[^\s/?#@"'<>]+@`)
	// fields finds header fields that hold credentials: all of the line, since a Cookie has several
	// and Digest has them in quotes.
	fields = regexp.MustCompile(
		`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(["']?\s*[:=]\s*)[^\r\n]+`)
	// credentials finds values that follow the name of a secret.
	credentials = regexp.MustCompile(`(?i)([\w-]*(?:authorization|cookie|idempotency-key|api[-_]?key|` +
		`access[-_]?key|token|passw(?:or)?d|passphrase|secret|signature)\w*)` +
		`(["']?\s*[:=]\s*)("[^"]*"|'[^']*'|(?:(?:bearer|basic|digest)\s+)?[^\s,;&"']+)`)
	// schemes finds credentials that no name announces, and jwts JSON web tokens.
	schemes = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}`)
	jwts    = regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]*`)
)

// Text returns text, bounded and without what looks like a secret. Texts of errors and panics quote
// URLs and header fields. Patterns give no certainty, but these are the usual forms.
func Text(text string) string {
	text = Clip(text, maxText)
	if strings.Contains(text, "://") {
		text = urls.ReplaceAllStringFunc(text, func(u string) string {
			m := urls.FindStringSubmatch(u)
			if m[2] != "" {
				m[2] = Word + ":" + Word + "@"
			}
			if m[4] != "" {
				m[4] = "?" + Word
			}
			return m[1] + m[2] + m[3] + m[4]
		})
	}
	if strings.IndexByte(text, '@') >= 0 {
		text = userinfo.ReplaceAllString(text, Word+":"+Word+"@")
	}
	if strings.ContainsAny(text, ":= ") {
		text = fields.ReplaceAllString(text, "${1}${2}"+Word)
		text = credentials.ReplaceAllString(text, "${1}${2}"+Word)
		text = schemes.ReplaceAllString(text, "${1} "+Word)
	}
	if strings.Contains(text, "eyJ") {
		text = jwts.ReplaceAllString(text, Word)
	}
	return text
}

// IsSecret reports whether name, of a header field or an attribute, announces a secret.
func IsSecret(name string) bool {
	name = strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
	for _, word := range [...]string{
		"authorization", "cookie", "token", "secret", "passw", "passphrase", "apikey", "accesskey",
		"idempotencykey", "signature",
	} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
