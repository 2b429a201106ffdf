// Package ratelimit bounds how much each client may ask for.
//
// A [Limiter] decides several named policies together: a request is charged to
// all of them or to none, at one instant. [Limiter.Middleware] answers 429 with a
// problem document, Retry-After and the RateLimit fields; [Limiter.Take] and
// [Limiter.TakeKeys] decide without side effects on a response. [Concurrency]
// bounds requests in flight per key. A [Pacer] is the client's side: its Transport
// waits so that a server's limits are kept.
//
// # Algorithms
//
// A [Policy] is a token bucket by default, kept as the generic cell rate algorithm
// (GCRA): in any span w a key is admitted at most Burst + Limit × w/Window. With
// [SlidingWindow] a key is admitted at most Limit in each window that starts at a
// multiple of Window, and at most twice that in any other span of that length: the
// previous window counts as if it had been used evenly, so the worst case is a previous
// window used at its very end. golang.org/x/time/rate is the oracle of the tests, and
// paces the client; a bucket of it costs four times the memory of a cell and cannot
// be kept in Redis.
//
// Arithmetic is exact at every accepted rate: from one a year to 10⁹ a second,
// which is the limit that [New] states when it refuses more.
//
// # Place in a chain
//
// A limit by address stands outside authentication, which it protects, and outside a
// cache, whose hits then count. A limit by user stands inside authentication and the
// cache, whose hits then do not count, and outside idempotency, so that a 429 is never
// stored. Every request that reaches the middleware counts, whatever its method and
// whatever becomes of it; each request of one HTTP/2 connection counts. Give a policy
// a Cost of zero for what shall not. On the client the pacer stands inside retry, so
// that repeats are paced, and outside the breaker.
//
// # Limits
//
// A [MemoryStore] counts for one process, in a fixed table: when it is full, a new key
// takes over the place and the debt of the key that owes least. Several processes share
// counts through package redislimit; when its server fails, each policy's OnError
// says what happens. A limiter keeps honest clients honest and hostile ones cheap to
// refuse; it does not stop a distributed flood, which must be met before it reaches Go.
//
// Specifications: RFC 6585 (429), RFC 9110 section 10.2.3 (Retry-After), RFC 9457
// (problem details), draft-ietf-httpapi-ratelimit-headers-11 (RateLimit,
// RateLimit-Policy and the problem types).
package ratelimit
