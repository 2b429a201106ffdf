package versioning

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

var errNotJSON = errors.New("not JSON")

// A raw is the text of one JSON value, which is valid and has no space around it. What no change
// looks into stays a raw and is copied byte for byte: numbers keep their digits, strings their
// escapes, and objects the order of their members.
type raw []byte

// inspect returns what users see of *v. Objects and arrays take the place of their text, since they
// may be changed; other values leave it.
func inspect(v *any) any {
	text, ok := (*v).(raw)
	if !ok {
		return *v
	}
	switch text[0] {
	case '{':
		*v = &Object{src: text}
		return *v
	case '[':
		*v = &Array{src: text}
		return *v
	case '"':
		return decodeString(text)
	case 't', 'f':
		return text[0] == 't'
	case 'n':
		return nil
	}
	return json.Number(text)
}

// space returns the index of the first byte from i on that is not white space.
func space(src []byte, i int) int {
	for src[i] == ' ' || src[i] == '\n' || src[i] == '\t' || src[i] == '\r' {
		i++
	}
	return i
}

// valueEnd returns the index behind the value that begins at i. src is valid.
func valueEnd(src []byte, i int) int {
	switch src[i] {
	case '"':
		return stringEnd(src, i)
	case '{', '[':
	default:
		for i < len(src) && strings.IndexByte(",}] \n\t\r", src[i]) < 0 {
			i++
		}
		return i
	}
	depth := 0
	for {
		switch src[i] {
		case '"':
			i = stringEnd(src, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
}

func stringEnd(src []byte, i int) int {
	for i++; ; {
		end := i + bytes.IndexByte(src[i:], '"')
		escapes := 0
		for src[end-1-escapes] == '\\' {
			escapes++
		}
		if i = end + 1; escapes%2 == 0 {
			return i
		}
	}
}

// decodeString returns the string that text, which is one in JSON, stands for.
func decodeString(text []byte) string {
	inner := text[1 : len(text)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	_ = json.Unmarshal(text, &s) // is valid
	return s
}

// appendValue appends v as JSON.
func appendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case raw:
		return append(dst, v...), nil
	case nil:
		return append(dst, "null"...), nil
	case string:
		return appendString(dst, v), nil
	case *Object:
		return v.append(dst)
	case *Array:
		return v.append(dst)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, err
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...), nil
}

func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(s) // any string can be encoded
			return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
