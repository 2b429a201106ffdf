package cache

import (
	"strconv"
	"time"
)

// The field Cache-Status (RFC 9211). The key of the response is not told (C57).

const cacheName = "Trivet"

// A rendering is the texts of a stored response that change with its age: they are made once a
// second.
type rendering struct {
	second int64
	age    string
	state  string // of a hit
}

// rendered returns the texts for an answer from a stored response of that age.
func (p *policyOf) rendered(age time.Duration, rep *reply) *rendering {
	second := int64(age / time.Second)
	if rep.state != "" {
		return &rendering{second: second, age: strconv.FormatInt(second, 10), state: rep.state}
	}
	if r := p.text.Load(); r != nil && r.second == second {
		return r
	}
	left := int64(p.lifetime/time.Second) - second
	r := &rendering{
		second: second,
		age:    strconv.FormatInt(second, 10),
		state:  cacheName + "; hit; ttl=" + strconv.FormatInt(left, 10),
	}
	p.text.Store(r)
	return r
}

// staleState returns the value for a stale response.
func (c *Cache) staleState(j judgment, reason Reason) string {
	return c.detailed(cacheName+"; hit; ttl="+strconv.FormatInt(int64(j.left/time.Second), 10), reason)
}

// fetchedState returns the value for a response that was fetched for one of the reasons that a
// lookup has. status is what the origin answered, if that is not what the client gets.
func (c *Cache) fetchedState(why Reason, status int, stored, collapsed bool, detail Reason) string {
	s := cacheName + "; fwd=" + forwarded(why)
	if status != 0 {
		s += "; fwd-status=" + strconv.Itoa(status)
	}
	if stored {
		s += "; stored"
	}
	if collapsed {
		s += "; collapsed"
	}
	if detail == ReasonNone {
		detail = why
	}
	return c.detailed(s, detail)
}

func (c *Cache) detailed(s string, reason Reason) string {
	if c.cfg.Detail && reason != ReasonNone {
		return s + "; detail=" + string(reason)
	}
	return s
}

// forwarded returns RFC 9211's word for the reason of a fetch (section 2.2).
func forwarded(why Reason) string {
	switch why {
	case ReasonMethod, ReasonRequest, ReasonPartial:
		return string(why)
	case ReasonURIMiss, ReasonVaryMiss:
		return string(why)
	case ReasonStale, ReasonNoCache:
		return "stale"
	case ReasonPass, ReasonSkip:
		return "bypass"
	}
	return "miss"
}
