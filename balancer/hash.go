package balancer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"math"
	"net/http"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/trivet-go/trivet/internal/settings"
)

// hashString is stable across processes: replicas of a client agree on where a key goes.
func hashString(s string) uint64 { return xxhash.Sum64String(s) }

// mix combines two hashes (the finalizer of splitmix64).
func mix(a, b uint64) uint64 {
	x := a ^ b*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// HashConfig configures [Hash].
type HashConfig struct {
	// Key returns what decides about the host, such as a user id or the URL's path. ok false leaves the request to
	// Next. Required.
	Key func(r *http.Request) (key string, ok bool)

	// Bound is how much more than the average a host may have in flight before its keys go to
	// their next choice. Zero means 1.25. Negative means without bound. Otherwise it must exceed 1.
	Bound float64

	// Next picks for requests without a key. If nil, it is [Adaptive]. It cannot be [Sticky].
	Next Policy
}

// Hash returns a policy that sends equal keys to the same host, by rendezvous hashing with bounded
// loads (Mirrokni, Thorup and Zadimoghaddam 2018): when a host leaves, only its keys move.
func Hash(cfg HashConfig) Policy {
	if cfg.Next == nil {
		cfg.Next = Adaptive()
	}
	if cfg.Bound == 0 {
		cfg.Bound = 1.25
	}
	return hash{cfg}
}

type hash struct{ cfg HashConfig }

func (p hash) estimator() estimator { return estimatorOf(p.cfg.Next) }

func (p hash) prober() *probing { return proberOf(p.cfg.Next) }

func (p hash) validate() error {
	f := settings.Of("balancer", "HashConfig")
	if p.cfg.Key == nil {
		f.Add("Key", "is required")
	}
	if b := p.cfg.Bound; b >= 0 && b <= 1 || math.IsNaN(b) {
		f.Add("Bound", "%v does not exceed 1", b)
	}
	f.Nest("Next", validateNext(p.cfg.Next))
	return f.Err()
}

// draw chooses the tier by the key too.
func (p hash) draw(r *http.Request) (uint64, bool) {
	key, ok := p.cfg.Key(r)
	return mix(hashString(key), 0), ok
}

func (p hash) Pick(v *View, r *http.Request) int {
	key, ok := p.cfg.Key(r)
	if !ok {
		return p.cfg.Next.Pick(v, r)
	}
	v.reason = "hash"
	k := hashString(key)
	limit := math.Inf(1)
	if p.cfg.Bound > 0 {
		total, weights := 1.0, 0.0
		for _, h := range v.hosts {
			total += float64(h.inflight.Load())
			weights += h.weight()
		}
		limit = p.cfg.Bound * total / weights // per unit of weight
	}
	best, first := -1, -1
	most, mostFirst := math.Inf(-1), math.Inf(-1)
	for i, h := range v.hosts {
		if v.Avoided(i) {
			continue
		}
		s := rendezvous(mix(k, h.hash), h.weight())
		if s > mostFirst {
			first, mostFirst = i, s
		}
		if s > most && float64(h.inflight.Load()) < math.Ceil(limit*h.weight()) {
			best, most = i, s
		}
	}
	if best < 0 {
		return first
	}
	return best
}

// rendezvous returns a host's score for a key by weight: -w/ln(u), u the hash in (0, 1).
func rendezvous(bits uint64, weight float64) float64 {
	return -weight / math.Log(unit(bits)+1.0/(1<<54))
}

// StickyConfig configures [Sticky].
type StickyConfig struct {
	// Secret keys the cookie's value, so that nobody can choose a host, or learn its address.
	// At least 16 bytes. Required. Replicas must share it.
	Secret []byte

	// Name is the cookie's. Empty means "trivet_host".
	Name string

	// MaxAge is how long a browser keeps the cookie, in whole seconds. Zero means for its session.
	MaxAge time.Duration

	// Insecure leaves out the Secure attribute, for sites without TLS.
	Insecure bool

	// Next picks the host of requests without a valid cookie. If nil, it is [Adaptive]. It cannot be Sticky.
	Next Policy
}

// Sticky returns a policy that keeps a client on the host that served it first, by a cookie. If that host is not available, the
// client moves. A forged or foreign cookie counts as none.
func Sticky(cfg StickyConfig) Policy {
	if cfg.Next == nil {
		cfg.Next = Adaptive()
	}
	if cfg.Name == "" {
		cfg.Name = "trivet_host"
	}
	cfg.Secret = append([]byte(nil), cfg.Secret...)
	return sticky{cfg}
}

type sticky struct{ cfg StickyConfig }

func (p sticky) estimator() estimator { return estimatorOf(p.cfg.Next) }

func (p sticky) prober() *probing { return proberOf(p.cfg.Next) }

func (p sticky) draw(r *http.Request) (uint64, bool) {
	if next, ok := p.cfg.Next.(hash); ok {
		return next.draw(r)
	}
	return 0, false
}

func (p sticky) validate() error {
	f := settings.Of("balancer", "StickyConfig")
	if len(p.cfg.Secret) < 16 {
		f.Add("Secret", "at least 16 bytes are required")
	}
	if err := (&http.Cookie{Name: p.cfg.Name, Value: "x"}).Valid(); err != nil {
		f.Add("Name", "%w", err)
	}
	if p.cfg.MaxAge != 0 && p.cfg.MaxAge < time.Second {
		f.Add("MaxAge", "%v is under 1 s, which a cookie cannot say", p.cfg.MaxAge)
	}
	f.Nest("Next", validateNext(p.cfg.Next))
	return f.Err()
}

// hostID returns the cookie value of a host. It is computed once a host.
func (p sticky) hostID(addr string) string {
	mac := hmac.New(sha256.New, p.cfg.Secret)
	mac.Write([]byte(addr))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// find returns the host that r's cookie names, in whatever tier it is.
func (p sticky) find(s *snapshot, r *http.Request) (tier, index int) {
	if r == nil {
		return 0, -1
	}
	c, err := r.Cookie(p.cfg.Name)
	if err != nil {
		return 0, -1
	}
	for t := range s.tiers {
		for i, h := range s.tiers[t].hosts {
			// The value is a name that the client was given, not a secret: a plain comparison will do.
			if h.role.Load().sticky == c.Value {
				return t, i
			}
		}
	}
	return 0, -1
}

func (p sticky) Pick(v *View, r *http.Request) int { return p.cfg.Next.Pick(v, r) }

// replied sets the cookie if the response's host is another than the request asked for.
func (p sticky) replied(h *host, r *http.Request, resp *http.Response) {
	id := h.role.Load().sticky
	if c, err := r.Cookie(p.cfg.Name); id == "" || err == nil && c.Value == id {
		return // a host has no id once a Reload has taken p away
	}
	c := http.Cookie{
		Name: p.cfg.Name, Value: id, Path: "/", MaxAge: int(p.cfg.MaxAge / time.Second),
		Secure: !p.cfg.Insecure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	resp.Header.Add("Set-Cookie", c.String())
}
