package rediscache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/internal/redisguard"
)

// A Store keeps the responses of [cache.Cache] in Redis, for all processes that share it. It is the
// far tier of a [cache.Tiered], or a [cache.Store] by itself. Create one with [New]. A Store is
// safe for concurrent use. It starts no goroutines but one for each call, which ends with the
// client's own time limits at the latest; 256 can be out at once, and as many for purges.
type Store struct {
	cfg     Config // read-only after New
	client  redis.UniversalClient
	guard   *redisguard.Guard
	purging *redisguard.Guard // worth a try while the breaker of others is open
	ledger  ledger

	announcer announcer

	tombstones int           // purges that the server remembers
	keepPurges time.Duration // for how long

	calls, failures, refused, damaged, tooLarge, epochs atomic.Uint64
}

var (
	_ cache.Store    = (*Store)(nil)
	_ cache.FarStore = (*Store)(nil)
)

// New returns a Store on client, which remains the caller's to close. It does not call Redis, which
// may come up later. A Ring is refused, as [NewInvalidations] does. The error, if any, names every
// invalid field of cfg.
func New(client redis.UniversalClient, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err := errors.Join(checkSubscriber(client), err); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, client: client, guard: redisguard.New(), purging: redisguard.New(),
		announcer:  newAnnouncer(client, cfg.Prefix, "news"),
		tombstones: maxTombstones, keepPurges: cfg.MaxTTL + keepPurges,
	}
	s.ledger.init()
	return s, nil
}

// Stats is a snapshot of a [Store]'s counters and gauges.
type Stats struct {
	Calls    uint64 `json:"calls"`     // round trips begun
	Failures uint64 `json:"failures"`  // that failed or took too long
	Refused  uint64 `json:"refused"`   // calls not made while the breaker was open
	Damaged  uint64 `json:"damaged"`   // values that were not what was asked for
	TooLarge uint64 `json:"too_large"` // responses not stored for that
	Epochs   uint64 `json:"epochs"`    // times that all was given up, the first contact included
	Open     bool   `json:"open"`      // the breaker is open
	InFlight int    `json:"in_flight"` // calls that have not ended, those included that nobody waits for
}

// Stats returns a snapshot.
func (s *Store) Stats() Stats {
	return Stats{
		Calls: s.calls.Load(), Failures: s.failures.Load(), Refused: s.refused.Load(),
		Damaged: s.damaged.Load(), TooLarge: s.tooLarge.Load(), Epochs: s.epochs.Load(),
		Open: s.guard.Open(), InFlight: s.guard.InFlight() + s.purging.InFlight(),
	}
}

// The names of keys: what is in braces chooses the slot of a Cluster.

func (s *Store) entryKey(key cache.Key) string { return fmt.Sprintf("{%s:%x}", s.cfg.Prefix, key[:]) }
func (s *Store) lockKey(key cache.Key) string  { return s.entryKey(key) + ":lock" }
func (s *Store) purgedKey() string             { return s.announcer.channel + ":purged" }

// call makes a call of Redis within a budget.
func (s *Store) call(
	ctx context.Context, guard *redisguard.Guard, budget time.Duration, fn func(context.Context) error,
) error {
	err := guard.Do(ctx, time.Now().Add(budget), func(ctx context.Context) error {
		s.calls.Add(1)
		return fn(ctx)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redisguard.ErrOpen):
		s.refused.Add(1)
	default:
		s.failures.Add(1)
	}
	return fmt.Errorf("rediscache: %w", err)
}

// Capacity implements [cache.Store]: what Redis holds in all is its own affair, and this makes
// [cache.Config].MaxObject [Config].MaxBody if it is left at zero.
func (s *Store) Capacity() int64 { return 16 * s.cfg.MaxBody }

// Follow implements [cache.FarStore].
func (s *Store) Follow(told func(cache.FarPurge)) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.ledger.told = told
}

// Purged implements [cache.Store]. It calls nobody: each reply to Get, Purge and Sync brings along
// what was purged since the last.
func (s *Store) Purged(e *cache.Entry) (how cache.Invalidation, since time.Time) {
	return s.ledger.of(e)
}
