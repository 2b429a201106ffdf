package cache

import (
	"slices"
	"strconv"
	"strings"
)

// A choice is an element of a field like Accept-Encoding or Accept-Language (RFC 9110, section
// 12.4.2).
type choice struct {
	name   string // in lower case
	weight int    // in thousandths
}

// choices parses such a field. An element with an invalid weight is kept with its text.
func choices(values []string) []choice {
	var list []choice
	for _, v := range values {
		for element := range strings.SplitSeq(v, ",") {
			element = strings.ToLower(strings.Trim(element, " \t"))
			if element == "" {
				continue
			}
			name, parameter, has := strings.Cut(element, ";")
			name = strings.TrimRight(name, " \t")
			c := choice{name: name, weight: 1000}
			if has {
				var ok bool
				if c.weight, ok = qvalue(parameter); !ok {
					c = choice{name: element, weight: 1000}
				}
			}
			switch c.name { // RFC 9110, section 8.4.1: the same codings
			case "x-gzip":
				c.name = "gzip"
			case "x-compress":
				c.name = "compress"
			}
			list = append(list, c)
		}
	}
	return list
}

// qvalue parses "q=0.5", in thousandths.
func qvalue(s string) (weight int, ok bool) {
	s, ok = strings.CutPrefix(strings.Trim(s, " \t"), "q=")
	if !ok || len(s) > 5 {
		return 0, false
	}
	whole, fraction, _ := strings.Cut(s, ".")
	if whole != "0" && whole != "1" {
		return 0, false
	}
	n := 0
	for i := range 3 {
		n *= 10
		if i < len(fraction) {
			if fraction[i] < '0' || fraction[i] > '9' {
				return 0, false
			}
			n += int(fraction[i] - '0')
		}
	}
	if whole == "1" {
		return 1000, n == 0
	}
	return n, true
}

// weightedForm returns a form of such a field in which order, case and blanks make no difference.
func weightedForm(values []string) string {
	list := choices(values)
	slices.SortFunc(list, func(a, b choice) int {
		if a.weight != b.weight {
			return b.weight - a.weight
		}
		return strings.Compare(a.name, b.name)
	})
	list = slices.Compact(list)
	var b strings.Builder
	for i, c := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(c.name)
		if c.weight != 1000 {
			b.WriteString(";q=")
			b.WriteString(strconv.Itoa(c.weight))
		}
	}
	return b.String()
}

// mostWanted returns the element with the greatest weight, if there is one alone; otherwise "".
func mostWanted(values []string) string {
	var best choice
	for _, c := range choices(values) {
		switch {
		case c.weight > best.weight:
			best = c
		case c.weight == best.weight && c.name != best.name:
			best.name = ""
		}
	}
	if best.name == "*" {
		return ""
	}
	return best.name
}

// accepts reports whether a field Accept-Encoding names coding, or "*", with a weight above zero.
func accepts(values []string, coding string) bool {
	coding = strings.TrimPrefix(strings.ToLower(coding), "x-")
	any := false
	for _, c := range choices(values) {
		switch c.name {
		case coding:
			return c.weight > 0
		case "*":
			any = c.weight > 0
		}
	}
	return any
}
