// Package ratelimit bounds how much each client may ask for:
//
//	limiter, err := ratelimit.New(ratelimit.Config{
//		Policies: []ratelimit.Policy{{
//			Name:    "per-client",
//			Rate:    ratelimit.PerMinute(60),
//			Key:     ratelimit.ByPeer,
//			Missing: ratelimit.MissingReject,
//		}},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	handler = limiter.Middleware(handler)
//
// All four fields of a [Policy] above are required. Key says whose request it is: [ByPeer] is right
// for a server without proxies in front, [ByIP] behind them, [ByHeader] for API keys. Missing says
// what becomes of a request without a key.
//
// A [Limiter] decides several named policies together: a request is charged to all of them or to
// none, at one instant. [Limiter.Middleware] answers 429 with a problem document, Retry-After and
// the RateLimit fields; [Limiter.Take] and [Limiter.TakeKeys] decide without writing to a response,
// and [Limiter.Peek] looks without charging. A [Policy] with CountIf counts only answers of a
// status that it names, such as failed log-ins. [Concurrency] bounds requests in flight per key.
// The client's side is package ratelimit/pacer: it waits so that a server's limits are kept.
//
// # Algorithms
//
// A policy is a token bucket by default ([GCRA], the generic cell rate algorithm): in any span w a
// key is admitted at most Burst + Limit × w/Window. With [SlidingWindow] a key is admitted at most
// Limit in each window that starts at a multiple of Window. The previous window counts as if it had
// been used evenly, so in any other span of that length a key is admitted at most twice the Limit:
// after a previous window that was used at its very end.
//
// Arithmetic is exact at every accepted rate, from one a year to 10⁹ a second; [New] refuses
// others.
//
// What CountIf gives back is what time has not paid: debts are paid in the order in which they were
// made. So over a key's life what counts keeps the rate. A client that holds requests open which do
// not count saves up what it leaves unused meanwhile, and may use it at once when they end. A
// SlidingWindow takes what does not count out of the window that it was charged in, and never
// admits more than its bound.
//
// # Place in a chain
//
// A limit by address stands outside authentication, which it protects, and outside a cache, whose
// hits then count. A limit by user stands inside authentication and the cache, whose hits then do
// not count, and outside whatever stores responses for repeated requests, so that a 429 is never
// stored. Every request that reaches the middleware counts, whatever its method and whatever
// becomes of it; each request of one HTTP/2 connection counts. Give a policy a Cost that returns
// zero for requests which shall not.
//
// # Limits
//
// A [MemoryStore] counts for one process, in a fixed table: when it is full, a new key takes over
// the place and the debt of the key that owes least. Several processes share counts through package
// ratelimit/redislimit; when its server fails, each policy's OnError says what happens. A limiter
// keeps honest clients honest and hostile ones cheap to refuse. It does not stop a distributed
// flood, which must be met before it reaches Go.
//
// Specifications: RFC 6585 (429), RFC 9110 section 10.2.3 (Retry-After), RFC 9457 (problem
// details), draft-ietf-httpapi-ratelimit-headers-11 (RateLimit, RateLimit-Policy and the problem
// types).
package ratelimit
