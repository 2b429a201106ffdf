package cache

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
)

// keepLocked stores the response with the body that has arrived, unless that was done before.
func (f *fill) keepLocked() {
	if f.entry == nil || !f.stream.kept || f.stored {
		return
	}
	f.stored = true
	e := f.entry.clone() // others look at the first
	e.Header = maps.Clone(e.Header)
	e.Trailer = f.trailer
	data := f.stream.bytesLocked()
	if len(e.Segments) > 0 {
		f.segment(e, data)
	} else {
		e.Size = int64(len(data))
		if e.Size > 0 {
			e.Segments = []Segment{{Data: data}}
		}
		if bodyAllowed(e.Status) && len(e.Trailer) == 0 && len(e.Header["Content-Length"]) == 0 {
			e.Header["Content-Length"] = []string{strconv.FormatInt(e.Size, 10)}
		}
	}
	f.storeLocked(e)
}

// segment gives e the part of a body that has arrived, and the parts of the same version that are
// stored.
func (f *fill) segment(e *Entry, data []byte) {
	s, size, _ := parseContentRange(f.resp.header["Content-Range"])
	offset := s.start
	e.Segments = []Segment{{Offset: offset, Data: data}}
	if int64(len(data)) != s.length() {
		// The message is whole, and its Content-Range is wrong. Where the part begins is what we
		// can believe, and that it reaches the end if it says so; it is never joined with others.
		e.Loose = true
		if s.end == size {
			e.Size = offset + int64(len(data))
		}
		return
	}
	if base := f.base; f.joins(e.Size, e.Header) {
		if all := join(base.Segments, offset, data); f.c.mayKeep(all) {
			e.Segments = all
		}
		e.Header = f.c.merged(base.Header, e.Header)
	}
	if body, whole := e.complete(); whole && len(body) > 0 {
		e.Header["Content-Length"] = []string{strconv.FormatInt(e.Size, 10)}
	}
}

// maxSegments is the most parts of one body that do not touch each other. A client that asks for
// every second byte makes a new one each time, and each costs more than it holds.
const maxSegments = 64

// mayKeep reports whether the parts of a body are together no more than what one body may be.
func (c *Cache) mayKeep(segments []Segment) bool {
	var size int64
	for _, s := range segments {
		size += int64(len(s.Data))
	}
	return size <= c.cfg.MaxObject && len(segments) <= maxSegments
}

// storeLocked hands e to the store. It is called once for e, before anybody sees the end of the
// body: the client's next request finds it.
func (f *fill) storeLocked(e *Entry) {
	ctx := context.WithoutCancel(f.ctx)
	key := f.x.keyFor(e)
	kept := false
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.kept = kept
	}()
	kept = f.x.put(ctx, key, e)
}

// put stores e, and reports whether it is where others find it. If the store has failed x before, e
// is only stored where that costs no time.
func (x *exchange) put(ctx context.Context, key Key, e *Entry) (kept bool) {
	if x.spent {
		if x.c.fleet != nil && x.c.fleet.putHere(ctx, key, e, x.c.cfg.MaxVariants) == nil {
			x.c.counts.stored.Add(1)
		}
		return false
	}
	err := x.c.put(ctx, key, e)
	if err == nil || err == errNearOnly {
		x.c.counts.stored.Add(1)
	}
	return err == nil
}

// put stores e. An error of the store is nobody's but the operator's.
func (c *Cache) put(ctx context.Context, key Key, e *Entry) (err error) {
	defer func() {
		if v := recover(); v != nil { // of Observe
			c.counts.panics.Add(1)
		}
	}()
	err = c.store.Put(ctx, key, e, c.cfg.MaxVariants)
	if err == errNearOnly || errors.Is(err, ErrTooLarge) {
		c.storeResult(ctx, nil)
	} else {
		c.storeResult(ctx, err)
	}
	return err
}

// keyFor returns the key that e is stored under, which depends on its field No-Vary-Search.
func (x *exchange) keyFor(e *Entry) Key {
	rule, ok := x.c.ruleOf(e.Header)
	y := *x
	if ok {
		y.setRuledKey(rule)
		rule.mark = e.Mark
		x.c.learn(x, rule)
	} else {
		y.echo = y.appendQuery(slices.Clone(x.echo[:x.prefix]))
		y.key = hashOf(y.echo)
		if string(y.echo) != string(x.echo) {
			x.c.rules.memory.Delete(x.pathKey()) // the rule that x was looked up by holds no more
		}
	}
	e.Echo = string(y.echo)
	return y.key
}
