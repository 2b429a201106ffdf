// Package breaker stops requests to what keeps failing.
//
//	b, err := breaker.New(breaker.Config{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: b.Transport(http.DefaultTransport)}
//	resp, err := client.Get("https://users.internal/42")
//	if errors.Is(err, breaker.ErrOpen) {
//		// users.internal keeps failing, and was not asked
//	}
//
// A [Breaker] keeps a state for each key: a host on a client, a route on a server. It is closed at
// first and counts outcomes in a rolling window. When enough of them are failures it opens: it
// refuses requests for a time that doubles from one failed attempt to the next. After that time it
// is half-open and admits exactly [Config.Probes] requests. If they succeed, it admits a share of
// the requests that grows to all; if one fails, it opens again. [Breaker.Transport] fails with an
// [*OpenError], [Breaker.Middleware] answers 503, and [Breaker.Acquire] knows nothing of HTTP.
//
// A [Throttle] is for a client whose server refuses a part of the requests. It refuses as many by
// itself as the server would, so that the server is spared the work of refusing.
//
// # When to use which
//
// A limiter (package ratelimit) bounds what each caller may ask of you, whether you are busy or
// not: it keeps one caller from using up what is there for all. A breaker protects you, and others,
// from somebody else's failure: you do not wait for answers that will not come, and the failing
// server has time to recover. A throttle protects an overloaded server from your share of its
// overload: it never stops all requests, since the server still serves some. Together they make
// each refusal where it costs the least work: the server's limiter answers 429 before anything was
// done; the client's throttle learns from these answers and no longer sends what would get them;
// its breaker learns from failures and time-outs, and sends nothing for a while. A breaker on a
// server belongs around one route with a fragile dependency, inside the limiter, whose refusals it
// must not see: else the server's own defence would open it. Do not put a breaker where all
// failures have different causes, such as around a whole server.
//
// # Place in a chain
//
// On a server: inside telemetry, limits and a cache, which can answer stale for it; around the
// handler. On a client: inside retry, which sends a refused request elsewhere or later, and
// inside the balancer, one key for each endpoint; around telemetry and the endpoint's transport:
//
//	balancer.Config{Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
//		return b.TransportFor(e.Addr, next)
//	}}
//
// # Inside
//
// The window, the states and the verdict of the probes are those of github.com/sony/gobreaker/v2.
// Used as it comes it has traps, which a Breaker has not: a probe whose end is never reported keeps
// it half-open for ever; an end reported twice counts twice; its callback is called under its lock;
// its defaults never forget a failure; its open time never grows; and it drops outcomes of requests
// that took longer than its window, so that it does not open on time-outs.
//
// # Limits
//
// Keys beyond [Config.MaxKeys] share one state, which one of them can open for the others. The
// length of a key is not bounded: do not make one of what strangers write at will. State is that of
// one process: each replica finds out by itself. The answer's status is all that is seen of it: an
// error inside a 200 (GraphQL, or gRPC's trailers) is a success; use [Breaker.Acquire] there. A
// request that is canceled before its answer says nothing, so a host that never answers opens no
// breaker if every caller cancels rather than sets a deadline. [Config.SlowAfter] is judged when an
// answer begins: calls that hang count when they end. On a client http and https of one host, each
// at its default port, share a state; [Config.Key] can tell them apart.
package breaker
