package versioning

import (
	"hash/maphash"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxClient is how many bytes of a client's key are kept.
const maxClient = 128

// gapShare: the watch begins anew if more than a thirtieth of Config.Watch lies between Save and
// Restore. A restart takes less. After a longer time nobody knows who has used the version
// meanwhile.
const gapShare = 30

// A usageKey is one combination that is counted.
type usageKey struct {
	version       int
	route, client string
}

// A usage is how often a combination was seen, and when.
type usage struct {
	requests    atomic.Uint64
	first, last atomic.Int64 // Unix time in nanoseconds; zero before
}

// see adds requests that were seen from first to last. They are counted when their times are known.
func (u *usage) see(requests uint64, first, last int64) {
	for {
		have := u.first.Load()
		if have != 0 && have <= first || u.first.CompareAndSwap(have, first) {
			break
		}
	}
	for {
		have := u.last.Load()
		if have >= last || u.last.CompareAndSwap(have, last) {
			break
		}
	}
	u.requests.Add(requests)
}

// A ledger counts who uses which version on which route. It is sharded by client, so that requests
// seldom meet at a lock, which they take for reading only once their key is known.
type ledger struct {
	seed     maphash.Seed
	max      int64
	maxGap   int64 // nanoseconds; see restore
	keys     atomic.Int64
	since    []atomic.Int64 // by version: since when it is watched, Unix time in nanoseconds
	overflow []usage        // by version: of what found no place
	inFlight []atomic.Int64
	shards   [16]ledgerShard

	// unnamed is, by version, a copy of what is in shards for clients without a name: by route,
	// read without a lock and replaced as a whole.
	unnamed []atomic.Pointer[map[string]*usage]
}

type ledgerShard struct {
	mu   sync.RWMutex // guards the fields below
	seen map[usageKey]*usage
}

func newLedger(versions, maxKeys int, watch time.Duration, now time.Time) *ledger {
	l := &ledger{
		seed: maphash.MakeSeed(), max: int64(maxKeys), maxGap: int64(watch / gapShare),
		since: make([]atomic.Int64, versions), overflow: make([]usage, versions),
		inFlight: make([]atomic.Int64, versions),
		unnamed:  make([]atomic.Pointer[map[string]*usage], versions),
	}
	for i := range l.unnamed {
		l.unnamed[i].Store(&map[string]*usage{})
		l.since[i].Store(now.UnixNano())
	}
	for i := range l.shards {
		l.shards[i].seen = map[usageKey]*usage{}
	}
	return l
}

// of returns the usage of key, which may be the one that latecomers share.
func (l *ledger) of(key usageKey) *usage {
	if key.client == "" {
		if u := (*l.unnamed[key.version].Load())[key.route]; u != nil {
			return u
		}
	}
	s := &l.shards[maphash.String(l.seed, key.client)%uint64(len(l.shards))]
	s.mu.RLock()
	u := s.seen[key]
	s.mu.RUnlock()
	if u != nil {
		return u
	}
	if l.keys.Load() >= l.max { // keys never go, so a flood of new ones takes no lock
		return &l.overflow[key.version]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u = s.seen[key]; u != nil {
		return u
	}
	if l.keys.Add(1) > l.max {
		l.keys.Add(-1)
		return &l.overflow[key.version]
	}
	// The texts may be parts of a request that is large.
	key.route, key.client = strings.Clone(key.route), strings.Clone(key.client)
	u = &usage{}
	s.seen[key] = u
	if key.client == "" { // all of which are in this shard, so under its lock
		routes := maps.Clone(*l.unnamed[key.version].Load())
		routes[key.route] = u
		l.unnamed[key.version].Store(&routes)
	}
	return u
}

// each calls f, which must be quick, for each key that was seen.
func (l *ledger) each(f func(usageKey, *usage)) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.RLock()
		for key, u := range s.seen {
			if u.requests.Load() > 0 { // otherwise its first request is about to be counted
				f(key, u)
			}
		}
		s.mu.RUnlock()
	}
}

// overflowed reports whether there were more keys than places.
func (l *ledger) overflowed() bool {
	for i := range l.overflow {
		if l.overflow[i].requests.Load() > 0 {
			return true
		}
	}
	return false
}

// begun returns since when the version is watched that is watched for the longest time.
func (l *ledger) begun() time.Time {
	first := l.since[0].Load()
	for i := range l.since {
		first = min(first, l.since[i].Load())
	}
	return time.Unix(0, first)
}
