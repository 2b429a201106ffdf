// Package redislimit keeps the counts of package ratelimit in Redis, for several processes that
// share limits:
//
//	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
//	store, err := redislimit.New(client, redislimit.Config{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	limiter, err := ratelimit.New(ratelimit.Config{Store: store, Policies: policies})
//
// A decision is one round trip: a script reads the server's clock, decides all of a limiter's
// policies and charges all or none. The clocks of the callers do not matter. A key that is denied
// is denied again without a round trip until its cost would fit (for at most ten seconds, so that
// an operator's DEL takes effect). Every key in Redis expires when its debt is paid.
//
// # When Redis fails
//
// A call takes at most [Config].Timeout, whatever the client is configured to. After three failures
// in a row a breaker opens, and one call each 100 ms tries again. Meanwhile the limiter does what
// each policy's OnError says: with ratelimit.FailLocal, counts that have been kept close to the
// server's go on in this process, so a failure grants no client a fresh burst. A call that timed
// out may have been charged all the same: that errs against the caller.
//
// What is admitted here meanwhile is not written back: over an outage a key gets what the local
// count grants besides what Redis does before and after it. A server that comes back without its
// data, by restart without persistence or by FLUSHALL, grants each key one more burst. A replica
// that takes over without the last writes grants again what those had charged: at most
// Burst + Limit × lag/Window for each key. A step of the server's clock forward pays debts as much
// earlier; a step back delays no request by more than the debt.
//
// What comes after the answer, Charge of a Decision and what a CountIf gives back, does not end
// with the request, but within the same Timeout, and is sent once. What asks for a decision is sent
// once more, and at most twice, if the connection proves dead: what a decision costs is charged
// twice if only the answer was lost. The client's MaxRetries adds nothing to that.
//
// # Leases
//
// With [Config].Leases a process buys a part of what a key has left in advance and spends it
// without round trips. What is bought is charged at once, so nothing is admitted that was not paid
// for; but it may be used up to [LeaseConfig].TTL later. So in any span w a key is admitted at most
// Burst + Limit × (w + TTL)/Window. What is not used by then is lost. A sliding window, whose Limit
// holds for each window of the clock, cannot be leased.
//
// # Cluster
//
// The keys of one decision must live in one slot. The default layout serves limiters of one policy.
// For several, set Config.SameKey if all have the same key, or else Config.HashTag, which puts
// everything into one slot and so onto one node. ratelimit.New refuses what cannot work.
//
// # Limits
//
// Redis 5 or later is needed, or another server that speaks its protocol and replicates a script's
// effects. The client's user needs these rights, with [Config].Prefix in place of the pattern's
// beginning:
//
//	ACL SETUSER limits on >password resetkeys ~trivet:ratelimit:* -@all +evalsha +eval +get +set +time
//
// and what go-redis asks for when it connects (+hello +client +auth, +cluster on a Cluster, +ping).
//
// Keys of clients are hashed with SHA-256, of which half is kept: neither their text nor their
// length reaches Redis. An attacker who can read the server can still try out all IPv4 addresses.
package redislimit
