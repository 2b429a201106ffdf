package redislimit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
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
	source  string // of script
	sharded bool   // the keys of one call must share a slot
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
	if redisguard.IsNil(client) {
		err = errors.Join(errors.New("redislimit: client: is nil"), err)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg:     cfg,
		client:  client,
		script:  redis.NewScript(scriptClock + scriptBody),
		source:  scriptClock + scriptBody,
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
// several policies on a Cluster unless their keys share a slot, and a leased policy beside others,
// of a sliding window, or with a CountIf.
func (s *Store) Prepare(policies []ratelimit.Policy) error {
	var errs []error
	for _, p := range policies {
		_, err := newUnitRate(p.Rate, p.Algorithm)
		errs = append(errs, ofPolicy(p.Name, err))
	}
	f := settings.Of("redislimit", "Config")
	for _, p := range policies {
		if _, ok := s.cfg.Leases[p.Name]; !ok {
			continue
		}
		field := fmt.Sprintf("Leases[%q]", p.Name)
		if len(policies) > 1 {
			f.Add(field, "a leased policy must be its limiter's only one")
		}
		if p.Algorithm == ratelimit.SlidingWindow {
			f.Add(field, "the policy is a SlidingWindow: what is used later than it is paid for "+
				"would count in an earlier window, and a window would admit up to twice the Limit")
		}
		if p.CountIf != nil {
			f.Add(field, "the policy has a CountIf: what is paid for in advance cannot be given back")
		}
	}
	if len(policies) > 1 {
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

	receipt [2]int64 // of what is to be refunded
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
			return s.takeLeased(ctx, claims, terms)
		}
	}
	requests, err := s.requests(claims)
	if err != nil {
		return err
	}
	mode := "take"
	for i := range claims {
		if claims[i].Policy.CountIf != nil {
			mode = "hold"
		}
	}
	_, err = s.ask(ctx, s.deadline(), mode, requests, claims, LeaseConfig{})
	return err
}

// requests returns claims in Redis's terms.
func (s *Store) requests(claims []ratelimit.Claim) ([]request, error) {
	requests := make([]request, len(claims))
	for i := range claims {
		r, err := s.request(&claims[i])
		if err != nil {
			return nil, err
		}
		if s.sharded && s.cfg.HashTag == "" && claims[i].Key != claims[0].Key {
			return nil, errors.New("redislimit: Config.SameKey: a decision has different keys")
		}
		requests[i] = r
	}
	return requests, nil
}

// Peek implements [ratelimit.Store]. What this process has leased counts as used.
func (s *Store) Peek(ctx context.Context, claims []ratelimit.Claim) error {
	requests, err := s.requests(claims)
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, s.deadline(), "peek", requests, claims, LeaseConfig{})
	return err
}

// Charge implements [ratelimit.Store]. It does not end with ctx but at [Config].Timeout.
func (s *Store) Charge(ctx context.Context, claims []ratelimit.Claim) error {
	return s.settle(ctx, "charge", claims)
}

// Refund implements [ratelimit.Store]. It does not end with ctx but at [Config].Timeout.
func (s *Store) Refund(ctx context.Context, claims []ratelimit.Claim) error {
	return s.settle(ctx, "refund", claims)
}

// settle writes what is known only after the answer, when the client may have left.
func (s *Store) settle(ctx context.Context, mode string, claims []ratelimit.Claim) error {
	requests, err := s.requests(claims)
	if err != nil {
		return err
	}
	for i := range claims {
		requests[i].receipt = claims[i].Receipt
	}
	answers, err := s.call(context.WithoutCancel(ctx), s.deadline(), mode, requests, LeaseConfig{})
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
	ctx context.Context, deadline time.Time, mode string, requests []request, claims []ratelimit.Claim,
	terms LeaseConfig,
) (leased int64, err error) {
	if s.deniedHere(requests, claims) {
		s.denied.Add(1)
		return 0, nil
	}
	answers, err := s.call(ctx, deadline, mode, requests, terms)
	if err != nil {
		return 0, err
	}
	now := s.now()
	for i, a := range answers {
		c := &claims[i]
		c.Denied, c.Remaining, c.Reset, c.RetryAfter = a.denied, a.remaining, a.reset, a.retry
		c.Receipt = a.receipt
		// What a CountIf may give back at any moment, in any process, is not remembered as denied.
		if a.denied && a.retry > 0 && c.Policy.CountIf == nil {
			s.denials.put(&requests[i], now, a.retry, a.reset)
		}
	}
	return answers[0].leased, nil
}

// deniedHere answers claims if one of them is known to be denied.
func (s *Store) deniedHere(requests []request, claims []ratelimit.Claim) (any bool) {
	now := s.now()
	for i := range requests {
		r, c := &requests[i], &claims[i]
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
