// Package cache keeps what was expensive to get.
//
// A [Memory] is the data cache of one process, for the results of database queries and
// service calls. [Memory.Load] is the way to use it: it returns what is
// there, or calls a loader, once per key however many callers ask at the same time.
//
//   - It is bounded, by entries or by weight ([MemoryConfig.Weigher]): the sum of the weights
//     exceeds the bound by the one entry that is being stored at most, and only
//     while that is. What leaves is chosen by an adaptive W-TinyLFU policy that a scan
//     does not flush, or by plain [LRU].
//   - Reads wait for no lock and allocate nothing. Writes are never dropped: what was
//     just set is there until it is evicted, removed or expires.
//   - Values are fresh for their TTL, may be returned stale while one refresh runs
//     ([MemoryConfig.Stale]) or if loading fails ([MemoryConfig.StaleIfError]), and can be
//     refreshed before their time at random ([MemoryConfig.EarlyRefresh]). Errors can be
//     kept for a while ([MemoryConfig.ErrorTTL]).
//   - [Memory.InvalidateTag] makes everything with a tag gone or stale at once. A load under
//     way when its key or its tag is invalidated never brings the old value back.
//   - [Memory.Save] and [Memory.Restore] carry the contents over a restart.
//
// # Ownership
//
// Values are handed to all callers as they are, not copied: what a value points to must not be
// changed once it is stored. Keys are compared with ==.
//
// # Limits
//
// A Memory knows nothing of other processes: an invalidation reaches this one only. With a
// Weigher all writes share one lock, for whoever stores, not for readers. Entries that
// have expired leave when something is written or [Memory.Stats] is read; those
// whose tag was invalidated, when they are replaced or evicted. Weights are what
// the Weigher says: an entry costs some 60 bytes besides its key and value, 110 if it can expire, 200 with tags, and
// 75 more with [LRU].
//
// Tables and lists do not shrink: an emptied cache keeps 50 to 75 bytes for each entry that it held.
//
// Two loaders that load each other's keys wait for each other, until
// [MemoryConfig.LoadTimeout]; only a loader that comes back to its own key is found out.
package cache
