package rediscache

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/trivet-go/trivet/cache"
)

// Get implements [cache.Store]. It is one round trip.
func (s *Store) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	var reply []string
	limit := s.cfg.MaxBody + maxSlack
	get := run{script: getScript, key: s.entryKey(key), args: []any{limit, 4 * limit}}
	asked := time.Now() // RFC 9111, section 4.2.3: what the way takes makes a response older
	err := s.call(ctx, s.guard, s.cfg.Timeout, func(ctx context.Context) error {
		v := s.ledger.view()
		since := s.since(v)
		cmds, err := do(ctx, s.client, get, since)
		if err != nil {
			return err
		}
		more, err := s.learn(v, since, cmds[1])
		if err != nil {
			return err
		}
		if more {
			if err := s.catchUp(ctx); err != nil {
				return err
			}
		}
		reply, err = cmds[0].StringSlice()
		return err
	})
	mark, epoch := s.ledger.now()
	if err != nil {
		return nil, mark, err
	}
	list := s.parse(reply, key, epoch, asked)
	if len(list) == 0 {
		return nil, mark, nil
	}
	return &cache.Resource{Entries: list}, mark, nil
}

// A stored is an entry and when it was put.
type stored struct {
	e   *cache.Entry
	put int64
}

// parse returns the entries of getScript's reply, the latest first, without those that are damaged,
// of another release or another key (C60, C62), or purged. The server was asked at the time here.
func (s *Store) parse(reply []string, key cache.Key, epoch uint64, here time.Time) []*cache.Entry {
	if len(reply)%3 != 1 {
		s.damaged.Add(1)
		return nil
	}
	now, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		s.damaged.Add(1)
		return nil
	}
	var list []stored
	for i := 1; i < len(reply); i += 3 {
		received, put, ok := parseLine(s.entryKey(key), reply[i], reply[i+1])
		if !ok {
			s.damaged.Add(1)
			continue
		}
		// The server measures how old an entry is, whose clock is one for all processes.
		age := time.Duration(min(max(0, now-received), maxAge)) * time.Microsecond
		e, err := decode(reply[i+2], key, epoch, here.Add(-age))
		if err != nil || variantID(e.Variant) != reply[i] {
			if !errors.Is(err, errOther) || reply[i+2][keyAt:bodyAt] != string(key[:]) {
				s.damaged.Add(1)
			}
			continue
		}
		if how, _ := s.ledger.of(e); how != cache.Hard {
			list = append(list, stored{e, put})
		}
	}
	slices.SortStableFunc(list, func(a, b stored) int { return cmp.Compare(b.put, a.put) })
	entries := make([]*cache.Entry, len(list))
	for i := range list {
		entries[i] = list[i].e
	}
	return entries
}

const maxAge = int64(366 * 24 * time.Hour / time.Microsecond)

// parseLine reads the field "m" of a variant.
func parseLine(entryKey, id, line string) (received, put int64, ok bool) {
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return 0, 0, false
	}
	sum := sha1.Sum([]byte(entryKey + id + line[:at]))
	parts := strings.Split(line[:at], " ")
	if hex.EncodeToString(sum[:]) != line[at+1:] || len(parts) != 6 {
		return 0, 0, false
	}
	received, err1 := strconv.ParseInt(parts[0], 10, 64)
	put, err2 := strconv.ParseInt(parts[1], 10, 64)
	return received, put, err1 == nil && err2 == nil && received >= 0
}

// variantID is what the fields of a variant end in.
func variantID(variant string) string { return fmt.Sprintf("%016x", xxhash.Sum64String(variant)) }

// Put implements [cache.Store]. What was purged in other processes meanwhile is stored all the
// same, and found by Purged: no command of a Cluster reaches both the entry and what was purged.
func (s *Store) Put(ctx context.Context, key cache.Key, e *cache.Entry, most int) error {
	how, _ := s.ledger.of(e) // a soft purge is found again, whoever reads the entry
	_, epoch := s.ledger.now()
	if how == cache.Hard || epoch == 0 {
		return nil
	}
	limit := s.cfg.MaxBody + maxSlack
	var value []byte
	err := errTooMuch
	if bodySize(e) <= s.cfg.MaxBody { // else encode would copy it for nothing
		value, err = encode(e, key, epoch)
	}
	if err != nil || int64(len(value)) > limit {
		s.tooLarge.Add(1)
		return cache.ErrTooLarge
	}
	held := time.Since(e.Received)
	ttl := min(s.cfg.MaxTTL, max(time.Second, e.Keep-held))
	tag := "-"
	if t := strongTag(e); t != "" {
		tag = fmt.Sprintf("%016x", xxhash.Sum64String(t))
	}
	isWhole := 0
	if whole(e) {
		isWhole = 1
	}
	put := run{script: putScript, key: s.entryKey(key), args: []any{
		variantID(e.Variant), value, max(0, held.Microseconds()), uint64(e.Mark), isWhole, tag,
		min(most, maxVariants), 4 * limit, ttl.Milliseconds(), s.ledger.serverTime(e.Received),
	}}
	return s.call(context.WithoutCancel(ctx), s.guard, s.cfg.Timeout, func(ctx context.Context) error {
		cmds, err := do(ctx, s.client, put)
		if err != nil {
			return err
		}
		n, err := cmds[0].Int()
		if err == nil && n != 0 && n != 1 {
			err = errReply
		}
		return err
	})
}
