package redislimit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/internal/redisguard"
	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/ratelimit"
)

// A Store keeps the counts of a [ratelimit.Limiter] in Redis. Create one with [New]. A Store is
// safe for concurrent use. It starts no goroutines but one for each call, which ends with the
// client's own time limits at the latest; 256 can be out at once.
type Store struct {
	cfg     Config // read-only after New
	client  redis.UniversalClient
	script  *redis.Script
	sharded bool // the keys of one call must share a slot
	guard   *redisguard.Guard
	base    time.Time
	seed    maphash.Seed
	denials *denyCache
	leases  *leases

	calls, failures, refused, denied, leaseHits, leased atomic.Uint64
}

var _ ratelimit.Store = (*Store)(nil)

// New returns a Store on client, which remains the caller's to close. It does not call Redis, which
// may come up later. The error, if any, names every invalid field of cfg.
func New(client redis.UniversalClient, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if isNil(client) {
		err = errors.Join(errors.New("redislimit: client: is nil"), err)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg:     cfg,
		client:  client,
		script:  redis.NewScript(scriptClock + scriptBody),
		guard:   redisguard.New(),
		base:    time.Now(),
		seed:    maphash.MakeSeed(),
		denials: new(denyCache),
		leases:  newLeases(),
	}
	switch client.(type) {
	case *redis.ClusterClient, *redis.Ring:
		s.sharded = true
	}
	return s, nil
}

// isNil reports whether client is nil, or a nil pointer of one of go-redis's types.
func isNil(client redis.UniversalClient) bool {
	switch c := client.(type) {
	case nil:
		return true
	case *redis.Client:
		return c == nil
	case *redis.ClusterClient:
		return c == nil
	case *redis.Ring:
		return c == nil
	}
	return false
}

// Stats is a snapshot of a [Store]'s counters and gauges.
type Stats struct {
	Calls     uint64 `json:"calls"`      // round trips begun
	Failures  uint64 `json:"failures"`   // that failed or took too long
	Refused   uint64 `json:"refused"`    // decisions not asked for while the breaker was open
	Denied    uint64 `json:"denied"`     // denials known without a round trip
	LeaseHits uint64 `json:"lease_hits"` // admissions out of a lease
	Leased    uint64 `json:"leased"`     // units bought in advance
	Open      bool   `json:"open"`       // the breaker is open
	InFlight  int    `json:"in_flight"`  // calls that have not ended, those included that nobody waits for
}

// Stats returns a snapshot.
func (s *Store) Stats() Stats {
	return Stats{
		Calls: s.calls.Load(), Failures: s.failures.Load(), Refused: s.refused.Load(),
		Denied: s.denied.Load(), LeaseHits: s.leaseHits.Load(), Leased: s.leased.Load(),
		Open: s.guard.Open(), InFlight: s.guard.InFlight(),
	}
}

// Prepare implements [ratelimit.Store]. It refuses rates that the script cannot count exactly,
// several policies on a Cluster unless their keys share a slot, and several policies of which one
// is leased.
func (s *Store) Prepare(policies []ratelimit.Policy) error {
	var errs []error
	for _, p := range policies {
		_, err := newUnitRate(p.Rate, p.Algorithm)
		errs = append(errs, ofPolicy(p.Name, err))
	}
	f := settings.Of("redislimit", "Config")
	if len(policies) > 1 {
		for _, p := range policies {
			if _, ok := s.cfg.Leases[p.Name]; ok {
				f.Add(fmt.Sprintf("Leases[%q]", p.Name), "a leased policy must be its limiter's only one")
			}
		}
		if s.sharded && !s.cfg.SameKey && s.cfg.HashTag == "" {
			f.Add("HashTag", "or SameKey is needed for %d policies: their keys may live in different "+
				"slots of the Cluster, where no script can decide them together", len(policies))
		}
	}
	return errors.Join(append(errs, f.Err())...)
}

// ofPolicy says whose Rate err is about.
func ofPolicy(name string, err error) error {
	f := settings.Of("redislimit", fmt.Sprintf("policy %q", name))
	f.Nest("Rate", err)
	return f.Err()
}

// A request is a claim in Redis's terms.
type request struct {
	key  string
	tag  uint64 // of key and rate, for what is remembered here
	rate unitRate
	cost int64
}

func (s *Store) request(c *ratelimit.Claim) (request, error) {
	rate, err := newUnitRate(c.Rate, c.Policy.Algorithm)
	if err != nil {
		return request{}, ofPolicy(c.Policy.Name, err)
	}
	r := request{key: s.key(c, rate.kind), rate: rate, cost: c.Cost}
	var h maphash.Hash
	h.SetSeed(s.seed)
	h.WriteString(r.key)
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], uint64(rate.x))
	binary.LittleEndian.PutUint64(b[8:], uint64(rate.y))
	binary.LittleEndian.PutUint64(b[16:], uint64(rate.z))
	h.Write(b[:])
	r.tag = h.Sum64()
	return r, nil
}

// key returns the name of c's count. What is in braces chooses the slot.
func (s *Store) key(c *ratelimit.Claim, kind string) string {
	sum := sha256.Sum256([]byte(c.Key))
	hash := base64.RawURLEncoding.EncodeToString(sum[:16])
	var b strings.Builder
	b.Grow(len(s.cfg.Prefix) + len(s.cfg.HashTag) + len(c.Policy.Name) + len(hash) + 8)
	b.WriteString(s.cfg.Prefix)
	if s.cfg.HashTag != "" {
		b.WriteString("{" + s.cfg.HashTag + "}:" + c.Policy.Name + ":" + kind + ":" + hash)
	} else {
		b.WriteString(c.Policy.Name + ":" + kind + ":{" + hash + "}")
	}
	return b.String()
}

func (s *Store) now() int64 { return int64(time.Since(s.base)) }

// deadline returns when the caller of a call that begins now stops waiting.
func (s *Store) deadline() time.Time { return time.Now().Add(s.cfg.Timeout) }

// Take implements [ratelimit.Store].
func (s *Store) Take(ctx context.Context, claims []ratelimit.Claim) error {
	if len(claims) == 1 {
		if terms, ok := s.cfg.Leases[claims[0].Policy.Name]; ok {
			return s.takeLeased(ctx, &claims[0], terms)
		}
	}
	requests := make([]request, len(claims))
	pointers := make([]*ratelimit.Claim, len(claims))
	for i := range claims {
		r, err := s.request(&claims[i])
		if err != nil {
			return err
		}
		if s.sharded && s.cfg.HashTag == "" && claims[i].Key != claims[0].Key {
			return errors.New("redislimit: Config.SameKey: a decision has different keys")
		}
		requests[i], pointers[i] = r, &claims[i]
	}
	_, err := s.ask(ctx, s.deadline(), requests, pointers, LeaseConfig{})
	return err
}

// Charge implements [ratelimit.Store].
func (s *Store) Charge(ctx context.Context, claims []ratelimit.Claim) error {
	requests := make([]request, len(claims))
	for i := range claims {
		r, err := s.request(&claims[i])
		if err != nil {
			return err
		}
		requests[i] = r
	}
	answers, err := s.call(ctx, s.deadline(), "charge", requests, LeaseConfig{})
	if err != nil {
		return err
	}
	for i := range claims {
		claims[i].Remaining = answers[i].remaining
	}
	return nil
}

// ask decides requests, from memory if they are known to be denied, and writes the answers into
// claims. It returns how much was leased of the first.
func (s *Store) ask(
	ctx context.Context, deadline time.Time, requests []request, claims []*ratelimit.Claim, terms LeaseConfig,
) (leased int64, err error) {
	if s.deniedHere(requests, claims) {
		s.denied.Add(1)
		return 0, nil
	}
	answers, err := s.call(ctx, deadline, "take", requests, terms)
	if err != nil {
		return 0, err
	}
	now := s.now()
	for i, a := range answers {
		c := claims[i]
		c.Denied, c.Remaining, c.Reset, c.RetryAfter = a.denied, a.remaining, a.reset, a.retry
		if a.denied && a.retry > 0 {
			s.denials.put(&requests[i], now, a.retry, a.reset)
		}
	}
	return answers[0].leased, nil
}

// deniedHere answers claims if one of them is known to be denied.
func (s *Store) deniedHere(requests []request, claims []*ratelimit.Claim) (any bool) {
	now := s.now()
	for i := range requests {
		r, c := &requests[i], claims[i]
		wait, reset, known := s.denials.get(r, now)
		never := r.cost > r.rate.costsOfMost
		if never {
			wait = 0
		}
		c.Denied, c.RetryAfter, c.Reset = never || known, wait, reset
		c.Remaining = -1
		if known && r.cost == 1 {
			c.Remaining = 0
		}
		any = any || c.Denied
	}
	for i := range claims {
		claims[i].Remembered = any
	}
	return any
}

// An answer is what the script says about one key.
type answer struct {
	denied       bool
	remaining    int64
	retry, reset time.Duration
	leased       int64
}

// call runs the script in one round trip; a second one only if the server has forgotten it.
func (s *Store) call(
	ctx context.Context, deadline time.Time, mode string, requests []request, terms LeaseConfig,
) ([]answer, error) {
	keys := make([]string, len(requests))
	args := make([]any, 1, 1+8*len(requests))
	args[0] = mode
	for i := range requests {
		keys[i] = requests[i].key
		args = requests[i].rate.args(args, requests[i].cost, terms)
	}
	var answers []answer
	err := s.guard.Do(ctx, deadline, func(ctx context.Context) error {
		s.calls.Add(1)
		reply, err := s.script.Run(ctx, s.client, keys, args...).Int64Slice()
		if err == nil {
			answers, err = parse(reply, requests)
		}
		return err
	})
	switch {
	case err == nil:
		return answers, nil
	case errors.Is(err, redisguard.ErrOpen):
		s.refused.Add(1)
	default:
		s.failures.Add(1)
	}
	return nil, fmt.Errorf("redislimit: %w", err)
}

// parse reads the script's reply. A reply that the script cannot have sent is an error: something
// else than Redis is at the other end.
func parse(reply []int64, requests []request) ([]answer, error) {
	if len(reply) != answersPerKey*len(requests) {
		return nil, fmt.Errorf("the script answered %d numbers for %d keys", len(reply), len(requests))
	}
	answers := make([]answer, len(requests))
	const longest = math.MaxInt64 / int64(time.Microsecond)
	for i := range answers {
		r := reply[i*answersPerKey:]
		denied, remaining, retry, reset, leased := r[0], r[1], r[2], r[3], r[4]
		most := requests[i].rate.costsOfMost
		if denied < 0 || denied > 1 || remaining < 0 || remaining > most ||
			retry < -1 || reset < 0 || leased < 0 || leased > most {
			return nil, fmt.Errorf("the script answered %d", r[:answersPerKey])
		}
		answers[i] = answer{
			denied:    denied == 1,
			remaining: remaining,
			retry:     time.Duration(min(max(retry, 0), longest)) * time.Microsecond,
			reset:     time.Duration(min(reset, longest)) * time.Microsecond,
			leased:    leased,
		}
	}
	return answers, nil
}
