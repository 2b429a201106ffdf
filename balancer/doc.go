// Package balancer spreads the requests of an HTTP client over several endpoints, and keeps the
// client working when some of them are slow, broken or gone.
//
//	lb, err := balancer.New(balancer.Config{
//		Resolver: balancer.Static("10.0.0.1:80", "10.0.0.2:80"), // or DNS(DNSConfig{})
//		Targets:  []string{"users.internal"},
//		Health:   balancer.HealthConfig{Path: "/healthz"},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer lb.Close(context.Background())
//	client := &http.Client{Transport: lb}
//	resp, err := client.Get("http://users.internal/42")
//
// # What it does
//
// A [Balancer] is an [net/http.RoundTripper]. The host of a request's URL names a target. A
// [Resolver] says which endpoints serve it, and a [Policy] picks one for each request. Every
// endpoint has an http.Transport of its own whose dial is pinned to the endpoint's address: the
// URL, the Host field, the TLS server name and cookies stay those of the target.
//
// The default policy, [Adaptive], sends a request where (requests in flight + 1) · ∛(recent
// latency) is least. Endpoints that fail are ejected for a while: at most
// [OutlierConfig.MaxEjected] of them, though one always may be, and never the last. An endpoint
// that comes back gets its share back slowly.
//
// A request that provably did not leave goes to another endpoint at once: its dial failed, or a
// wrapper said NotSent. So does one whose stream a server of HTTP/2 has refused; one beyond the
// last stream of a GOAWAY is sent again to the same endpoint. Neither has been processed (RFC
// 9113, section 8.7): this holds for every method, and blames nobody. Of a body without GetBody,
// 64 KiB are kept for it where HTTP/2 may be spoken; a longer one gets an error with NotSent. A
// request that may have been processed is never repeated here. That is the business of a retry
// layer around the Balancer, which asks for another endpoint by [Avoid].
//
// An endpoint works on [Config.MaxConns] requests at once, and as many more wait their turn for up
// to a second. Upgraded connections count from their 101 to their end, there and in what policies
// compare.
//
// # Place in a chain
//
// Retry and hedging go around a Balancer. What belongs to one endpoint (a pacer, a breaker, a span
// for each attempt) goes below it, through [Config.Wrap]. [Balancer.Handler] is a reverse proxy in
// front of it.
//
// # Goroutines
//
// New starts none. The first request for a target starts that target's resolver, health checks and
// upkeep. They end when the target has been idle for [Config.IdleTimeout], or by [Balancer.Close].
//
// # Limits
//
// Connection-bound authentication (NTLM, Negotiate) does not work through a pool, since a
// connection serves many clients' requests. [Balancer.Handler] closes a connection after a request
// with such credentials. CONNECT is not supported. The net/http transport repeats some idempotent
// requests by itself when a reused connection turns out to be dead; such a repeat goes to the same
// endpoint and is not counted. It also repeats requests without a body whose stream was refused,
// and waits between two such attempts, for a minute in all. net/http can close a connection under
// a request because another request ended that had it before: a GET, HEAD, OPTIONS or TRACE
// without a body is then sent again; any other fails, and blames nobody.
package balancer
