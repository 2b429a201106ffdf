package balancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultDNSInterval  = 30 * time.Second
	defaultMaxEndpoints = 1000

	// minRefresh is the least time between two lookups, however many hints come.
	minRefresh = 5 * time.Second
	// firstBackoff doubles with each failed lookup, up to the Interval.
	firstBackoff = time.Second
	// lookupTimeout bounds one lookup with all its names.
	lookupTimeout = 10 * time.Second
	// lookupWorkers is how many names of a service are looked up at once.
	lookupWorkers = 16
)

// DNSConfig configures [DNS]. The zero DNSConfig is valid.
type DNSConfig struct {
	// Service, if not empty, asks for SRV records of _Service._Proto.host, whose ports, weights and
	// priorities are used. Otherwise A and AAAA records are, with the port of the target.
	Service string

	// Proto is "tcp" if empty.
	Proto string

	// Network is "ip", "ip4" or "ip6". Empty means "ip".
	Network string

	// Interval is the time between lookups, give or take a tenth. Trouble with the endpoints brings the next one
	// forward, to no less than 5 s after the last. Zero means 30 s.
	Interval time.Duration

	// Linger is how long an address stays after it was last in an answer: for servers that answer with a part of a large
	// set. Zero means not at all.
	Linger time.Duration

	// MaxStale is how long the last good answer is used while lookups fail or come back empty. Zero or negative means
	// for ever: a DNS outage is not one of the endpoints, and health checks tell which of them still live.
	MaxStale time.Duration

	// MaxEndpoints bounds the set. Of a larger one a part is taken that changes little from
	// answer to answer. Zero means 1000.
	MaxEndpoints int

	// Allow, if not nil, says which addresses may be connected to: the guard against names that resolve
	// to where strangers should not get (loopback, link-local, private networks).
	Allow func(netip.Addr) bool

	// Resolver makes the lookups. If nil, it is net.DefaultResolver.
	Resolver *net.Resolver
}

// DNS returns a [Resolver] that looks up the target's host. A host that is an IP address needs no lookup. The
// last good answer stays in use when a lookup fails or is empty.
func DNS(cfg DNSConfig) Resolver { return &dns{cfg} }

type dns struct{ cfg DNSConfig }

func (d *dns) validate() error {
	f := settings.Of("balancer", "DNSConfig")
	settings.NotNegative(f, "Interval", d.cfg.Interval)
	settings.NotNegative(f, "Linger", d.cfg.Linger)
	settings.NotNegative(f, "MaxEndpoints", d.cfg.MaxEndpoints)
	if !slices.Contains([]string{"", "ip", "ip4", "ip6"}, d.cfg.Network) {
		f.Add("Network", "%q is not ip, ip4 or ip6", d.cfg.Network)
	}
	if !slices.Contains([]string{"", "tcp", "udp"}, d.cfg.Proto) {
		f.Add("Proto", "%q is not tcp or udp", d.cfg.Proto)
	}
	return f.Err()
}

func (d *dns) Resolve(ctx context.Context, target *url.URL, refresh <-chan struct{}, update func([]Endpoint, error)) {
	l := lookup{cfg: d.cfg, target: target, seen: make(map[string]seen)}
	if l.cfg.Interval == 0 {
		l.cfg.Interval = defaultDNSInterval
	}
	l.cfg.Interval = min(l.cfg.Interval, forever)
	if l.cfg.MaxEndpoints == 0 {
		l.cfg.MaxEndpoints = defaultMaxEndpoints
	}
	if l.cfg.Resolver == nil {
		l.cfg.Resolver = net.DefaultResolver
	}
	good := time.Now()
	failed, dropped := 0, false
	for {
		endpoints, err := l.do(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		wait := l.cfg.Interval
		if len(endpoints) > 0 {
			good, dropped = now, false
			update(endpoints, nil)
		} else if l.cfg.MaxStale > 0 && now.Sub(good) >= l.cfg.MaxStale && !dropped {
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

// pause waits for long, or after short for a hint. It returns false if ctx ends.
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

// A lookup asks for one target again and again.
type lookup struct {
	cfg    DNSConfig
	target *url.URL
	seen   map[string]seen         // by address
	good   map[string][]netip.Addr // by target of an SRV record: its last good answer
}

type seen struct {
	endpoint Endpoint
	last     time.Time
}

// do returns the endpoints, an error, or both: what is known of a service some of whose names could not be looked up.
func (l *lookup) do(ctx context.Context) ([]Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	answer, err := l.ask(ctx)
	if len(answer) == 0 {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("balancer: no usable addresses for %s", l.target.Hostname())
	}
	now := time.Now()
	for _, e := range answer {
		l.seen[e.Addr] = seen{e, now}
	}
	all := make([]Endpoint, 0, len(l.seen))
	for addr, s := range l.seen {
		if s.last != now && now.Sub(s.last) >= l.cfg.Linger {
			delete(l.seen, addr)
			continue
		}
		all = append(all, s.endpoint)
	}
	all = (&subset{size: l.cfg.MaxEndpoints}).choose(all)
	divisor := uint32(0)
	for _, e := range all {
		for a := e.Weight; a > 0; {
			divisor, a = a, divisor%a
		}
	}
	for i := range all {
		all[i].Weight /= max(divisor, 1)
	}
	return all, err
}

func (l *lookup) ask(ctx context.Context) ([]Endpoint, error) {
	host := l.target.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		return l.endpoints([]netip.Addr{addr}, targetPort(l.target), Endpoint{}), nil
	}
	if l.cfg.Service == "" {
		addrs, err := l.addrs(ctx, host)
		return l.endpoints(addrs, targetPort(l.target), Endpoint{}), err
	}
	proto := l.cfg.Proto
	if proto == "" {
		proto = "tcp"
	}
	_, records, err := l.cfg.Resolver.LookupSRV(ctx, l.cfg.Service, proto, host)
	if err != nil && len(records) == 0 {
		return nil, err
	}
	// Priorities have 16 bits there and 8 here; only their order matters. Within one, LookupSRV shuffles.
	slices.SortFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(hashString(a.Target), hashString(b.Target)), cmp.Compare(a.Port, b.Port))
	})
	records = records[:min(len(records), l.cfg.MaxEndpoints)] // each costs a lookup
	var order []uint16
	weighted := make(map[uint16]bool) // priorities with a weight other than zero
	for _, r := range records {
		order = append(order, r.Priority)
		weighted[r.Priority] = weighted[r.Priority] || r.Weight > 0
	}
	order = slices.Compact(order)
	found, errs := l.names(ctx, records)
	var all []Endpoint
	index := make(map[string]int) // of all, by address
	good := make(map[string][]netip.Addr, len(records))
	for i, r := range records {
		addrs := found[i]
		if errs[i] != nil {
			// That this name could not be looked up says nothing against its servers. That there is none does.
			var answer *net.DNSError
			if errors.As(errs[i], &answer) && answer.IsNotFound {
				continue
			}
			addrs = l.good[r.Target]
		}
		good[r.Target] = addrs
		rank, _ := slices.BinarySearch(order, r.Priority)
		e := Endpoint{Weight: srvWeight(r.Weight, len(addrs), weighted[r.Priority]), Priority: uint8(min(rank, 255))}
		for _, e := range l.endpoints(addrs, strconv.Itoa(int(r.Port)), e) {
			at, twice := index[e.Addr]
			switch {
			case !twice:
				index[e.Addr] = len(all)
				all = append(all, e)
			case all[at].Priority == e.Priority:
				all[at].Weight = uint32(min(uint64(all[at].Weight)+uint64(e.Weight), math.MaxUint32))
			} // else it has a better one already
		}
	}
	err = errors.Join(errs...)
	if len(all) > 0 {
		l.good = good
	}
	return all, err
}

// names looks up the targets of records, several at once: one that nobody answers for must not use up the others' time.
func (l *lookup) names(ctx context.Context, records []*net.SRV) ([][]netip.Addr, []error) {
	found, errs := make([][]netip.Addr, len(records)), make([]error, len(records))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(records), lookupWorkers) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(records); i = int(next.Add(1)) - 1 {
				if records[i].Target == "." { // RFC 2782: the service is decidedly not available
					errs[i] = &net.DNSError{Err: "service not available", Name: l.target.Hostname(), IsNotFound: true}
					continue
				}
				found[i], errs[i] = l.addrs(ctx, records[i].Target)
			}
		})
	}
	wg.Wait()
	return found, errs
}

// srvWeight returns the weight of each of a record's addresses. The record's is that of its target, however many addresses it
// has. Zero is a very small chance beside other weights, and an equal one among zeros (RFC 2782).
func srvWeight(weight uint16, addrs int, weighted bool) uint32 {
	const one = 2520 // divisible by one to ten addresses
	w := uint32(weight) * one
	if !weighted {
		w = one
	}
	return max(1, w/uint32(max(addrs, 1)))
}

func (l *lookup) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	network := l.cfg.Network
	if network == "" {
		network = "ip"
	}
	return l.cfg.Resolver.LookupNetIP(ctx, network, host)
}

// endpoints makes endpoints like e of the addresses that are allowed.
func (l *lookup) endpoints(addrs []netip.Addr, port string, e Endpoint) []Endpoint {
	all := make([]Endpoint, 0, len(addrs))
	for _, a := range addrs {
		a = a.Unmap() // else ::ffff:127.0.0.1 would pass an Allow that looks for 127.0.0.0/8
		// Nor must a zone keep an address out of the prefixes that Allow compares it with: no prefix contains one with a zone.
		if l.cfg.Allow == nil || l.cfg.Allow(a.WithZone("")) {
			e.Addr = net.JoinHostPort(a.String(), port)
			all = append(all, e)
		}
	}
	return all
}
