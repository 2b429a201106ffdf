package redisrollout

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/internal/redisguard"
	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/versioning"
)

const (
	defaultPrefix  = "trivet:rollout:"
	defaultTimeout = 500 * time.Millisecond
	maxEvidence    = 64 << 10 // bytes of what one replica has seen
)

// Config configures a [Store]. The zero Config is valid.
type Config struct {
	// Prefix begins every key. Empty means "trivet:rollout:". It must not contain braces.
	Prefix string

	// Timeout is the most that a rollout may wait for Redis. Zero means 500 ms. Negative is
	// invalid.
	Timeout time.Duration
}

// A Store keeps rollouts in Redis. Create one with [New]. A Store is safe for concurrent use. It
// starts no goroutines but one for each call, which ends with the client's own time limits at the
// latest.
type Store struct {
	cfg    Config // read-only after New
	client redis.UniversalClient
	guard  *redisguard.Guard

	calls, failures, refused atomic.Uint64
}

var _ versioning.RolloutStore = (*Store)(nil)

// New returns a Store on client, which remains the caller's to close. It does not call Redis, which
// may come up later. A Ring is refused: its clients decide each for itself which server is down.
// The error, if any, names every invalid field of cfg.
func New(client redis.UniversalClient, cfg Config) (*Store, error) {
	f := settings.Of("redisrollout", "Config")
	cfg.Prefix = cmp.Or(cfg.Prefix, defaultPrefix)
	if strings.ContainsAny(cfg.Prefix, "{}") {
		f.Add("Prefix", "%q contains braces, which choose the slot", cfg.Prefix)
	}
	settings.Positive(f, "Timeout", &cfg.Timeout, defaultTimeout)
	err := f.Err()
	switch {
	case redisguard.IsNil(client):
		err = errors.Join(errors.New("redisrollout: client: is nil"), err)
	case isRing(client):
		const text = "redisrollout: client: is a Ring, whose clients may use different servers"
		err = errors.Join(errors.New(text), err)
	}
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, client: client, guard: redisguard.New()}, nil
}

// isRing reports whether client is a Ring. Its clients decide each for itself which server is down,
// so that replicas could keep different states.
func isRing(client redis.UniversalClient) bool {
	_, ok := client.(*redis.Ring)
	return ok
}

// Stats is a snapshot of a [Store]'s counters and gauges.
type Stats struct {
	Calls    uint64 `json:"calls"`     // calls begun
	Failures uint64 `json:"failures"`  // that failed or took too long
	Refused  uint64 `json:"refused"`   // calls not made while the breaker was open
	Open     bool   `json:"open"`      // the breaker is open
	InFlight int    `json:"in_flight"` // calls that have not ended, even if nobody waits for them
}

// Stats returns a snapshot.
func (s *Store) Stats() Stats {
	return Stats{
		Calls: s.calls.Load(), Failures: s.failures.Load(), Refused: s.refused.Load(),
		Open: s.guard.Open(), InFlight: s.guard.InFlight(),
	}
}

// Sync implements [versioning.RolloutStore].
func (s *Store) Sync(
	ctx context.Context, name string, report versioning.RolloutReport,
) (versioning.RolloutShared, error) {
	_, shared, err := s.call(ctx, syncScript, name, report.Replica, strconv.FormatUint(report.Epoch, 10),
		report.Evidence)
	return shared, err
}

// Change implements [versioning.RolloutStore].
func (s *Store) Change(
	ctx context.Context, name string, next versioning.RolloutState,
) (versioning.RolloutShared, bool, error) {
	// A call that is sent again must know its own change.
	attempt := cmp.Or(next.Attempt, rand.Text())
	before := strconv.FormatUint(next.Revision, 10)
	next.Revision++
	text, err := json.Marshal(next)
	if err != nil { // a number that JSON does not have
		return versioning.RolloutShared{}, false, fmt.Errorf("redisrollout: %w", err)
	}
	changed, shared, err := s.call(ctx, changeScript, name, before, strconv.FormatUint(next.Revision, 10),
		strconv.FormatUint(next.Epoch, 10), text, attempt)
	return shared, changed, err
}

// maxTries is how often a call is made again after it met a dead connection.
const maxTries = 2

// eval runs a script. A connection that turns out to be dead says nothing about the server, so the
// call is made again on another one: no script does its work twice.
func (s *Store) eval(ctx context.Context, script script, keys []string, args []any) ([]any, error) {
	run := func(command, text string) ([]any, error) {
		all := append([]any{command, text, len(keys), keys[0], keys[1]}, args...)
		cmd := redis.NewCmd(ctx, all...)
		cmd.SetFirstKeyPos(3)
		if err := s.client.Process(ctx, redisguard.Once(cmd)); err != nil {
			return nil, err
		}
		return cmd.Slice()
	}
	for tries := 0; ; tries++ {
		reply, err := run("evalsha", script.hash)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			reply, err = run("eval", script.source)
		}
		if tries == maxTries || !redisguard.IsDead(err) || ctx.Err() != nil {
			return reply, err
		}
	}
}

// call runs a script.
func (s *Store) call(
	ctx context.Context, script script, name string, args ...any,
) (changed bool, shared versioning.RolloutShared, err error) {
	keys := []string{s.cfg.Prefix + "{" + name + "}:state", s.cfg.Prefix + "{" + name + "}:seen"}
	args = append(args, keep.Milliseconds(), maxReplicas)
	type answer struct {
		changed bool
		shared  versioning.RolloutShared
	}
	var a answer
	err = s.guard.Do(ctx, time.Now().Add(s.cfg.Timeout), func(ctx context.Context) error {
		s.calls.Add(1)
		reply, err := s.eval(ctx, script, keys, args)
		if err == nil {
			a.changed, a.shared, err = parse(reply)
		}
		return err
	})
	switch {
	case err == nil:
		return a.changed, a.shared, nil
	case errors.Is(err, redisguard.ErrOpen):
		s.refused.Add(1)
	default:
		s.failures.Add(1)
	}
	return false, versioning.RolloutShared{}, fmt.Errorf("redisrollout: %w", err)
}

var errReply = errors.New("the script's answer makes no sense")

// parse reads a script's answer: whether the state was changed, the state, its age in microseconds,
// and what replicas have seen, name after name. An answer that the script cannot have sent is an
// error: something else than Redis is at the other end.
func parse(reply []any) (changed bool, shared versioning.RolloutShared, err error) {
	if len(reply) != 4 {
		return false, shared, errReply
	}
	did, ok1 := reply[0].(int64)
	text, ok2 := reply[1].(string)
	age, ok3 := reply[2].(string)
	seen, ok4 := reply[3].([]any)
	if !ok1 || !ok2 || !ok3 || !ok4 || did < 0 || did > 1 || len(seen)%2 != 0 || len(seen) > 2*maxReplicas {
		return false, shared, errReply
	}
	if text != "" {
		if err := json.Unmarshal([]byte(text), &shared.State); err != nil {
			return false, shared, fmt.Errorf("%w: %w", errReply, err)
		}
		us, err := strconv.ParseInt(age, 10, 64)
		if err != nil || shared.State.Revision == 0 {
			return false, shared, errReply
		}
		// The server's clock may have been set back.
		shared.Age = time.Duration(min(max(us, 0), int64(keep/time.Microsecond))) * time.Microsecond
	}
	shared.Evidence = make(map[string][]byte, len(seen)/2)
	for i := 0; i < len(seen); i += 2 {
		replica, ok1 := seen[i].(string)
		evidence, ok2 := seen[i+1].(string)
		if !ok1 || !ok2 || len(evidence) > maxEvidence {
			return false, shared, errReply
		}
		shared.Evidence[replica] = []byte(evidence)
	}
	return did == 1, shared, nil
}
