package balancer

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// StickyConfig configures [Sticky].
type StickyConfig struct {
	// Secret keys the cookie's value, so that nobody can choose an endpoint or learn its address.
	// At least 16 bytes. Required. Replicas must share it.
	Secret []byte

	// Name is the cookie's. Empty means "trivet_host". That says host, where all else says
	// endpoint, on purpose: browsers hold cookies of that name, and another one would move their
	// clients.
	Name string

	// MaxAge is how long a browser keeps the cookie, in whole seconds. Zero means for its session.
	// Anything else below 1 s is invalid.
	MaxAge time.Duration

	// Insecure leaves out the Secure attribute, for sites without TLS.
	Insecure bool

	// Next picks for requests without a valid cookie. If nil, it is [Adaptive]. It cannot be
	// Sticky.
	Next Policy
}

// Sticky returns a policy that keeps a client on the endpoint that served it first, by a cookie. If
// that endpoint is not available, the client moves. A forged or foreign cookie counts as none.
func Sticky(cfg StickyConfig) Policy {
	if cfg.Next == nil {
		cfg.Next = Adaptive()
	}
	cfg.Name = cmp.Or(cfg.Name, "trivet_host")
	cfg.Secret = bytes.Clone(cfg.Secret)
	return sticky{cfg}
}

type sticky struct{ cfg StickyConfig }

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

func (p sticky) traits() traits {
	t := traitsOf(p.cfg.Next)
	t.sticky = &p
	return t
}

func (p sticky) Pick(v *View, r *http.Request) int { return p.cfg.Next.Pick(v, r) }

// cookieValue returns the cookie's value for an endpoint. It is computed once per endpoint.
func (p *sticky) cookieValue(addr string) string {
	mac := hmac.New(sha256.New, p.cfg.Secret)
	mac.Write([]byte(addr))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// find returns the endpoint that r's cookie names, in whatever tier it is; index is -1 if there is
// none.
func (p *sticky) find(s *snapshot, r *http.Request) (tier, index int) {
	if r == nil {
		return 0, -1
	}
	c, err := r.Cookie(p.cfg.Name)
	if err != nil {
		return 0, -1
	}
	for t := range s.tiers {
		for i, e := range s.tiers[t].endpoints {
			// The value is a name that the client was given, not a secret: a plain comparison will
			// do.
			if e.description.Load().cookie == c.Value {
				return t, i
			}
		}
	}
	return 0, -1
}

// setCookie sets the cookie if r did not ask for the endpoint e, which answered it.
func (p *sticky) setCookie(e *endpoint, r *http.Request, resp *http.Response) {
	value := e.description.Load().cookie
	if c, err := r.Cookie(p.cfg.Name); value == "" || err == nil && c.Value == value {
		return // it is empty once a Reload has taken p away
	}
	c := http.Cookie{
		Name: p.cfg.Name, Value: value, Path: "/", MaxAge: int(p.cfg.MaxAge / time.Second),
		Secure: !p.cfg.Insecure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	resp.Header.Add("Set-Cookie", c.String())
}
