package versioning

import (
	"net/http"
	"strings"
)

// Representations of two versions have different entity tags, or a client could get 304 for what it
// has in another version. Those of a version whose bodies are converted end in a mark of it.

// markTag adds mark to an entity tag (RFC 9110, section 8.8.3).
func markTag(tag, mark string) string {
	if len(tag) < 2 || tag[len(tag)-1] != '"' || strings.IndexByte(tag, '"') == len(tag)-1 {
		return tag
	}
	return tag[:len(tag)-1] + mark + `"`
}

// unmarkTag removes mark from an entity tag. ok is false if it has none.
func unmarkTag(tag, mark string) (bare string, ok bool) {
	bare, ok = strings.CutSuffix(tag, mark+`"`)
	return bare + `"`, ok && strings.IndexByte(bare, '"') >= 0
}

// noTag is an entity tag that no representation is expected to have.
const noTag = `""`

// unmarkConditions makes the conditions of a request those of the head version. A tag without the
// mark belongs to a representation in another version. It does not match.
func unmarkConditions(h http.Header, mark string) {
	for _, name := range [...]string{"If-None-Match", "If-Match"} {
		lines := h[name]
		if len(lines) == 0 {
			continue
		}
		tags, ok := unmarkList(strings.Join(lines, ","), mark)
		switch {
		case !ok: // "*", or not readable: nothing to be done
		case tags != "":
			h[name] = []string{tags}
		case name == "If-Match":
			h[name] = []string{noTag} // without the field the condition would hold
		default:
			delete(h, name)
		}
	}
	if tag := h.Get("If-Range"); strings.HasSuffix(tag, `"`) {
		if bare, ok := unmarkTag(tag, mark); ok {
			h["If-Range"] = []string{bare}
		} else {
			h["If-Range"] = []string{noTag}
		}
	}
}

// unmarkList returns those tags of a list that have the mark, without it.
func unmarkList(list, mark string) (tags string, ok bool) {
	var out []string
	for {
		list = strings.TrimLeft(list, ", \t")
		if list == "" {
			return strings.Join(out, ", "), true
		}
		opaque := strings.TrimPrefix(list, "W/")
		if opaque == "" || opaque[0] != '"' {
			return "", false
		}
		end := strings.IndexByte(opaque[1:], '"')
		if end < 0 {
			return "", false
		}
		end += len(list) - len(opaque) + 2
		if bare, marked := unmarkTag(list[:end], mark); marked {
			out = append(out, bare)
		}
		list = list[end:]
	}
}
