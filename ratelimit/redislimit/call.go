package redislimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/internal/redisguard"
)

// maxTries is how often a call is made again after it met a dead connection.
const maxTries = 2

// An answer is what the script says about one key.
type answer struct {
	denied       bool
	remaining    int64
	retry, reset time.Duration
	leased       int64
	receipt      [2]int64 // in mode hold
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
		last := terms.leasing()
		if mode == "refund" {
			last = [2]any{requests[i].receipt[0], requests[i].receipt[1]}
		}
		args = requests[i].rate.args(args, requests[i].cost, last)
	}
	perKey := answersPerKey
	if mode == "hold" {
		perKey += 2
	}
	var answers []answer
	err := s.guard.Do(ctx, deadline, func(ctx context.Context) error {
		s.calls.Add(1)
		reply, err := s.eval(ctx, mode == "take" || mode == "hold" || mode == "peek", keys, args)
		if err == nil {
			answers, err = parse(reply, requests, perKey)
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

// eval runs the script. A connection that turns out to be dead says nothing about the server: if
// the call may be repeated, it is, on another one.
func (s *Store) eval(ctx context.Context, again bool, keys []string, args []any) ([]int64, error) {
	run := func(command, script string) ([]int64, error) {
		all := make([]any, 0, 3+len(keys)+len(args))
		all = append(all, command, script, len(keys))
		for _, key := range keys {
			all = append(all, key)
		}
		cmd := redis.NewCmd(ctx, append(all, args...)...)
		cmd.SetFirstKeyPos(3)
		if err := s.client.Process(ctx, redisguard.Once(cmd)); err != nil {
			return nil, err
		}
		return cmd.Int64Slice()
	}
	for tries := 0; ; tries++ {
		reply, err := run("evalsha", s.script.Hash())
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			reply, err = run("eval", s.source)
		}
		if !again || tries == maxTries || !redisguard.IsDead(err) || ctx.Err() != nil {
			return reply, err
		}
	}
}

// parse reads the script's reply. A reply that the script cannot have sent is an error: something
// else than Redis is at the other end.
func parse(reply []int64, requests []request, perKey int) ([]answer, error) {
	if len(reply) != perKey*len(requests) {
		return nil, fmt.Errorf("the script answered %d numbers for %d keys", len(reply), len(requests))
	}
	answers := make([]answer, len(requests))
	const longest = math.MaxInt64 / int64(time.Microsecond)
	for i := range answers {
		r := reply[i*perKey:][:perKey]
		denied, remaining, retry, reset, leased := r[0], r[1], r[2], r[3], r[4]
		most := requests[i].rate.costsOfMost
		if denied < 0 || denied > 1 || remaining < 0 || remaining > most ||
			retry < -1 || reset < 0 || leased < 0 || leased > most {
			return nil, fmt.Errorf("the script answered %d", r)
		}
		answers[i] = answer{
			denied:    denied == 1,
			remaining: remaining,
			retry:     time.Duration(min(max(retry, 0), longest)) * time.Microsecond,
			reset:     time.Duration(min(reset, longest)) * time.Microsecond,
			leased:    leased,
		}
		if perKey > answersPerKey {
			at, debt := r[answersPerKey], r[answersPerKey+1]
			if min(at, debt) < 0 || max(at, debt) > maxExact {
				return nil, fmt.Errorf("the script answered %d", r)
			}
			answers[i].receipt = [2]int64{at, debt}
		}
	}
	return answers, nil
}
