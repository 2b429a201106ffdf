package rediscache

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/internal/redisguard"
)

// Lock implements [cache.FarStore]. The token is the server's time in microseconds: a later lock
// has a greater one. It fences only the lock itself: of two responses, the one that came later
// stays, whoever had the lock.
func (s *Store) Lock(ctx context.Context, key cache.Key, limit time.Duration) (cache.FarLock, error) {
	var l cache.FarLock
	err := s.call(ctx, s.guard, s.cfg.Timeout, func(ctx context.Context) error {
		name := newID()
		cmds, err := do(ctx, s.client, run{
			script: lockScript, key: s.lockKey(key), args: []any{max(1, limit.Milliseconds()), name},
		})
		if late := ctx.Err(); late != nil || redisguard.IsDead(err) {
			// Nobody waits for this lock any more, or knows of it, and others would until it ends.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.PurgeTimeout)
			defer cancel()
			_ = s.unlock(ctx, key, name, false)
			return cmp.Or(err, late)
		}
		if err != nil {
			return err
		}
		reply, err := cmds[0].Slice()
		if err != nil || len(reply) != 2 {
			return errReply
		}
		token, ok1 := reply[0].(string)
		left, ok2 := reply[1].(int64)
		n, err := strconv.ParseUint(token, 10, 64)
		if !ok1 || !ok2 || err != nil || left < 0 {
			return errReply
		}
		l = cache.FarLock{Token: n, Left: time.Duration(min(left, limit.Milliseconds())) * time.Millisecond}
		return nil
	})
	if err != nil {
		return cache.FarLock{}, err
	}
	return l, nil
}

// Extend implements [cache.FarStore].
func (s *Store) Extend(
	ctx context.Context, key cache.Key, token uint64, limit time.Duration,
) (held bool, err error) {
	n, err := s.number(ctx, run{script: extendScript, key: s.lockKey(key), args: []any{
		token, max(1, limit.Milliseconds()),
	}})
	return n == 1, err
}

// Unlock implements [cache.FarStore]. No request waits for it, and others may wait for what it
// announces: it has the time of a purge.
func (s *Store) Unlock(ctx context.Context, key cache.Key, token uint64, stored bool) error {
	return s.call(ctx, s.guard, s.cfg.PurgeTimeout, func(ctx context.Context) error {
		return s.unlock(ctx, key, strconv.FormatUint(token, 10), stored)
	})
}

// unlock ends the lock with that token, or that was taken in the attempt of that name.
func (s *Store) unlock(ctx context.Context, key cache.Key, which string, stored bool) error {
	cmds, err := do(ctx, s.client, run{script: unlockScript, key: s.lockKey(key), args: []any{which}})
	if err != nil {
		return err
	}
	if n, err := cmds[0].Int64(); err != nil || n == 0 {
		return err
	}
	news := fetchedNews(key, stored)
	err = s.announcer.announce(ctx, news)
	for tries := 0; tries < maxTries && redisguard.IsDead(err) && ctx.Err() == nil; tries++ {
		err = s.announcer.announce(ctx, news)
	}
	if err != nil && ctx.Err() == nil {
		// A server that is full or read-only takes no numbers. What comes without one is a gap to
		// all who hear it, and whoever waits for the lock asks for it again.
		_ = s.client.Publish(ctx, s.announcer.channel, "").Err()
	}
	return err
}

// number runs a script that answers a number.
func (s *Store) number(ctx context.Context, r run) (n int64, err error) {
	var answer int64
	err = s.call(ctx, s.guard, s.cfg.Timeout, func(ctx context.Context) error {
		cmds, err := do(ctx, s.client, r)
		if err != nil {
			return err
		}
		answer, err = cmds[0].Int64()
		return err
	})
	if err != nil {
		return 0, err
	}
	return answer, nil
}
