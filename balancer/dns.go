package balancer

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultDNSInterval  = 30 * time.Second
	defaultMaxEndpoints = 1000

	// minRefresh is the least time from one lookup to the next that a hint brings forward, however
	// many hints come. After a failed lookup the next one comes sooner: see firstBackoff.
	minRefresh = 5 * time.Second
	// firstBackoff is the wait after a failed lookup. Each further failure doubles it, up to the
	// Interval.
	firstBackoff = time.Second
)

// DNSConfig configures [DNS]. The zero DNSConfig is valid.
type DNSConfig struct {
	// Service, if not empty, asks for SRV records of _Service._Proto.host, whose ports, weights and
	// priorities are used. If empty, A and AAAA records are, with the port of the target.
	Service string

	// Proto is "tcp" or "udp". Empty means "tcp".
	Proto string

	// Network is "ip", "ip4" or "ip6". Empty means "ip".
	Network string

	// Interval is the time between two lookups, varied by a tenth. Trouble with the endpoints
	// brings the next lookup forward, but to no less than 5 s after the last one. A failed lookup
	// is repeated after a second, and after twice as long each further time, up to Interval. Zero
	// means 30 s, and more than 100 years counts as 100 years. Negative is invalid.
	Interval time.Duration

	// Linger is how long an address stays after it was last in an answer: for name servers that
	// answer with a part of a large set. Zero means that it leaves at once. Negative is invalid.
	Linger time.Duration

	// MaxStale is how long the last good answer is used while lookups fail or come back empty. Zero
	// or negative means for ever: an outage of DNS says nothing about the endpoints, and health
	// checks find those that fail.
	MaxStale time.Duration

	// MaxEndpoints bounds the set. Of a larger set a part is used, which changes little from answer
	// to answer. Zero means 1,000. Negative is invalid.
	MaxEndpoints int

	// Allow, if not nil, reports whether an address may be connected to. It guards against names
	// that resolve to where strangers should not get: loopback, link-local, private networks. It is
	// given addresses without a zone, and IPv4 addresses in their own form. It must be safe for
	// concurrent use.
	Allow func(netip.Addr) bool

	// Resolver makes the lookups. If nil, it is net.DefaultResolver.
	Resolver *net.Resolver
}

// DNS returns a [Resolver] that looks up the target's host. A host that is an IP address needs no
// lookup. The last good answer stays in use when a lookup fails or is empty. [New] checks cfg.
func DNS(cfg DNSConfig) Resolver {
	f := settings.Of("balancer", "DNSConfig")
	settings.Positive(f, "Interval", &cfg.Interval, defaultDNSInterval)
	cfg.Interval = min(cfg.Interval, forever)
	settings.NotNegative(f, "Linger", cfg.Linger)
	settings.Positive(f, "MaxEndpoints", &cfg.MaxEndpoints, defaultMaxEndpoints)
	cfg.Network = cmp.Or(cfg.Network, "ip")
	if !slices.Contains([]string{"ip", "ip4", "ip6"}, cfg.Network) {
		f.Add("Network", "%q is not ip, ip4 or ip6", cfg.Network)
	}
	cfg.Proto = cmp.Or(cfg.Proto, "tcp")
	if !slices.Contains([]string{"tcp", "udp"}, cfg.Proto) {
		f.Add("Proto", "%q is not tcp or udp", cfg.Proto)
	}
	cfg.Resolver = cmp.Or(cfg.Resolver, net.DefaultResolver)
	return &dns{cfg, f.Err()}
}

type dns struct {
	cfg DNSConfig // complete, if err is nil
	err error
}

func (d *dns) validate() error { return d.err }

func (d *dns) Resolve(
	ctx context.Context, target *url.URL, refresh <-chan struct{}, update func([]Endpoint, error),
) {
	l := lookup{cfg: d.cfg, target: target, seen: make(map[string]seen)}
	good := time.Now()
	failed, dropped := 0, false
	for {
		endpoints, err := l.do(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		wait := d.cfg.Interval
		if len(endpoints) > 0 {
			good, dropped = now, false
			update(endpoints, nil)
		} else if d.cfg.MaxStale > 0 && now.Sub(good) >= d.cfg.MaxStale && !dropped {
			update(nil, nil)
			clear(l.seen)
			clear(l.good)
			dropped = true
		}
		if err == nil {
			failed = 0
		} else {
			update(nil, err)
			wait = min(wait, firstBackoff<<min(failed, 20))
			failed++
		}
		wait = time.Duration((0.9 + 0.2*rand.Float64()) * float64(wait))
		if !pause(ctx, wait, min(wait, minRefresh), refresh) {
			return
		}
	}
}

// pause waits for long, or only for short if a hint comes. It returns false if ctx ends.
func pause(ctx context.Context, long, short time.Duration, refresh <-chan struct{}) bool {
	timer := time.NewTimer(short)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	timer.Reset(long - short)
	select {
	case <-ctx.Done():
		return false
	case <-refresh:
	case <-timer.C:
	}
	return true
}
