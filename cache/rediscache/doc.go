// Package rediscache keeps responses of package cache in Redis, for several processes that share
// them, and tells the processes of a service which values have changed:
//
//	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
//	far, err := rediscache.New(client, rediscache.Config{Prefix: "shop"})
//	// handle err, here and below
//	near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
//	tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
//	go tiered.Run(ctx)
//	pages, err := cache.New(cache.Config{Store: tiered})
//	http.ListenAndServe(":8080", pages.Middleware(mux))
//
// What one process has fetched, all have; a cold page is fetched by one of them while the others
// wait for it; a purge reaches all. A [Store] can also be the only tier: then each look is one
// round trip, tags included, and no process fetches for another. [Invalidations] are for the data
// caches (cache.Memory) of a service; they need no Store.
//
// # What is purged
//
// Redis numbers the purges and remembers the last 16384 purges, for an hour longer than
// [Config].MaxTTL. Each reply brings along those that the process has not heard of, so a response
// that is found was compared with all of them: also one that another process had been fetching when
// it was purged, and stored afterwards. When there are more purges, what is older than those that
// are forgotten counts as purged.
//
// If Redis has lost its count, by FLUSHALL, a restart or eviction, or gives a lower one than a
// process has seen, as a replica does that has missed the last purges, a new epoch begins: all that
// was stored or is being fetched counts as purged, in Redis and in the near tiers. A purge that no
// process but the one that asked for it had heard of, and that a replica has missed, is noticed by
// that process if it asks first; else it is lost, as an acknowledged write to Redis can be.
//
// # When Redis fails
//
// A look or a store takes at most [Config].Timeout, whatever the client is configured to, and a
// purge [Config].PurgeTimeout. After three failures in a row a breaker opens, and one call each 100
// ms tries again. A look that fails is a miss. A purge that fails is an error and must be repeated.
// A request that Redis has failed once does not ask it again, so it pays the Timeout once; while
// the breaker is open, most pay nothing. A Redis that is slow and answers in time is asked up to
// four times for a cold response: to look, for the lock, to look again, and to store. A body of
// MaxBody bytes must pass the network within the Timeout.
//
//   - Full, with noeviction: what is there is served, nothing more is stored, and a purge is an
//     error.
//   - Full, with allkeys-lru: Redis evicts what it likes, which is a miss. The Store reads the
//     count of purges with each look, so that it is not what was used longest ago. volatile-lru and
//     volatile-ttl never evict it.
//   - Persistence is not needed. With it, purges of the last moments can be lost in a crash: with
//     appendfsync everysec, those of a second. A Redis without it forgets all together, which is
//     safe.
//   - A replica that cannot be written serves what it has.
//
// Ages and the order of responses are measured by the server's clock, not by those of the
// processes. If that clock is set back, no response gets older; if it is set forward, all get older
// by as much.
//
// # Who shares what
//
// Services that are given the same [Config].Prefix share entries; others do not meet. Those that
// share must agree on what a URL means, and on Config.KeyExtra of their caches. Each entry says its
// key, its epoch and the version of its form, and has a checksum: one of another key, another
// release, or one that is damaged, is a miss. A process decodes no entry of more than its own
// MaxBody and what its fields take, nor more than four times that of one URL.
//
// Nothing is encrypted or signed. Responses, URLs and tags stand in Redis as they are; fields of
// requests that Vary names, at most 64 bytes of each, and Cookie and Authorization as hashes.
// Whoever can write there decides what clients get. Use TLS, a password and the rights below, on a
// server that you run.
//
// # Commands and rights
//
// Redis 5 or later is needed. The client's user needs these rights, with [Config].Prefix in place
// of shop:
//
//	ACL SETUSER shop on >password resetkeys resetchannels ~{shop:* ~shop{shopnews}* &shop{shopnews}
//	  -@all +evalsha +eval +time +type +del +get +set +pexpire +pttl +hget +hmget +hset +hdel
//	  +hkeys +hlen +hexists +hstrlen +hincrby +zadd +zscore +zcard +zrange +zrevrange
//	  +zrangebyscore +zremrangebyrank +publish +subscribe +unsubscribe +ping
//
// and what go-redis asks for when it connects (+hello +client +auth, +cluster on a Cluster).
//
// An entry is in one slot of a Cluster, and so are its lock and the count of purges, each in its
// own; no command concerns two slots, and a look asks both nodes at the same time. KEYS and SCAN
// are not used. A Ring is refused.
package rediscache
