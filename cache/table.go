package cache

import "sync/atomic"

// A table is a hash table whose readers take no lock. Writers hold the shard's lock. It has chains,
// not open addressing: an overwrite or a removal is then a single pointer store, and there are no
// tombstones to clean.
type table[K comparable, V any] struct {
	buckets []atomic.Pointer[entry[K, V]] // a power of two
}

const minBuckets = 8

func newTable[K comparable, V any](buckets int) *table[K, V] {
	return &table[K, V]{buckets: make([]atomic.Pointer[entry[K, V]], buckets)}
}

// bucket chooses by the part of the hash that an entry carries, so that the user's keys are hashed
// for lookups only: never when the table grows or an entry is removed.
func (t *table[K, V]) bucket(tag uint32) *atomic.Pointer[entry[K, V]] {
	return &t.buckets[uint(tag)&uint(len(t.buckets)-1)]
}

// find returns the entry of key, or nil. While the table grows it may miss a key that is there: see
// shard.find.
func (t *table[K, V]) find(hash uint64, key K) *entry[K, V] {
	tag := uint32(hash >> 32)
	for e := t.bucket(tag).Load(); e != nil; e = e.next.Load() {
		if e.tag == tag && e.key == key {
			return e
		}
	}
	return nil
}

// insert adds e at the end of its chain: an entry that is used often tends to have been there for
// longer, and is found first.
func (t *table[K, V]) insert(e *entry[K, V]) {
	p := t.bucket(e.tag)
	for next := p.Load(); next != nil; next = p.Load() {
		p = &next.next
	}
	e.next.Store(nil)
	p.Store(e)
}

// replace puts e in the place of old, or removes old if e is nil. A reader that has come to old
// goes on from there: its next pointer stays as it is.
func (t *table[K, V]) replace(old, e *entry[K, V]) {
	p := t.bucket(old.tag)
	for p.Load() != old {
		p = &p.Load().next
	}
	next := old.next.Load()
	if e != nil {
		e.next.Store(next)
		next = e
	}
	p.Store(next)
}

// grown returns a table of twice the size that holds the same entries. It moves them, so t is of no
// more use, and a reader in t may be led into a chain of the new table: never into a loop, but past
// the key that it seeks.
func (t *table[K, V]) grown() *table[K, V] {
	bigger := newTable[K, V](2 * len(t.buckets))
	for i := range t.buckets {
		for e := t.buckets[i].Load(); e != nil; {
			next := e.next.Load()
			bigger.insert(e)
			e = next
		}
	}
	return bigger
}
