// Package redact makes texts fit for logs, spans and admin pages: without secrets, of bounded
// length, and on one line. It imports no OpenTelemetry, since telemetry/health shares it.
package redact

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// Word stands for what was removed. The HTTP semantic conventions ask for it.
const Word = "REDACTED"

const (
	maxQuery = 1024 // bytes of a query before the rest is left out, and of one value
	maxName  = 256  // bytes of a parameter's name
	maxText  = 1024 // bytes of an error's text
)

// Query returns query with the values of all parameters but the allowed ones replaced. A parameter
// without '=' may be a secret all by itself, and so may be one that only ends in '=': base64 does.
// Of an allowed value that is a URL itself, user information, query and fragment are replaced.
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
		plain, err := url.QueryUnescape(name)
		// Some servers take ';' for another '&': what follows it has another name.
		shown := err == nil && allowed[plain] && !strings.Contains(value, ";")
		switch {
		case pair == "":
		case !ok, !shown && strings.Trim(value, "=") == "":
			b.WriteString(Word)
		default:
			b.WriteString(Clip(name, maxName))
			b.WriteByte('=')
			if shown && isPlain(value) {
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

// isPlain reports whether the value of a parameter, however often it is escaped, holds neither a
// URL with secret parts nor anything else that looks like a secret.
func isPlain(value string) bool {
	for range 4 {
		if Text(value) != Clip(value, maxText) || Reference(value) != value {
			return false
		}
		plain, err := url.QueryUnescape(value)
		if err != nil || plain == value {
			return err == nil || !strings.Contains(value, "%")
		}
		value = plain
	}
	return false
}

// Reference returns a URI reference (RFC 3986, section 4.1), such as a Location, without
// credentials and secrets. It need not be a valid one.
func Reference(ref string) string {
	// The expression of RFC 3986, appendix B: what follows the first '#' is the fragment, what lies
	// between the first '?' before it and it is the query.
	ref, _, fragment := strings.Cut(ref, "#")
	ref, _, query := strings.Cut(ref, "?")
	before, rest, found := strings.Cut(ref, "//")
	if found && (before == "" || strings.HasSuffix(before, ":") && !strings.Contains(before, "/")) {
		ref = before + "//" + authority(rest)
	}
	ref = Text(ref)
	if query {
		ref += "?" + Word // names of parameters may be secrets too
	}
	if fragment {
		ref += "#" + Word
	}
	return ref
}

// authority returns what follows "//", without user information. Passwords that are not escaped may
// hold '/': then what stands before the last '@' has no port where one would be.
func authority(s string) string {
	end := strings.IndexAny(s, "/\\")
	if end < 0 {
		end = len(s)
	}
	at := strings.LastIndexByte(s[:end], '@')
	if colon := strings.LastIndexByte(s[:end], ':'); at < 0 && colon >= 0 && !isPort(s[colon+1:end]) {
		at = strings.LastIndexByte(s, '@')
	}
	if at < 0 {
		return s
	}
	return Word + ":" + Word + s[at:]
}

// isPort reports whether s may stand between a host's colon and the path; so may the end of an
// address in brackets.
func isPort(s string) bool {
	return strings.Trim(s, "0123456789") == "" || strings.HasSuffix(s, "]")
}

// references are the fields whose values are URI references.
var references = map[string]bool{
	"Location": true, "Content-Location": true, "Referer": true, "Destination": true, "Sourcemap": true,
	"X-Forwarded-Uri": true, "X-Original-Uri": true, "X-Original-Url": true, "X-Rewrite-Url": true,
	"X-Accel-Redirect": true,
}

// Field returns the value of the header field with the given canonical name, without secrets.
func Field(name, value string) string {
	switch {
	case references[name]:
		return Clip(Reference(value), maxText)
	case name == "Link":
		return Clip(links(value), maxText)
	case name == "Refresh": // 5; url=/next
		if i := strings.Index(strings.ToLower(value), "url="); i >= 0 {
			i += len("url=")
			return Clip(Text(value[:i])+Reference(value[i:]), maxText)
		}
	}
	return Text(value)
}

// links returns the value of a Link field (RFC 8288): references in angle brackets, with
// parameters.
func links(value string) string {
	var b strings.Builder
	for value != "" && b.Len() < maxText {
		before, rest, found := strings.Cut(value, "<")
		b.WriteString(Text(before))
		if !found {
			break
		}
		ref, after, closed := strings.Cut(rest, ">")
		b.WriteByte('<')
		b.WriteString(Reference(ref))
		if closed {
			b.WriteByte('>')
		}
		value = after
	}
	return b.String()
}

// secretWords are parts of names that announce a secret, by their first letter.
var secretWords = func() (words ['z' + 1][]string) {
	for _, word := range [...]string{
		"authorization", "cookie", "token", "secret", "passw", "passphrase", "apikey", "accesskey",
		"idempotencykey", "signature", "credential", "privatekey", "jwt",
	} {
		words[word[0]] = append(words[word[0]], word)
	}
	return words
}()

// IsSecret reports whether name, of a header field or an attribute, announces a secret.
func IsSecret(name string) bool {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			name = strings.ToLower(name) // the Kelvin sign becomes a k
			break
		}
	}
	var room [64]byte
	plain := room[:0] // in lower case, without what may join the words of a name
	for i := range len(name) {
		switch c := name[i]; {
		case c == '-', c == '_':
		case 'A' <= c && c <= 'Z':
			plain = append(plain, c-'A'+'a')
		default:
			plain = append(plain, c)
		}
	}
	for i, c := range plain {
		if c > 'z' {
			continue
		}
		for _, word := range secretWords[c] {
			if rest := plain[i:]; len(rest) >= len(word) && rest[1] == word[1] &&
				string(rest[:len(word)]) == word {
				return true
			}
		}
	}
	return false
}
