package redact

import (
	"regexp"
	"strings"
)

// maxScan is how much of a text is looked at: more than is shown, so that a secret is never cut in
// half before it is recognised.
const maxScan = 8 * maxText

var (
	// urlErrors finds the errors of url.Parse, and urlReasons what follows what they quote.
	urlErrors  = regexp.MustCompile(`\bparse \\*"`)
	urlReasons = regexp.MustCompile(`^: [a-z/ ]*\\*"`)

	inQuotes = regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|$)`)

	// slashes finds where the authority of a URL begins, in JSON perhaps escaped.
	slashes = regexp.MustCompile(`(?:[A-Za-z][A-Za-z0-9+.-]*:|^|[\s"'(<=,])\\*/\\*/`)

	// userinfo finds user:password@ where no scheme announces it, as in the DSNs of SQL drivers. A
	// password may hold anything.
	userinfo = regexp.MustCompile(`([^\s:/?#@"'<>=]*):([^\s"'<>]+)@`)

	// queries finds what follows a path: a query or fragment, with parameters or after a slash.
	queries = regexp.MustCompile(`[^\s?#"<>]*[?#](?:\\.|[^\s<>])+`)
	// closers finds what ends a quotation and not the query in it.
	closers = regexp.MustCompile(`\\*["'][])}:;,.]*$`)

	// fields finds header fields that hold credentials: all of the line, since a Cookie has several
	// and Digest has them in quotes.
	fields = regexp.MustCompile(
		`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(\\*["']?\s*[:=]\s*)[^\r\n]+`)

	// names finds the names of secrets, up to where the value begins.
	names = regexp.MustCompile(`(?i)[\w-]*(?:authorization|cookie|idempotency[-_]?key|api[-_]?key|` +
		`access[-_]?key|private[-_]?key|token|passw(?:or)?d|passphrase|secret|signature|credential|jwt)` +
		`[\w-]*\\*["']?\s*(?:=>|[:=])\s*(?:(?:bearer|basic|digest)\s+)?`)

	// schemes finds credentials that no name announces, and jwts JSON web tokens.
	schemes = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}`)
	jwts    = regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]*`)
)

// Text returns text, bounded and without what looks like a secret. Texts of errors and panics quote
// URLs, header fields and JSON. What has a grammar is read by it; beyond that patterns give no
// certainty, but these are the usual forms.
func Text(text string) string {
	if isHarmless(text) {
		return text
	}
	cut := len(text) > maxScan
	text = Clip(text, maxScan)
	if strings.Contains(text, "parse ") {
		text = scrubURLErrors(text)
	}
	if strings.Contains(text, `"`) && strings.ContainsAny(text, "?#") {
		text = inQuotes.ReplaceAllStringFunc(text, scrubQuoted)
	}
	if strings.Contains(text, "/") && strings.ContainsAny(text, `?#@\`) {
		text = scrubURLs(text)
	}
	if strings.ContainsAny(text, "?#") {
		text = queries.ReplaceAllStringFunc(text, scrubQuery)
	}
	if strings.IndexByte(text, '@') >= 0 {
		text = scrubUserinfo(text)
	}
	lower := strings.ToLower(text) // the expressions cost more than to see whether they may match
	if strings.Contains(lower, "authorization") || strings.Contains(lower, "cookie") {
		text = fields.ReplaceAllString(text, "${1}${2}"+Word)
	}
	if IsSecret(lower) {
		text = scrubValues(text)
	}
	if strings.Contains(lower, "bearer") || strings.Contains(lower, "basic") {
		text = schemes.ReplaceAllString(text, "${1} "+Word)
	}
	if strings.Contains(text, "eyJ") {
		text = jwts.ReplaceAllString(text, Word)
	}
	if cut && len(text) <= maxText { // what is cut in half at the end was perhaps not recognised
		text = text[:strings.LastIndexAny(text, " \t\r\n")+1]
	}
	return Clip(text, maxText)
}

// isHarmless reports whether text cannot hold a secret: it is short, one word of letters, digits,
// and what stands in names and addresses of hosts, and no name of a secret or JSON web token is in
// it.
func isHarmless(text string) bool {
	if len(text) > maxText {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '.', c == ':', c == '-',
			c == '_':
		default:
			return false
		}
	}
	return !IsSecret(text) && !strings.Contains(text, "eyJ")
}

// scrubURLErrors removes what errors of url.Parse quote: no URL, and parts of it.
func scrubURLErrors(text string) string {
	var b strings.Builder
	for at := urlErrors.FindStringIndex(text); at != nil; at = urlErrors.FindStringIndex(text) {
		for at != nil {
			quote := text[:at[1]]
			b.WriteString(quote)
			b.WriteString(Word)
			text = text[at[1]:]
			escapes := len(quote) - 1 - len(strings.TrimRight(quote[:len(quote)-1], `\`))
			end := closing(text, escapes, '"')
			if end < 0 {
				return b.String()
			}
			b.WriteString(quote[len(quote)-1-escapes:])
			text = text[end+1:]
			at = urlReasons.FindStringIndex(text)
		}
	}
	b.WriteString(text)
	return b.String()
}

// scrubQuoted removes query and fragment of a reference in quotes, which may hold blanks.
func scrubQuoted(m string) string {
	before, _, mark := cutAny(strings.Trim(m, `"`), "?#")
	if mark == 0 || before != "" && !strings.Contains(before, "/") ||
		strings.ContainsAny(before, " \t") {
		return m
	}
	return `"` + before + string(mark) + Word + `"`
}

// scrubURLs removes user information, query and fragment of what begins like a URL or like a
// reference to a host.
func scrubURLs(text string) string {
	var b strings.Builder
	for {
		at := slashes.FindStringIndex(text)
		if at == nil {
			b.WriteString(text)
			return b.String()
		}
		b.WriteString(text[:at[1]])
		text = text[at[1]:]
		end := strings.IndexAny(text, " \t\r\n<>")
		if end < 0 {
			end = len(text)
		}
		if i := strings.IndexByte(text[:end], '"'); i >= 0 && !strings.ContainsAny(text[:i], "?#") {
			end = i // in a query, quotes end nothing
		}
		ref := text[:end]
		text = text[end:]
		ref, secret, mark := cutAny(ref, "?#")
		b.WriteString(authority(strings.ReplaceAll(ref, `\/`, "/")))
		if mark != 0 && secret != "" {
			b.WriteByte(mark)
			b.WriteString(Word)
			b.WriteString(closers.FindString(secret))
		}
	}
}

// cutAny cuts s at the first of chars, and returns which that is.
func cutAny(s, chars string) (before, after string, mark byte) {
	i := strings.IndexAny(s, chars)
	if i < 0 {
		return s, "", 0
	}
	return s[:i], s[i+1:], s[i]
}

// scrubQuery removes what stands behind the first '?' or '#' of m, if it looks like a query or
// fragment.
func scrubQuery(m string) string {
	before, secret, mark := cutAny(m, "?#")
	end := closers.FindString(secret)
	isOne := strings.Contains(before, "/") || strings.Contains(secret, "=")
	if !isOne || strings.TrimSuffix(secret, end) == Word {
		return m
	}
	return before + string(mark) + Word + end
}

// scrubUserinfo removes user:password@, but no port with a path that has an '@'.
func scrubUserinfo(text string) string {
	return userinfo.ReplaceAllStringFunc(text, func(m string) string {
		user, rest, _ := strings.Cut(m, ":")
		if strings.HasPrefix(strings.ReplaceAll(rest, `\`, ""), "//") || user == Word {
			return m
		}
		if port, _, ok := strings.Cut(rest, "/"); ok && port != "" && isPort(port) && user != "" {
			return m
		}
		return Word + ":" + Word + "@"
	})
}

// scrubValues removes the values that follow the name of a secret.
func scrubValues(text string) string {
	var b strings.Builder
	for {
		at := names.FindStringIndex(text)
		if at == nil {
			b.WriteString(text)
			return b.String()
		}
		b.WriteString(text[:at[1]])
		text = text[at[1]:]
		if end := valueEnd(text); end > 0 {
			b.WriteString(Word)
			text = text[end:]
		}
	}
}

// valueEnd returns where the value ends that text begins with: a string in quotes, which are
// escaped as often as the JSON that it is part of was put into other strings, an array or object,
// or a word.
func valueEnd(text string) int {
	escapes := len(text) - len(strings.TrimLeft(text, `\`))
	if escapes < len(text) {
		switch c := text[escapes]; c {
		case '"', '\'':
			if end := closing(text[escapes+1:], escapes, c); end >= 0 {
				return escapes + 1 + end + 1
			}
			return len(text)
		case '[', '{':
			depth := 0
			for i := escapes; i < len(text); i++ {
				switch text[i] {
				case '[', '{':
					depth++
				case ']', '}':
					if depth--; depth == 0 {
						return i + 1
					}
				}
			}
			return len(text)
		}
	}
	end := strings.IndexAny(text, " \t\r\n,;&\"'")
	if end < 0 {
		end = len(text)
	}
	return end
}

// closing returns where in s stands the quote that ends a string whose quotes have that many
// escapes, or -1.
func closing(s string, escapes int, quote byte) int {
	n := 0
	for i := range len(s) {
		switch s[i] {
		case '\\':
			n++
			continue
		case quote:
			if n <= escapes {
				return i
			}
		}
		n = 0
	}
	return -1
}
