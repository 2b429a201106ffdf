// Package cache stores responses of HTTP and answers from them, and keeps values in memory that are
// expensive to get.
//
//	pages, err := cache.New(cache.Config{
//		IgnoreQuery: []string{"utm_*", "fbclid"},
//	})
//	if err != nil {
//		return err
//	}
//	defer pages.Close(context.Background())
//	server.Handler = pages.Middleware(server.Handler) // a shared cache before a handler
//
// For a client of one user, Config.Private is set:
//
//	private, err := cache.New(cache.Config{Private: true})
//	if err != nil {
//		return err
//	}
//	defer private.Close(context.Background())
//	client.Transport = private.Transport(client.Transport)
//
// A [Cache] obeys what responses say (RFC 9111): a handler that sets "Cache-Control: max-age=60" is
// cached for a minute, one that says nothing is not, unless it sets Last-Modified. What it does:
//
//   - What is fetched streams to its client and to all who wait for the same while it is stored.
//     One fetch serves them all; who may not share it never waits for it.
//   - It validates what is stale with all the tags that it has, serves stale responses where they
//     allow it (stale-while-revalidate, stale-if-error), and joins and completes parts of a body.
//   - It tells variants apart (Vary), and gathers those that mean the same.
//   - [Cache.PurgeURL], [Cache.PurgePrefix], [Cache.PurgeTag] and [Cache.PurgeGroup] take the same
//     time however much they hit, and reach the fetches under way. Unsafe methods invalidate.
//   - A [MemoryStore] is bounded in bytes, fields and overhead included. It can be saved and
//     restored. Several caches may share one.
//   - It tells in Cache-Status what it did (RFC 9211), and its [Event] and [Stats] tell the
//     operator.
//
// Specifications: RFC 9110 (conditional requests, ranges), 9111, 5861, 8246, 9211, 9213
// (CDN-Cache-Control), 9875 (groups), 10008 (QUERY) and draft-ietf-httpbis-no-vary-search-10.
//
// # Where it belongs
//
// Outside what depends on the resource alone, inside what depends on the client: telemetry, limits
// by address, authentication, the resolution of versions (their name is [Config.KeyExtra]), the
// Cache, then limits by user, breaker and handler. Around a client it is the outermost. What
// middlewares around it set is neither stored nor lost; what they would set by wrapping the
// ResponseWriter they set on a hit too.
//
// A handler whose answer depends on who asks must say so: Cache-Control: private or no-store, or
// Vary. The Cache stores nothing with Set-Cookie ([Config.StoreSetCookie]) and heeds Authorization,
// but a page that reads a cookie and says "max-age=60" is the same page for everybody. If a
// middleware around the Cache sets Vary: Cookie or Authorization, that counts as the handler's, and
// so does Vary: Origin if the handler itself allows some origins. A request passes if a field of
// its header has a name that is not in canonical form, if its Connection names other fields, or if
// it has more than 16 of those that [Config.Unkeyed] is about. A page that was never fresh, for it
// has an entity tag and nothing else, is stored to be validated: no max-stale of a client and no
// failure of the origin shows it to another client.
//
// # Limits of the HTTP cache
//
// One process, unless the [Store] is one that several share: [Tiered], on rediscache.Store. A fetch
// that no client waits for goes on for [Config.FetchTimeout]; there are at most
// [Config.MaxBackground]. The bodies that are being fetched take together up to the store's bound
// once more; beyond that they stream through and are not stored. A handler that the Cache runs can
// flush and send 1xx responses. Hijack works for every request that passes, upgrades among them.
//
// Two deviations from RFC 9111. A shared cache uses a stale response with s-maxage where the same
// response has stale-while-revalidate or stale-if-error, as public caches do. And a response
// without explicit freshness is stored for its status only if that is 200, 203, 204, 206, 300, 301,
// 308, 404, 405, 410 or 414: one client's odd request must not break a URL for others.
//
// # Values in memory
//
//	users, err := cache.NewMemory(cache.MemoryConfig[int64, *User]{
//		MaxEntries: 50_000,
//		TTL:        func(int64, *User) time.Duration { return 10 * time.Minute },
//		Stale:      time.Minute, // return the old row at once while the new one is read
//	})
//	if err != nil {
//		return err
//	}
//	user, err := users.Load(ctx, id, func(ctx context.Context, id int64) (*User, error) {
//		return queryUser(ctx, db, id) // once, however many callers ask at the same time
//	})
//
// A [Memory] keeps the results of database queries and service calls. It belongs to one process and
// stands where a handler gets its data. What it does:
//
//   - [Memory.Load] returns what is there, or calls a loader: once per key, however many callers
//     ask. Each caller waits until its own deadline at most. [Memory.LoadMany] does the same for
//     many keys with one call.
//   - The cache is bounded by entries, or by weight ([MemoryConfig.Weigher]). While an entry is
//     stored the total may exceed the bound by that entry; at no other time. [TinyLFU], which
//     learns what suits the traffic, chooses what leaves; plain [LRU] is an option.
//   - Reads wait for no lock, unless a table grows at that moment, and allocate nothing. Writes
//     are never dropped: what was just set is there until it is evicted, removed or expires.
//   - A value is fresh for its TTL. It may be returned stale while one refresh runs
//     ([MemoryConfig.Stale]), if loading fails ([MemoryConfig.StaleIfError]) or takes too long
//     ([MemoryConfig.StaleAfter]), and it is refreshed before its TTL ends, at random
//     ([MemoryConfig.EarlyRefresh]). Errors can be kept for a while ([MemoryConfig.ErrorTTL]).
//   - [Memory.InvalidateTag] makes all entries with a tag gone or stale at once. A load under way
//     when its key or its tag is invalidated never brings the old value back.
//   - [Memory.Save] and [Memory.Restore] carry the contents over a restart.
//
// # Eviction
//
// No fixed policy is the best. LRU suits sessions and feeds, where what was just used is used next;
// a scan or a loop flushes it. W-TinyLFU keeps what is used often and has a window for newcomers.
// What it is good for depends on the window's share of the cache: 1 % suits loops and steady
// favorites, 100 % is LRU. Here a contest, which we call the duel, chooses the share while the
// cache runs. The uses of some hundred keys, sampled by their hashes, are played in four tiny
// caches with windows of 1, 10, 50 and 100 %. Another share takes the place of the one in force
// when it would have had so many more hits as half of the cache has entries; a quarter the first
// time, if entries have weights. After changes in quick succession up to twice as many more hits
// are asked for. [MemoryStats] tells the share.
//
// What is set while there is room counts as a use of its key only if about as many keys were missed
// before: a cache that is filled in advance gives way to what is then asked for.
//
// The policy keeps the name TinyLFU, under which its window, its admission and its sketch of past
// uses can be looked up; the duel is known as set dueling, from the caches of processors. By how
// many points of hit ratio each is behind the best policy of each of 58 rows, mean and worst (make
// bench BENCH=DataCacheHitRatio BENCHTIME=3x):
//
//	Trivet 0.3 and 2.3    otter 2.3 and 15    theine 3.4 and 27    LRU 7.5 and 94
//
// The duel takes some 15 KB in each shard, at most 60 KB if entries have weights. Of 15 KB, each of
// a thousand entries has 15 bytes, each of ten thousand less than 2.
//
// # Ownership
//
// All callers get the same value, not copies: what a value points to must not be changed once it is
// stored. Keys are compared with ==.
//
// # Limits of Memory
//
// A Memory knows nothing of other processes: an invalidation reaches this one only.
//
// Nothing removes entries in the background. An expired one leaves memory when something is
// written; one whose tag was invalidated, when its key is stored anew or when it is evicted. Until
// then no reader sees it.
//
// With a Weigher there is one shard, so writers contend for one lock; reads take none.
//
// Weights are what the Weigher says. An entry costs some 60 bytes besides its key and value, 110 if
// it can expire, 200 with tags, and 75 more with [LRU]. Tables and lists do not shrink: an emptied
// cache keeps 50 to 75 bytes for each entry that it held.
//
// Loaders that load each other's keys, or their own, get an error at once, if they pass on the
// context that they were given; without that they wait until [MemoryConfig.LoadTimeout].
package cache
