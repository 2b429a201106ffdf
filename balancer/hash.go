package balancer

import (
	"math"
	"net/http"

	"github.com/trivet-go/trivet/internal/settings"
)

// HashConfig configures [Hash].
type HashConfig struct {
	// Key returns what decides about the endpoint, such as a user id or the URL's path. Without ok
	// the request is left to Next. It must be safe for concurrent use. Required.
	Key func(r *http.Request) (key string, ok bool)

	// Bound is how many times the average an endpoint may have in flight, for its weight, before
	// its keys go to their next choice. Zero means 1.25. Negative means no bound. Otherwise it
	// must exceed 1.
	Bound float64

	// Next picks for requests without a key. If nil, it is [Adaptive]. It cannot be [Sticky].
	Next Policy
}

// Hash returns a policy that sends equal keys to the same endpoint, by rendezvous hashing with
// bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): when an endpoint leaves, only its keys
// move.
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

func (p hash) traits() traits {
	t := traitsOf(p.cfg.Next)
	t.tier, t.sticky = p.tier, nil
	return t
}

// tier makes the key decide about the tier too.
func (p hash) tier(r *http.Request) (uint64, bool) {
	key, ok := p.cfg.Key(r)
	return mix(hashString(key), 0), ok
}

func (p hash) Pick(v *View, r *http.Request) int {
	key, ok := p.cfg.Key(r)
	if !ok {
		return p.cfg.Next.Pick(v, r)
	}
	v.reason = ReasonHash
	k := hashString(key)
	limit := math.Inf(1)
	if p.cfg.Bound > 0 {
		total, weights := 1.0, 0.0
		for _, e := range v.endpoints {
			total += float64(e.inFlight.Load())
			weights += e.weight()
		}
		limit = p.cfg.Bound * total / weights // per unit of weight
	}
	best, first := -1, -1
	most, mostFirst := math.Inf(-1), math.Inf(-1)
	for i, e := range v.endpoints {
		if v.Avoided(i) {
			continue
		}
		s := rendezvous(mix(k, e.hash), e.weight())
		if s > mostFirst {
			first, mostFirst = i, s
		}
		if s > most && float64(e.inFlight.Load()) < math.Ceil(limit*e.weight()) {
			best, most = i, s
		}
	}
	if best < 0 {
		return first
	}
	return best
}

// rendezvous returns an endpoint's score for a key: -weight / ln(u), with the hash as u in (0, 1).
func rendezvous(hash uint64, weight float64) float64 {
	return -weight / math.Log(unit(hash)+1.0/(1<<54))
}
