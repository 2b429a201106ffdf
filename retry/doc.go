// Package retry sends requests again that failed, without making an outage worse.
//
//	retrier, err := retry.New(retry.Config{Scope: balancer.Avoid, Hedge: true})
//	if err != nil {
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: retrier.Transport(lb)} // lb is a *balancer.Balancer
//
//	deadline, err := retry.NewDeadline(retry.DeadlineConfig{Timeout: 10 * time.Second})
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.ListenAndServe(":8080", deadline.Middleware(mux))
//
// A [Retrier] wraps a client's transport. A [Deadline] wraps a handler.
//
// # What is retried
//
// A request whose method may be repeated (RFC 9110, section 9.2.2: GET, HEAD, OPTIONS, TRACE, PUT,
// DELETE; RFC 10008: QUERY), or that has an Idempotency-Key field, is sent again after 408, 425,
// 429, 502, 503 and 504, a broken connection and a timeout. Any other request only if it provably
// reached no server: its dial or TLS handshake failed, an HTTP/2 server has refused its stream or
// let it go unserved, or an error of a transport below says so by a method NotSent. [Config.When]
// can decide otherwise.
//
// Retries wait for a random time that doubles, at least as long as Retry-After asks for. If the
// next attempt could not begin before the request's deadline, the answer or error is returned at
// once.
//
// The attempts counted are those that the Retrier makes. net/http itself sends a request again
// whose connection turns out to be dead, and HTTP/2 requests that a server has let go unserved. An
// effect that must happen once needs a server that recognises the request, by its Idempotency-Key.
//
// # Budget
//
// Each key, by default each host, pays for its retries and hedges from one [BudgetConfig]: what it
// sends never exceeds (1 + Ratio) × its requests + Reserve + one for each 10 s in which it was
// silent. In a total outage that is its requests and the reserve, whatever MaxAttempts is. The
// reserve is each process's: a thousand clients of one server have a thousand of them, spent once,
// over the time that their jitter takes.
//
// # Hedging
//
// With [Config.Hedge] a safe request, or one with an Idempotency-Key, that takes longer than 95 %
// of the earlier ones did is sent a second time, and the first answer counts. When many requests
// are late, the host is slow rather than unlucky, and nothing is hedged until that has become
// usual.
//
// # Place in a chain
//
// On the client, inside a cache and outside a balancer, pacer and breaker: each attempt is
// balanced, paced and counted by itself. On the server, a Deadline stands next to the handler.
//
// # Several tiers
//
// Each tier that retries may add its tenth: three of them send a request up to 1.33 times while
// some of the attempts fail, 1.25 times where a fifth of them do. Let one tier retry, the one next
// to what fails. Where several must, set the same [Config.Hint] in all of them: what the lowest has
// given up on is then not retried above it, and all three send 1.10 times at the most. That costs
// answers: where a fifth of the attempts fail, about 87 % of the requests are answered with the
// hint, and nearly all without it.
//
// # Limits
//
// A body without GetBody is kept to be sent again, up to [Config.MaxBody] and 64 MiB in the
// process; a longer one is sent once. An answer that breaks off after its header is not retried:
// its reader gets the error. A Deadline cannot stop a handler that does not look at its context.
package retry
