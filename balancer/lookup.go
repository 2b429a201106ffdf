package balancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookupTimeout bounds one lookup with all its names.
	lookupTimeout = 10 * time.Second
	// lookupWorkers is how many names of a service are looked up at once.
	lookupWorkers = 16
)

// A lookup asks DNS for the endpoints of one target, and remembers what it was told.
type lookup struct {
	cfg    DNSConfig
	target *url.URL
	seen   map[string]seen         // by address
	good   map[string][]netip.Addr // by target of an SRV record: its last good answer
}

// A seen is an endpoint and when it was last in an answer.
type seen struct {
	endpoint Endpoint
	last     time.Time
}

// do returns the endpoints, an error, or both: a service may have names of which only some could be
// looked up.
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
	reduceWeights(all)
	return all, err
}

// reduceWeights divides the weights of all by their greatest common divisor: srvWeight has scaled
// them up.
func reduceWeights(all []Endpoint) {
	divisor := uint32(0)
	for _, e := range all {
		for a := e.Weight; a > 0; {
			divisor, a = a, divisor%a
		}
	}
	for i := range all {
		all[i].Weight /= max(divisor, 1)
	}
}

// ask asks once: for SRV records if the lookup is for a service, else for addresses.
func (l *lookup) ask(ctx context.Context) ([]Endpoint, error) {
	host := l.target.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		return l.endpoints([]netip.Addr{addr}, targetPort(l.target), Endpoint{}), nil
	}
	if l.cfg.Service == "" {
		addrs, err := l.addrs(ctx, host)
		return l.endpoints(addrs, targetPort(l.target), Endpoint{}), err
	}
	return l.service(ctx, host)
}

// service asks for the SRV records of host, and for the addresses of their targets.
func (l *lookup) service(ctx context.Context, host string) ([]Endpoint, error) {
	_, records, err := l.cfg.Resolver.LookupSRV(ctx, l.cfg.Service, l.cfg.Proto, host)
	if err != nil && len(records) == 0 {
		return nil, err
	}
	// LookupSRV shuffles the records of a priority. In order, the first MaxEndpoints are the same
	// ones each time.
	slices.SortFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(
			cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(hashString(a.Target), hashString(b.Target)),
			cmp.Compare(a.Port, b.Port),
		)
	})
	records = records[:min(len(records), l.cfg.MaxEndpoints)] // each costs a lookup
	// An SRV priority has 16 bits and an Endpoint's 8: its rank among those of the records stands
	// for it.
	var order []uint16
	weighted := make(map[uint16]bool) // by priority: a record has a weight other than zero
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
			// A lookup that failed says nothing against the name's servers. That the name does not
			// exist does.
			var answer *net.DNSError
			if errors.As(errs[i], &answer) && answer.IsNotFound {
				continue
			}
			addrs = l.good[r.Target]
		}
		good[r.Target] = addrs
		rank, _ := slices.BinarySearch(order, r.Priority)
		e := Endpoint{
			Weight:   srvWeight(r.Weight, len(addrs), weighted[r.Priority]),
			Priority: uint8(min(rank, 255)),
		}
		for _, e := range l.endpoints(addrs, strconv.Itoa(int(r.Port)), e) {
			at, twice := index[e.Addr]
			switch {
			case !twice:
				index[e.Addr] = len(all)
				all = append(all, e)
			case all[at].Priority == e.Priority:
				all[at].Weight = uint32(min(uint64(all[at].Weight)+uint64(e.Weight), math.MaxUint32))
			} // else the address has a better priority already
		}
	}
	err = errors.Join(errs...)
	if len(all) > 0 {
		l.good = good
	}
	return all, err
}

// names looks up the targets of records, several at once: a name whose server does not answer must
// not use up the time of the others.
func (l *lookup) names(ctx context.Context, records []*net.SRV) ([][]netip.Addr, []error) {
	found, errs := make([][]netip.Addr, len(records)), make([]error, len(records))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(records), lookupWorkers) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(records); i = int(next.Add(1)) - 1 {
				if records[i].Target == "." { // RFC 2782: the service is decidedly not available
					errs[i] = &net.DNSError{
						Err: "service not available", Name: l.target.Hostname(), IsNotFound: true,
					}
					continue
				}
				found[i], errs[i] = l.addrs(ctx, records[i].Target)
			}
		})
	}
	wg.Wait()
	return found, errs
}

// srvWeight returns the weight of each of a record's addrs addresses, which share the record's
// weight. weighted says that a record of the same priority has a weight other than zero. Beside
// such a record zero means a very small chance, otherwise an equal one (RFC 2782).
func srvWeight(weight uint16, addrs int, weighted bool) uint32 {
	const one = 2520 // divisible by one to ten addresses
	w := uint32(weight) * one
	if !weighted {
		w = one
	}
	return max(1, w/uint32(max(addrs, 1)))
}

func (l *lookup) addrs(ctx context.Context, host string) (addrs []netip.Addr, err error) {
	defer func() {
		if v := recover(); v != nil { // of the Resolver's Dial, perhaps on a goroutine of our own
			err = fmt.Errorf("balancer: lookup panicked: %v", v)
		}
	}()
	return l.cfg.Resolver.LookupNetIP(ctx, l.cfg.Network, host)
}

// endpoints returns a copy of e for each of addrs that is allowed.
func (l *lookup) endpoints(addrs []netip.Addr, port string, e Endpoint) []Endpoint {
	all := make([]Endpoint, 0, len(addrs))
	for _, a := range addrs {
		// Allow compares with prefixes. 127.0.0.0/8 does not contain ::ffff:127.0.0.1, and no
		// prefix contains an address with a zone.
		a = a.Unmap()
		if l.cfg.Allow == nil || l.cfg.Allow(a.WithZone("")) {
			e.Addr = net.JoinHostPort(a.String(), port)
			all = append(all, e)
		}
	}
	return all
}
