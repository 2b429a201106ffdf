package ratelimit

import (
	"encoding/json"
	"math"
	"math/bits"
	"net/http"
	"strconv"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/retryafter"
)

// Problem types of draft-ietf-httpapi-ratelimit-headers-11, section 5.
const (
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// Field names in the form that http.Header keeps them.
const (
	fieldRateLimit = "Ratelimit"
	fieldPolicy    = "Ratelimit-Policy"
	fieldRetry     = "Retry-After"
	fieldLegacy    = "X-Ratelimit-"
)

// mostInt is the greatest integer that a structured field can hold (RFC 9651, section 3.3.1).
const mostInt = 999_999_999_999_999

// policyItem returns a policy's item of RateLimit-Policy. Its w counts whole seconds
// (section 3.1.2): for other windows q is what the rate earns in the next whole second.
func policyItem(name string, r Rate) string {
	w := retryafter.Seconds(r.Window)
	q := mulDiv(r.Limit, int64(time.Duration(w)*time.Second), int64(r.Window))
	return `"` + name + `";q=` + strconv.FormatInt(min(q, mostInt), 10) + `;w=` + strconv.FormatInt(w, 10)
}

// mulDiv returns a*b/c, rounded down and saturated.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, math.MaxInt64))
}

// effectiveWindow returns t of c's item of RateLimit: the seconds in which the client may use no
// more than what remains (section 3.2.2). Taking the time to earn it keeps r/t, which tells the
// client a pace, at the rate or below, however much has been saved up (section 8.5).
func (c *Claim) effectiveWindow() int64 {
	if c.nothing {
		return max(retryafter.Seconds(c.Rate.Window), 1)
	}
	if c.Remaining <= 0 && c.Denied {
		return max(retryafter.Seconds(c.RetryAfter), 1)
	}
	units := max(c.Remaining, 1) // if nothing is left after an admission, the next unit takes this long
	hi, lo := bits.Mul64(uint64(units), uint64(c.Rate.Window))
	if hi >= uint64(c.Rate.Limit) {
		return math.MaxInt64 / int64(time.Second) // a user's own Store says that more than a burst is left
	}
	ns, rest := bits.Div64(hi, lo, uint64(c.Rate.Limit))
	s := ns / uint64(time.Second)
	if rest != 0 || ns%uint64(time.Second) != 0 || s == 0 {
		s++
	}
	return int64(s)
}

// retryAfter returns the seconds of Retry-After: not before the end of a violated policy's
// effective window (section 6), and rounded up. Zero means that there is nothing to say.
func (l *Limiter) retryAfter(d *Decision) int64 {
	if d.Allowed || d.RetryAfter <= 0 {
		return 0
	}
	wait := d.RetryAfter
	if l.cfg.RetryJitter > 0 {
		wait += time.Duration(l.jitter() * float64(min(l.cfg.RetryJitter, math.MaxInt64-wait)))
	}
	s := retryafter.Seconds(wait)
	claims := d.claims()
	for i := range claims {
		if claims[i].Denied {
			s = max(s, claims[i].effectiveWindow())
		}
	}
	return s
}

// SetHeaders sets the fields that [Limiter.Middleware] sends: RateLimit-Policy, RateLimit and,
// if the request was refused, Retry-After. Lists that other limiters have begun are continued.
func (d *Decision) SetHeaders(h http.Header) {
	if d.limiter == nil {
		return
	}
	d.setHeaders(h)
}

// setHeaders sets d's fields and returns spare places for the values of three more if the request
// was refused. All texts are cut from one string and all values share one array, so that the whole
// takes two allocations.
func (d *Decision) setHeaders(h http.Header) (spare []string) {
	l := d.limiter
	if l.cfg.NoHeaders && d.Allowed {
		return nil
	}
	n := 2
	if !d.Allowed {
		n += 1 + 3
	}
	if l.cfg.LegacyHeaders {
		n += 3
	}
	var values []string
	if n == 2 {
		values = new([2]string)[:] // what most requests need, of a size known in advance
	} else {
		values = make([]string, n)
	}
	var buf [256]byte
	text := buf[:0]
	claims := d.claims()
	least := -1
	policyEnd := 0
	if !l.cfg.NoHeaders {
		if len(claims) > 1 || len(claims) == 1 && claims[0].Rate != claims[0].policy.Rate {
			text = appendPolicies(text, claims)
		}
		policyEnd = len(text)
		for i := range claims {
			c := &claims[i]
			if c.Remaining < 0 || c.hidden() {
				continue
			}
			if least < 0 || c.Remaining < claims[least].Remaining {
				least = i
			}
			if len(text) > policyEnd {
				text = append(text, ", "...)
			}
			text = append(text, c.policy.item...)
			text = strconv.AppendInt(text, min(c.Remaining, mostInt), 10)
			text = append(text, ";t="...)
			text = strconv.AppendInt(text, c.effectiveWindow(), 10)
		}
	}
	limitEnd := len(text)
	if s := l.retryAfter(d); s > 0 {
		text = strconv.AppendInt(text, s, 10)
	}
	retryEnd := len(text)
	legacy := l.cfg.LegacyHeaders && least >= 0
	var legacyEnd [3]int
	if legacy {
		c := &claims[least]
		most := c.Rate.Burst
		if c.Policy.Algorithm == SlidingWindow {
			most = c.Rate.Limit
		}
		for i, n := range [...]int64{most, c.Remaining, retryafter.Seconds(c.Reset)} {
			text = strconv.AppendInt(text, n, 10)
			legacyEnd[i] = len(text)
		}
	}
	s := string(text)
	empty := len(h) == 0
	add := func(name, value string) {
		values[0] = value
		one := values[:1:1]
		values = values[1:]
		if !empty && (name == fieldRateLimit || name == fieldPolicy) {
			if old := h[name]; old != nil {
				one = append(old[:len(old):len(old)], value)
			}
		}
		h[name] = one
	}
	if policyEnd > 0 {
		add(fieldPolicy, s[:policyEnd])
	} else if !l.cfg.NoHeaders && len(claims) == 1 && !claims[0].hidden() {
		add(fieldPolicy, claims[0].policy.header)
	}
	if limitEnd > policyEnd {
		add(fieldRateLimit, s[policyEnd:limitEnd])
	}
	if retryEnd > limitEnd {
		add(fieldRetry, s[limitEnd:retryEnd])
	}
	if legacy {
		add(fieldLegacy+"Limit", s[retryEnd:legacyEnd[0]])
		add(fieldLegacy+"Remaining", s[legacyEnd[0]:legacyEnd[1]])
		add(fieldLegacy+"Reset", s[legacyEnd[1]:legacyEnd[2]])
	}
	return values
}

func appendPolicies(text []byte, claims []Claim) []byte {
	for i := range claims {
		c := &claims[i]
		if c.hidden() {
			continue
		}
		if len(text) > 0 {
			text = append(text, ", "...)
		}
		if c.Rate == c.policy.Rate {
			text = append(text, c.policy.header...)
		} else {
			text = append(text, policyItem(c.Policy.Name, c.Rate)...)
		}
	}
	return text
}

// problems returns the documents of 429 for each set of violated policies. They have no
// detail, so none needs to be made while serving.
func problems(policies []Policy) [][]byte {
	bodies := make([][]byte, 1<<len(policies))
	for set := range bodies {
		names := []string{}
		for i, p := range policies {
			if set&(1<<i) != 0 && !p.Hidden {
				names = append(names, p.Name)
			}
		}
		body, err := json.Marshal(problem.Details{
			Type: typeQuotaExceeded, Title: "Request quota exceeded", Status: http.StatusTooManyRequests,
			Extensions: map[string]any{"violated-policies": names},
		})
		if err != nil {
			panic(err) // cannot be: all members are strings and numbers
		}
		bodies[set] = append(body, '\n')
	}
	return bodies
}
