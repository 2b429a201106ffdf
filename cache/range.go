package cache

import (
	"math"
	"strconv"
	"strings"
)

// maxRanges is the most ranges that one request gets. A request for more gets the whole (RFC 9110,
// section 14.2).
const maxRanges = 16

// A span is the bytes from start to end, end excluded.
type span struct{ start, end int64 }

func (s span) length() int64 { return s.end - s.start }

// contentRange returns the value of Content-Range for s.
func (s span) contentRange(size int64) string {
	total := "*"
	if size >= 0 {
		total = strconv.FormatInt(size, 10)
	}
	return "bytes " + strconv.FormatInt(s.start, 10) + "-" + strconv.FormatInt(s.end-1, 10) + "/" + total
}

// parseRange parses the field Range for a body of size bytes (RFC 9110, section 14.1.2). It reports
// false if the field must be ignored: it is invalid, of another unit, or asks too much. If none of
// the ranges is in the body, the list is empty. If size is negative, which means unknown, ranges
// that depend on it make the field one to ignore.
func parseRange(field string, size int64) (list []span, ok bool) {
	unit, set, found := strings.Cut(field, "=")
	if !found || !strings.EqualFold(strings.Trim(unit, " \t"), "bytes") {
		return nil, false
	}
	var total int64
	count := 0
	for element := range strings.SplitSeq(set, ",") {
		element = strings.Trim(element, " \t")
		if element == "" {
			continue
		}
		if count++; count > maxRanges {
			return nil, false
		}
		first, last, found := strings.Cut(element, "-")
		if !found {
			return nil, false
		}
		s, inside, ok := resolveRange(strings.TrimRight(first, " \t"), strings.TrimLeft(last, " \t"), size)
		if !ok {
			return nil, false
		}
		if inside {
			list = append(list, s)
			total += s.length() // at most maxRanges times size: RFC 9110 leaves refusing to us
		}
	}
	if count == 0 || size >= 0 && total > size && len(list) > 1 {
		return nil, false // overlapping ranges add up to more than the whole
	}
	return list, true
}

// resolveRange resolves one range of the form first-last, first- or -suffix.
func resolveRange(first, last string, size int64) (s span, inside, ok bool) {
	if first == "" {
		n, ok := parsePosition(last)
		if !ok || size < 0 {
			return s, false, false
		}
		return span{max(0, size-n), size}, n > 0 && size > 0, true
	}
	start, ok := parsePosition(first)
	if !ok {
		return s, false, false
	}
	end := int64(math.MaxInt64)
	if last != "" {
		n, ok := parsePosition(last)
		if !ok || n < start {
			return s, false, false
		}
		if n < math.MaxInt64 {
			end = n + 1
		}
	} else if size < 0 {
		return s, false, false
	}
	if size >= 0 {
		end = min(end, size)
	}
	return span{start, end}, start < end, true
}

// parsePosition parses digits. Greater numbers than there are count as the greatest.
func parsePosition(s string) (n int64, ok bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// parseContentRange parses the field Content-Range (RFC 9110, section 14.4). size is negative if it
// is not told.
func parseContentRange(values []string) (s span, size int64, ok bool) {
	if len(values) != 1 {
		return s, 0, false
	}
	unit, rest, found := strings.Cut(strings.Trim(values[0], " \t"), " ")
	if !found || !strings.EqualFold(unit, "bytes") {
		return s, 0, false
	}
	positions, total, found := strings.Cut(rest, "/")
	if !found {
		return s, 0, false
	}
	first, last, found := strings.Cut(positions, "-")
	if !found {
		return s, 0, false
	}
	start, ok1 := parsePosition(first)
	end, ok2 := parsePosition(last)
	size = -1
	if total != "*" {
		var ok3 bool
		if size, ok3 = parsePosition(total); !ok3 || end >= size {
			return s, 0, false
		}
	}
	if !ok1 || !ok2 || start > end || end == math.MaxInt64 {
		return s, 0, false
	}
	return span{start, end + 1}, size, true
}

// part returns the bytes of e in s, if they are there, all of them.
func (e *Entry) part(s span) ([]byte, bool) {
	for i := range e.Segments {
		seg := &e.Segments[i]
		if seg.Offset <= s.start && s.end <= seg.Offset+int64(len(seg.Data)) {
			return seg.Data[s.start-seg.Offset : s.end-seg.Offset], true
		}
	}
	return nil, false
}

// complete returns the whole body of e, if it is there.
func (e *Entry) complete() ([]byte, bool) {
	if e.Size == 0 {
		return nil, true
	}
	if len(e.Segments) == 1 && e.Segments[0].Offset == 0 && int64(len(e.Segments[0].Data)) == e.Size {
		return e.Segments[0].Data, true
	}
	return nil, false
}

// missing returns what e lacks of its beginning: the bytes from the end of its first segment on. It
// reports false if there is no first segment, or if its size is not known.
func (e *Entry) missing() (from int64, ok bool) {
	if len(e.Segments) == 0 || e.Segments[0].Offset != 0 || e.Size < 0 {
		return 0, false
	}
	return int64(len(e.Segments[0].Data)), true
}

// join returns segments with data at offset, which is not changed afterwards. Where both have
// bytes, those of data count.
func join(segments []Segment, offset int64, data []byte) []Segment {
	end := offset + int64(len(data))
	var before, after []Segment
	start := offset
	joined := data
	for _, s := range segments {
		sEnd := s.Offset + int64(len(s.Data))
		switch {
		case sEnd < offset:
			before = append(before, s)
		case s.Offset > end:
			after = append(after, s)
		default:
			if s.Offset < start {
				joined = concat(s.Data[:start-s.Offset], joined)
				start = s.Offset
			}
			if sEnd > end {
				joined = concat(joined, s.Data[end-s.Offset:])
				end = sEnd
			}
		}
	}
	list := append(before, Segment{Offset: start, Data: joined})
	return append(list, after...)
}

func concat(a, b []byte) []byte {
	c := make([]byte, 0, len(a)+len(b))
	return append(append(c, a...), b...)
}
