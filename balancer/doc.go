// Package balancer spreads the requests of an HTTP client over several endpoints, and
// keeps the client working when some of them are slow, broken or gone.
//
// A [Balancer] is an [net/http.RoundTripper]. The host of a request's URL names a target; a
// [Resolver] says which endpoints serve it, and a [Policy] picks one for each request. Every
// endpoint has an http.Transport of its own whose dial is pinned to the endpoint's address:
// the URL, the Host field, the TLS server name and cookies stay those of the target.
//
//	b, err := balancer.New(balancer.Config{
//		Resolver: balancer.DNS(balancer.DNSConfig{}),
//		Health:   balancer.HealthConfig{Path: "/healthz"},
//	})
//	client := &http.Client{Transport: b}
//	resp, err := client.Get("https://users.internal/42")
//
// The default policy, [Adaptive], sends a request where (requests in flight + 1) · √(recent
// latency) is least. Endpoints that fail are ejected for a while, never more than
// [OutlierConfig.MaxEjected] of them and never the last; ones that come back are ramped up. A request
// that provably did not leave (the dial failed, or a wrapper reported NotSent) goes to another
// endpoint at once; a request that may have been sent is never repeated here: that is the
// business of a retry layer around the Balancer, which asks for another host by [Avoid].
//
// # Place in a chain
//
// Retry and hedging go around a Balancer; what belongs to one endpoint (a pacer, a breaker, a
// span for each attempt) goes below it, through [Config.Wrap]. [Balancer.Handler] is a reverse
// proxy in front of it.
//
// # Goroutines
//
// New starts none. The first request for a target starts that target's resolver, health checks and
// upkeep; they end when the target has been idle for [Config.IdleTimeout], or by [Balancer.Close].
//
// # Limits
//
// Connection-bound authentication (NTLM, Negotiate) does not work through a pool: a connection
// serves many clients' requests; [Balancer.Handler] closes a connection after a request with such credentials. CONNECT is not supported. The net/http transport repeats some
// idempotent requests by itself when a reused connection turns out to be dead; such a repeat goes
// to the same endpoint and is not counted.
package balancer
