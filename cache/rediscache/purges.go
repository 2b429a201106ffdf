package rediscache

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/cache"
)

// maxPurged is the longest label or prefix that is remembered. Of a longer prefix more is purged
// than was asked for. A Cache has no longer labels.
const maxPurged = 1024

// keepPurges is for how long purges are remembered beyond [Config].MaxTTL: what was being fetched
// when something was purged may be stored so much later.
const keepPurges = time.Hour

// since returns the question what was purged since v.
func (s *Store) since(v view) run {
	return run{script: sinceScript, key: s.purgedKey(), args: []any{
		v.clock, fmt.Sprintf("%x", v.epoch), newEpoch(), pageSize,
	}}
}

// newEpoch returns a random number that is not zero.
func newEpoch() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x", binary.LittleEndian.Uint64(b[:])|1)
}

// learn takes in the answer to the question r, which was made with v. It reports whether there is
// more.
func (s *Store) learn(v view, r run, c *redis.Cmd) (more bool, err error) {
	reply, err := c.Slice()
	if err != nil {
		return false, err
	}
	p, err := parsePage(reply, r.args[2])
	if err != nil {
		return false, err
	}
	if p.epoch != v.epoch {
		s.epochs.Add(1)
	}
	return p.more, s.ledger.learn(v, p)
}

// catchUp learns what there is more than one page of.
func (s *Store) catchUp(ctx context.Context) error {
	for {
		v := s.ledger.view()
		since := s.since(v)
		cmds, err := do(ctx, s.client, since)
		if err != nil {
			return err
		}
		if more, err := s.learn(v, since, cmds[0]); err != nil || !more {
			return err
		}
	}
}

// Sync implements [cache.FarStore].
func (s *Store) Sync(ctx context.Context) error {
	return s.call(ctx, s.guard, s.cfg.Timeout, s.catchUp)
}

// Purge implements [cache.Store]. When it returns nil, each process that asks Redis learns of it
// with the reply.
func (s *Store) Purge(ctx context.Context, p cache.Purge) error {
	kind, name := "l", p.Label
	if len(name) > maxPurged {
		return fmt.Errorf("rediscache: a label of %d bytes is longer than %d", len(name), maxPurged)
	}
	if name == "" {
		kind, name = "p", p.Prefix[:min(len(p.Prefix), maxPurged)]
	}
	how := "h"
	if p.How == cache.Soft {
		how = "s"
	}
	return s.call(ctx, s.purging, s.cfg.PurgeTimeout, func(ctx context.Context) error {
		v := s.ledger.view()
		purge := s.since(v)
		purge.script, purge.also = purgeScript, s.announcer.key
		purge.args = append(purge.args, how, kind, name, s.tombstones, s.keepPurges.Microseconds(),
			s.announcer.channel, newsPurged, newID(), keepSequence.Milliseconds())
		cmds, err := do(ctx, s.client, purge)
		if err != nil {
			return err
		}
		more, err := s.learn(v, purge, cmds[0])
		if err == errOvertaken || more {
			err = s.catchUp(ctx)
		}
		return err
	})
}

// parsePage reads the answer of sinceScript and purgeScript to a question with that id (C62).
func parsePage(reply []any, id any) (*page, error) {
	if len(reply) != 6 || reply[0] != id {
		return nil, errReply
	}
	reply = reply[1:]
	epoch, ok1 := reply[0].(string)
	floor, ok2 := reply[1].(string)
	now, ok3 := reply[2].(string)
	more, ok4 := reply[3].(int64)
	list, ok5 := reply[4].([]any)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || len(list)%2 != 0 || len(list) > 2*pageSize {
		return nil, errReply
	}
	p := &page{more: more == 1, purges: make([]purged, 0, len(list)/2)}
	var err1, err2, err3 error
	p.epoch, err1 = strconv.ParseUint(epoch, 16, 64)
	p.floor, err2 = strconv.ParseUint(floor, 10, 53)
	p.now, err3 = strconv.ParseUint(now, 10, 53)
	if err1 != nil || err2 != nil || err3 != nil || p.epoch == 0 {
		return nil, errReply
	}
	last := p.floor
	for i := 0; i < len(list); i += 2 {
		g, ok := parsePurged(list[i], list[i+1])
		if !ok || g.clock < last {
			return nil, errReply
		}
		last = g.clock
		p.purges = append(p.purges, g)
	}
	return p, nil
}

// parsePurged reads a member and its score. One that makes no sense, of a later release or another
// service, may stand for anything: it purges all that is older.
func parsePurged(member, score any) (g purged, ok bool) {
	name, ok1 := member.(string)
	text, ok2 := score.(string)
	clock, err := strconv.ParseFloat(text, 64)
	if !ok1 || !ok2 || err != nil || !(clock >= 0 && clock < 1<<53) {
		return g, false
	}
	g.clock = uint64(math.Ceil(clock))
	if float64(g.clock) != clock || len(name) < 2 || len(name) > 2+maxPurged || name == name[:1]+"l" {
		name = "??"
	}
	switch name[0] {
	case 'h':
		g.purge.How = cache.Hard
	case 's', 'f':
		g.purge.How = cache.Soft
	default:
		name = "??"
	}
	switch name[1] {
	case 'l':
		g.purge.Label = name[2:]
	case 'p':
		g.purge.Prefix = name[2:]
	default:
		g.purge, g.everything = cache.Purge{How: cache.Hard}, true
	}
	return g, true
}
