package cache

// A policy decides which entry leaves when a shard is full. It knows entries by slot and hash only.
// The shard's lock guards it.
type policy interface {
	// add adds a slot that was not there. The tag is the hash of its key. If the shard is full,
	// calls of evict follow. If used is false this is no use of the key.
	add(slot, tag uint32, weight int64, full, used bool)
	// touch notes that the slot was read or overwritten. It may be called late, when the slot is
	// not there any more.
	touch(slot, tag uint32)
	// reweigh notes that an overwrite changed the weight.
	reweigh(slot uint32, from, to int64)
	remove(slot uint32, weight int64)
	// evict removes the slot that should leave first, and returns it; excess is what has to leave
	// in all. It is never the slot keep, which has just been stored.
	evict(excess int64, keep uint32) uint32
	// order calls yield for every slot, the one to keep longest first.
	order(yield func(slot uint32))
	// share returns the share of the cache in which newcomers need not be worth their place: 1 is
	// LRU.
	share() float64
	// frequency and recall carry the count of uses over a restart.
	frequency(tag uint32) int
	recall(tag uint32, frequency int)
}
