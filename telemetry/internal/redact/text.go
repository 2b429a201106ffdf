package redact

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxLine = 1024 // bytes of what Escape returns for plain text

// Clip returns at most n bytes of s, whole characters only.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Valid returns at most n bytes of s as valid UTF-8. OTLP is protobuf, which has no other strings:
// for one invalid value its exporter would lose the whole batch.
func Valid(s string, n int) string {
	return strings.ToValidUTF8(Clip(s, n), "\ufffd")
}

// Escape returns s on one line, bounded, and without characters that steer a terminal or reorder
// text. A good slog handler escapes too, but not every one is good.
func Escape(s string) string {
	s = Clip(s, maxLine)
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
