package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultMaxKeys = 100_000
	mostKeys       = min(math.MaxInt32, math.MaxInt/setBytes*3) // the size of their table fits an int
)

// MemoryStoreConfig configures a [MemoryStore]. The zero MemoryStoreConfig is valid.
type MemoryStoreConfig struct {
	// MaxKeys is how many keys of each policy may be in debt at once with less than 1 % of them
	// displaced. Each takes 38 bytes, allocated at once. Zero means 100,000. Negative is invalid.
	MaxKeys int
}

// A MemoryStore keeps counts in this process, in a table of fixed size for each policy. A key whose
// debt is paid takes no room. When a key finds its part of the table full of debtors, it takes over
// the place and the debt of the key that owes least: no client gets rid of a debt by making up
// keys. A flood of keys makes newcomers wait until the least of those debts is paid far enough for
// their own rate.
//
// Create one with [NewMemoryStore]. A MemoryStore is safe for concurrent use and starts no
// goroutines. Several limiters may share it.
type MemoryStore struct {
	sets int       // per table
	base time.Time // of ticks; its monotonic reading keeps steps of the wall clock out

	mu     sync.Mutex // guards the fields below
	tables map[string]*table
	made   int // tables so far
}

// MemoryStoreStats is a snapshot of a [MemoryStore].
type MemoryStoreStats struct {
	Slots     int    `json:"slots"`     // places for keys, all policies together
	Bytes     int    `json:"bytes"`     // memory they take
	Displaced uint64 `json:"displaced"` // keys in debt whose place, with the debt, a newcomer took over
}

// NewMemoryStore returns an empty MemoryStore. The error, if any, names every invalid field of cfg.
func NewMemoryStore(cfg MemoryStoreConfig) (*MemoryStore, error) {
	f := settings.Of("ratelimit", "MemoryStoreConfig")
	settings.Positive(f, "MaxKeys", &cfg.MaxKeys, defaultMaxKeys)
	if cfg.MaxKeys > mostKeys {
		f.Add("MaxKeys", "%d is more than %d", cfg.MaxKeys, mostKeys)
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return &MemoryStore{
		// 3⅓ keys on average in a set of 7: the Poisson tail beyond is 0.9 % of the keys.
		sets:   cfg.MaxKeys/10*3 + (cfg.MaxKeys%10*3+9)/10,
		base:   time.Now(),
		tables: make(map[string]*table),
	}, nil
}

// Stats returns a snapshot.
func (m *MemoryStore) Stats() MemoryStoreStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s MemoryStoreStats
	for _, t := range m.tables {
		s.Slots += len(t.sets) * slotsPerSet
		s.Bytes += len(t.sets) * setBytes
		s.Displaced += t.displaced.Load()
	}
	return s
}

// Prepare makes a table for each policy that has none yet.
func (m *MemoryStore) Prepare(policies []Policy) error {
	if m == nil || m.tables == nil {
		return errors.New("the MemoryStore was not made by NewMemoryStore")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range policies {
		var length time.Duration // of the window; zero for GCRA
		if p.Algorithm == SlidingWindow {
			length = p.Rate.Window
		}
		t := m.tables[p.Name]
		if t == nil {
			m.tables[p.Name] = newTable(m.made, m.sets, length)
			m.made++
		} else if t.length != length {
			errs = append(
				errs, fmt.Errorf("the store counts policy %q in another way for another limiter", p.Name),
			)
		}
	}
	return errors.Join(errs...)
}

// Retain forgets the policies that are not named. Their memory is free when no [Limiter] made
// before uses them any more. A Limiter made later with a policy of the same name counts anew.
// Retain is for programs whose policies change while they run.
func (m *MemoryStore) Retain(policies ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := make(map[string]*table, len(policies))
	for _, name := range policies {
		if t := m.tables[name]; t != nil {
			kept[name] = t
		}
	}
	m.tables = kept
}

func (m *MemoryStore) table(name string) *table {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tables[name]
}

func (m *MemoryStore) now() int64 { return toTicks(time.Since(m.base)) }

// Take implements [Store]. A [Limiter] on a MemoryStore runs the same code without it.
func (m *MemoryStore) Take(_ context.Context, claims []Claim) error {
	if len(claims) > maxPolicies {
		return fmt.Errorf("ratelimit: %d claims are more than %d", len(claims), maxPolicies)
	}
	for i := range claims {
		if err := m.prepare(&claims[i]); err != nil {
			return err
		}
		for j := range claims[:i] {
			if claims[j].cell.table == claims[i].cell.table { // it would be locked twice
				return fmt.Errorf("ratelimit: policy %q has two claims", claims[i].Policy.Name)
			}
		}
	}
	decideAll(m, claims)
	return nil
}

// Peek implements [Store].
func (m *MemoryStore) Peek(_ context.Context, claims []Claim) error {
	for i := range claims {
		if err := m.prepare(&claims[i]); err != nil {
			return err
		}
		claims[i].peek(m.now())
	}
	return nil
}

// Charge implements [Store].
func (m *MemoryStore) Charge(_ context.Context, claims []Claim) error {
	for i := range claims {
		if err := m.prepare(&claims[i]); err != nil {
			return err
		}
		claims[i].add(m.now())
	}
	return nil
}

// Refund implements [Store].
func (m *MemoryStore) Refund(_ context.Context, claims []Claim) error {
	for i := range claims {
		if err := m.prepare(&claims[i]); err != nil {
			return err
		}
		claims[i].refund(m.now())
	}
	return nil
}

// prepare validates c and finds its table.
func (m *MemoryStore) prepare(c *Claim) error {
	t := m.table(c.Policy.Name)
	if t == nil {
		return fmt.Errorf("ratelimit: policy %q was not prepared", c.Policy.Name)
	}
	if c.Cost < 0 {
		return fmt.Errorf("ratelimit: policy %q: cost %d is negative", c.Policy.Name, c.Cost)
	}
	if c.policy == nil {
		rate, err := c.Rate.Validate(c.Policy.Algorithm)
		if err != nil {
			f := settings.Of("ratelimit", fmt.Sprintf("policy %q", c.Policy.Name))
			f.Nest("Rate", err)
			return f.Err()
		}
		c.setRate(rate)
	}
	c.locate(t)
	return nil
}
