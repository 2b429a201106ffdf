package cache

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
)

// capFreshness lowers what header states of its freshness to most.
func capFreshness(header http.Header, most time.Duration, now time.Time) {
	for _, name := range [...]string{"Cache-Control", "Cdn-Cache-Control", "Surrogate-Control"} {
		lines := header[name]
		for i, line := range lines {
			if capped := capDirectives(line, int64(most/time.Second)); capped != line {
				// The handler may share the slice among its responses.
				lines = append([]string(nil), lines...)
				lines[i] = capped
				header[name] = lines
			}
		}
	}
	lines := header["Expires"]
	if len(lines) == 0 {
		return
	}
	expires, err := http.ParseTime(lines[0])
	if err != nil { // invalid, so in the past (RFC 9111, section 5.3)
		return
	}
	// RFC 9111, section 4.2.1: freshness is the difference to Date, which is now if the handler
	// does not set it.
	date := now
	if own, err := http.ParseTime(header.Get("Date")); err == nil {
		date = own
	}
	if expires.Sub(date) > most {
		header["Expires"] = []string{date.Add(most).UTC().Format(http.TimeFormat)}
	}
}

// capDirectives lowers max-age and s-maxage in a list of directives to most seconds. The rest of
// the list stays as it is.
func capDirectives(line string, most int64) string {
	var out strings.Builder
	for rest := line; rest != ""; {
		end := directiveEnd(rest)
		out.WriteString(capDirective(rest[:end], most))
		rest = rest[end:]
		if rest != "" { // the comma
			out.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	return out.String()
}

// directiveEnd returns where the first directive of list ends: at a comma outside of a quoted
// argument, or where the list does. What eachDirective takes for two directives are two here.
func directiveEnd(list string) int {
	rest := strings.TrimLeft(list, " \t")
	for rest != "" && grammar.IsTokenByte(rest[0]) {
		rest = rest[1:]
	}
	if strings.HasPrefix(rest, "=") {
		_, rest = directiveValue(rest[1:])
	}
	if comma := strings.IndexByte(rest, ','); comma >= 0 {
		return len(list) - len(rest) + comma
	}
	return len(list)
}

func capDirective(directive string, most int64) string {
	name, value, ok := strings.Cut(directive, "=")
	if !ok {
		return directive
	}
	switch strings.ToLower(strings.Trim(name, " \t")) {
	case "max-age", "s-maxage":
	default:
		return directive
	}
	digits := strings.Trim(value, ` "`+"\t")
	n, err := strconv.ParseUint(digits, 10, 63)
	tooLarge := err != nil && digits != "" && strings.Trim(digits, "0123456789") == ""
	if tooLarge || err == nil && int64(n) > most {
		return name + "=" + strconv.FormatInt(most, 10)
	}
	return directive
}
