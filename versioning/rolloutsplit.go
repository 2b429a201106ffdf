package versioning

import (
	"crypto/rand"
	"encoding/base64"
	"math/bits"
	random "math/rand/v2"
	"net/http"
	"time"

	"github.com/cespare/xxhash/v2"
)

// saltOf returns what makes the buckets of one salt independent of those of another.
func saltOf(salt string) uint64 { return xxhash.Sum64String(salt) }

// bucketOf returns the bucket of a key: canary has those below the weight. All replicas agree, and
// a greater weight takes no key away from canary.
func bucketOf(salt uint64, key string) int { return scale(mix(xxhash.Sum64String(key) ^ salt)) }

// mix spreads each bit of x over all bits, without making two numbers one (SplitMix64's finalizer).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// scale maps all numbers evenly to buckets.
func scale(x uint64) int {
	high, _ := bits.Mul64(x, fullWeight)
	return int(high)
}

// draw decides which arm a request gets. cookie is the key that it was given, if any.
func (r *Rollout) draw(p *plan, req *http.Request) (d draw, cookie string) {
	if p.cfg.Force != nil {
		if arm, ok := p.cfg.Force(req); ok && (arm == Canary || arm == Stable) {
			r.counts.forced.Add(1)
			return draw{canary: arm == Canary, forced: true}, ""
		}
	}
	if p.weight == 0 || p.weight == fullWeight && !p.watched {
		return draw{canary: p.weight > 0}, ""
	}
	d.counts = true
	key, ok := p.cfg.Key(req)
	if !ok {
		r.counts.missing.Add(1)
		switch p.cfg.Missing {
		case MissingCookie:
			key, cookie = r.cookieKey(p.cfg, req)
		case MissingPerRequest:
			d.single = true
		default:
			// All of canary is watched by the floor. Else stable gets what was not drawn.
			if p.weight < fullWeight {
				return draw{}, ""
			}
			d.single = true
		}
	}
	if d.single {
		d.bucket = scale(random.Uint64())
	} else {
		d.bucket = bucketOf(p.salt, key)
	}
	d.canary = d.bucket < p.weight
	return d, cookie
}

// cookieKeyLength is how long the key in a cookie is: 16 random bytes.
const cookieKeyLength = 22

// cookieKey returns the key in a request's cookie, or a new one, which cookie is then too.
func (r *Rollout) cookieKey(cfg *RolloutConfig, req *http.Request) (key, cookie string) {
	if c, err := req.Cookie(cfg.Cookie.Name); err == nil && len(c.Value) == cookieKeyLength {
		return c.Value, ""
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	key = base64.RawURLEncoding.EncodeToString(b[:])
	r.counts.cookies.Add(1)
	return key, key
}

// cookieLine returns the value of the Set-Cookie field for a new key. The cookie says nothing of
// the arm, which changes with the weight.
func (c *CookieConfig) line(key string) string {
	cookie := http.Cookie{
		Name: c.Name, Value: key, Path: "/", MaxAge: int(c.MaxAge.Seconds()),
		Secure: !c.Insecure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	return cookie.String()
}

// drawn is draw for requests that may be skipped, or come to the handlers of another release.
func (r *Rollout) drawn(p *plan, req *http.Request, ours bool) (d draw, cookie string) {
	switch {
	case p.cfg.Skip != nil && p.cfg.Skip(req):
		return draw{canary: ours && p.weight == fullWeight, skipped: true}, ""
	case ours:
		return r.draw(p, req)
	}
	return draw{}, ""
}

// enter decides which arm req gets and counts it as in flight there, until leave.
func (r *Rollout) enter(req *http.Request, wrapped string) (p *plan, d draw, cookie string) {
	for {
		p = r.current.Load()
		ours := p.cfg.Release == wrapped
		if made := r.decided(req); made != nil {
			d = made.under(p, ours)
		} else {
			d, cookie = r.drawn(p, req, ours)
		}
		a := &r.counts.arms[d.arm()]
		a.begun.Add(1)
		// Who waits until an arm is drained changes the plan first: either this request sees the
		// new plan here, or it is seen in flight.
		if now := r.current.Load(); now == p || now.weight == p.weight && now.cfg == p.cfg {
			if d.skipped {
				a.skipped.Add(1)
			}
			return p, d, cookie
		}
		a.begun.Add(^uint64(0)) // it has not begun there
	}
}

// leave counts that a request has ended.
func (r *Rollout) leave(p *plan, d draw, o outcome, took int64) {
	if p.evidence.record(d, o, time.Duration(took)) {
		r.wake()
	}
	r.counts.arms[d.arm()].ended.Add(1)
}
