package pacer

import (
	"math"
	"math/bits"
	"net/http"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/trivet-go/trivet/internal/retryafter"
)

const (
	maxHintBytes = 4096 // of a RateLimit field that are read
	mostSeconds  = int64(math.MaxInt64 / time.Second)
)

// A hint is what a response says about the limits of its server.
type hint struct {
	wait  time.Duration // before the next request
	units int64         // that may be used
	per   time.Duration // in this time; zero if nothing was said
}

// readHint reads the hint of a response that came at now. Nothing in it exceeds longest. A stored
// response, which any Age tells, speaks of another time (draft-11, section 7.3).
func readHint(resp *http.Response, now time.Time, longest time.Duration) (h hint) {
	if _, stored := resp.Header["Age"]; stored {
		return hint{}
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		wait, _ := retryafter.Parse(resp.Header.Get("Retry-After"), now)
		h.wait = min(wait, longest)
	}
	if values := resp.Header["Ratelimit"]; values != nil {
		wait, units, per := parseRateLimit(values)
		// Retry-After takes precedence over the fields (draft-11, section 6).
		if h.wait == 0 {
			h.wait = min(wait, longest)
		}
		if per > 0 {
			h.units, h.per = units, min(per, longest)
			if per > longest { // the pace is kept, though not for as long
				h.units = max(share(units, longest, per), 1)
			}
		}
	}
	return h
}

// share returns units * part / whole, rounded down; part is at most whole.
func share(units int64, part, whole time.Duration) int64 {
	hi, lo := bits.Mul64(uint64(units), uint64(part))
	q, _ := bits.Div64(hi, lo, uint64(whole))
	return int64(q)
}

// parseRateLimit returns the strictest of the policies in a RateLimit field: the longest wait where
// nothing is left, and the slowest pace of the others. A malformed field counts as absent (RFC
// 9651, section 4.2), as does an item without both numbers.
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
		d := time.Duration(min(t, mostSeconds)) * time.Second
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
