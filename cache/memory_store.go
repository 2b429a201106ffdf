package cache

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultMaxBytes = 64 << 20
	minMaxBytes     = 64 << 10
	storeLocks      = 64
)

// MemoryStoreConfig configures a [MemoryStore]. The zero MemoryStoreConfig is valid.
type MemoryStoreConfig struct {
	// MaxBytes bounds what the store holds: bodies, fields, keys and what it takes to manage them.
	// Zero means 64 MiB. Less than 64 KiB is invalid.
	MaxBytes int64

	// Eviction chooses what leaves a full store. Zero is [TinyLFU].
	Eviction Eviction
}

// A MemoryStore is a [Store] in the memory of one process. Create one with [NewMemoryStore].
// It is safe for concurrent use and starts no goroutines.
type MemoryStore struct {
	max    int64
	memory *Memory[Key, *Resource]
	purges purges
	rules  *ruleBook // of the caches that share the store

	// Put reads and writes an entry of memory; the lock of its key guards the two steps.
	locks [storeLocks]sync.Mutex
}

// NewMemoryStore returns an empty MemoryStore. The error, if any, names every invalid field of cfg.
func NewMemoryStore(cfg MemoryStoreConfig) (*MemoryStore, error) {
	f := settings.Of("cache", "MemoryStoreConfig")
	settings.Positive(f, "MaxBytes", &cfg.MaxBytes, defaultMaxBytes)
	if cfg.MaxBytes >= 0 && cfg.MaxBytes < minMaxBytes {
		f.Add("MaxBytes", "%d is less than %d", cfg.MaxBytes, minMaxBytes)
	}
	if cfg.MaxBytes > maxMaxWeight {
		f.Add("MaxBytes", "%d is more than %d", cfg.MaxBytes, int64(maxMaxWeight))
	}
	if cfg.Eviction != TinyLFU && cfg.Eviction != LRU {
		f.Add("Eviction", "%d is unknown", int(cfg.Eviction))
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	s := &MemoryStore{max: cfg.MaxBytes}
	s.purges.init()
	memory, err := NewMemory(MemoryConfig[Key, *Resource]{
		Weigher:      func(_ Key, r *Resource) int64 { return r.weight() },
		MaxWeight:    cfg.MaxBytes,
		Eviction:     cfg.Eviction,
		EarlyRefresh: -1,
		Observe: func(_ context.Context, e MemoryEvent[Key, *Resource]) {
			if e.Kind == MemoryRemoved || e.Kind == MemoryRefused {
				s.left(e.Key, e.Value)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	s.memory = memory
	s.rules, err = newRuleBook()
	return s, err
}

func (s *MemoryStore) ruleBook() *ruleBook { return s.rules }

// left tells that r is no longer in memory.
func (s *MemoryStore) left(_ Key, r *Resource) {
	for _, e := range r.Entries {
		s.drop(e)
	}
}

// keep adds a resource to those that e is in. It reports false if e is in none any more.
func (e *Entry) keep() bool {
	for n := e.uses.Load(); n > 0; n = e.uses.Load() {
		if e.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// drop takes away one of the resources that e is in, and the labels with the last.
func (s *MemoryStore) drop(e *Entry) {
	if e.uses.Add(-1) == 0 {
		s.purges.release(e)
	}
}

// Get implements [Store].
func (s *MemoryStore) Get(_ context.Context, key Key) (*Resource, Mark, error) {
	mark := Mark(s.purges.clock.Load())
	r, _ := s.memory.Get(key)
	return r, mark, nil
}

// Put implements [Store].
func (s *MemoryStore) Put(_ context.Context, key Key, e *Entry, most int) error {
	if !s.purges.hold(e) {
		return nil
	}
	e.uses.Store(1)
	mu := &s.locks[key[0]%storeLocks]
	mu.Lock()
	defer mu.Unlock()
	r := &Resource{Entries: []*Entry{e}}
	if old, ok := s.memory.Get(key); ok {
		weight := e.weight() + resourceOverhead
		for _, o := range old.Entries {
			if o.Variant == e.Variant {
				if o.outranks(e) {
					s.drop(e)
					return nil
				}
				continue
			}
			// A resource heavier than a quarter of the bound would be refused: its oldest variants
			// leave.
			weight += o.weight()
			if len(r.Entries) >= most || weight > s.max/4 {
				break
			}
			if how, _ := s.Purged(o); how != Hard && o.keep() {
				r.Entries = append(r.Entries, o)
			}
		}
	}
	s.memory.Set(key, r)
	return nil
}

// outranks reports whether e, which has the same Variant, must not replace o: it is older (RFC
// 9111, section 4), and does not complete the same version.
func (o *Entry) outranks(e *Entry) bool {
	if !o.Received.After(e.Received) {
		return false
	}
	_, whole := o.complete()
	tag := e.Header.Get("Etag")
	return whole || !strongTag(tag) || tag != o.Header.Get("Etag")
}

// Purged implements [Store].
func (s *MemoryStore) Purged(e *Entry) (how Invalidation, since time.Time) { return s.purges.of(e) }

// Purge implements [Store].
func (s *MemoryStore) Purge(_ context.Context, p Purge) error {
	s.purges.add(p, time.Now())
	return nil
}

// Capacity implements [Store].
func (s *MemoryStore) Capacity() int64 { return s.max }

// Stats returns a snapshot of the store. The hits and misses are those of its keys: a response that
// is stored and stale counts as a hit.
func (s *MemoryStore) Stats() MemoryStats { return s.memory.Stats() }

// Save writes the contents to w, for a warm restart; see [Memory.Save]. What was purged is left
// out.
func (s *MemoryStore) Save(w io.Writer) error {
	s.settle()
	return s.memory.Save(w)
}

// Restore reads what Save wrote; see [Memory.Restore]. Call it before the store is used.
func (s *MemoryStore) Restore(r io.Reader) error {
	if err := s.memory.Restore(r); err != nil {
		return err
	}
	mark := Mark(s.purges.clock.Load())
	for key, r := range s.memory.All() {
		for _, e := range r.Entries {
			if e.held != nil {
				continue // it is not from the snapshot, whose marks mean nothing here
			}
			e.Mark = mark
			if !s.purges.hold(e) {
				s.memory.Delete(key)
				break
			}
			e.uses.Store(1)
		}
	}
	return nil
}

// settle takes out what was purged hard, and writes down in the entries what was purged softly.
func (s *MemoryStore) settle() {
	for key, r := range s.memory.All() {
		if !s.unsettled(r) {
			continue
		}
		mu := &s.locks[key[0]%storeLocks]
		mu.Lock()
		if now, ok := s.memory.Get(key); ok {
			if list := s.settled(now); len(list) > 0 {
				s.memory.Set(key, &Resource{Entries: list})
			} else {
				s.memory.Delete(key)
			}
		}
		mu.Unlock()
	}
}

func (s *MemoryStore) unsettled(r *Resource) bool {
	return slices.ContainsFunc(r.Entries, func(e *Entry) bool {
		how, _ := s.Purged(e)
		return how == Hard || how == Soft && e.StaleSince.IsZero()
	})
}

func (s *MemoryStore) settled(r *Resource) []*Entry {
	var list []*Entry
	mark := Mark(s.purges.clock.Load())
	for _, e := range r.Entries {
		how, since := s.Purged(e)
		switch {
		case how == Hard:
		case how == Soft && e.StaleSince.IsZero():
			e = e.clone()
			e.StaleSince, e.Mark = since, mark
			if s.purges.hold(e) {
				e.uses.Store(1)
				list = append(list, e)
			}
		case e.keep():
			list = append(list, e)
		}
	}
	return list
}

// What an entry takes besides its bytes: TestC52_AFloodOfKeysStaysWithinTheBound measures it.
const (
	resourceOverhead = 280
	entryOverhead    = 900
	fieldOverhead    = 100
	labelOverhead    = 100
	segmentOverhead  = 48
)

// weight returns what r takes of memory, in bytes.
func (r *Resource) weight() int64 {
	w := int64(resourceOverhead)
	for _, e := range r.Entries {
		w += e.weight()
	}
	return w
}

func (e *Entry) weight() int64 {
	w := int64(entryOverhead) + int64(len(e.Echo)+len(e.URL)+len(e.Variant)+len(e.Pattern))
	for _, l := range e.Labels {
		w += int64(len(l)) + labelOverhead
	}
	for _, v := range e.Vary {
		w += int64(len(v.Name)+len(v.Value)) + int64(unsafe.Sizeof(v))
	}
	for _, h := range [...]http.Header{e.Header, e.Trailer} {
		for name, values := range h {
			w += int64(len(name)) + fieldOverhead
			for _, v := range values {
				w += int64(len(v)) + 2*int64(unsafe.Sizeof(v))
			}
		}
	}
	for _, s := range e.Segments {
		w += int64(cap(s.Data)) + segmentOverhead
	}
	return w
}
