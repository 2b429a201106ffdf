package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// maxHintBytes is the most of RateLimit that a pacer reads.
const maxHintBytes = 4096

// A hint is what a response says about the limits of its server.
type hint struct {
	wait  time.Duration // before the next request
	units int64         // that may be used
	per   time.Duration // in this time; zero if nothing was said
}

// readHint reads the hint of a response that came at now. Nothing in it exceeds longest.
// What a cache has stored speaks of another time (draft-11, section 7.3): any Age tells a stored response.
func readHint(resp *http.Response, now time.Time, longest time.Duration) (h hint) {
	if _, stored := resp.Header["Age"]; stored {
		return hint{}
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		h.wait = min(parseRetryAfter(resp.Header.Get("Retry-After"), now), longest)
	}
	if values := resp.Header[fieldRateLimit]; values != nil {
		wait, units, per := parseRateLimit(values)
		// Retry-After takes precedence over the fields (draft-11, section 6).
		if h.wait == 0 {
			h.wait = min(wait, longest)
		}
		if per > 0 {
			h.units, h.per = units, min(per, longest)
			if per > longest { // the pace is kept, though not for as long
				h.units = max(mulDiv(units, int64(longest), int64(per)), 1)
			}
		}
	}
	return h
}

// parseRetryAfter reads delay-seconds or an HTTP-date (RFC 9110, section 10.2.3); zero if
// it is neither, or not in the future.
func parseRetryAfter(v string, now time.Time) time.Duration {
	v = strings.Trim(v, " \t")
	if v == "" || len(v) > 64 {
		return 0
	}
	const most = int64(1<<63-1) / int64(time.Second)
	if '0' <= v[0] && v[0] <= '9' {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil && strings.Trim(v, "0123456789") != "" {
			return 0 // digits that are too many are a long time, the rest is nothing
		}
		return time.Duration(min(n, most)) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return max(at.Sub(now), 0)
}

// parseRateLimit returns the strictest of the policies in a RateLimit field: the longest wait where nothing is
// left, and the slowest pace of the others. A malformed field counts as absent (RFC 9651, section 4.2), as does an item
// without both numbers.
func parseRateLimit(values []string) (wait time.Duration, units int64, per time.Duration) {
	size := 0
	for _, v := range values {
		if size += len(v); size > maxHintBytes {
			return 0, 0, 0
		}
	}
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		return 0, 0, 0
	}
	const most = int64(1<<63-1) / int64(time.Second)
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			continue
		}
		if _, ok := item.Value.(string); !ok || item.Params == nil {
			continue
		}
		r, ok1 := intParam(item.Params, "r")
		t, ok2 := intParam(item.Params, "t")
		if !ok1 || !ok2 || r < 0 || t <= 0 {
			continue
		}
		d := time.Duration(min(t, most)) * time.Second
		switch {
		case r == 0:
			wait = max(wait, d)
		case per == 0 || float64(r)/d.Seconds() < float64(units)/per.Seconds():
			units, per = r, d
		}
	}
	return wait, units, per
}

func intParam(p *httpsfv.Params, name string) (int64, bool) {
	v, ok := p.Get(name)
	if !ok {
		return 0, false
	}
	n, ok := v.(int64)
	return n, ok
}
