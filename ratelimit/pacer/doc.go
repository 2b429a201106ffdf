// Package pacer makes an HTTP client keep to a server's limits by waiting:
//
//	p, err := pacer.New(pacer.Config{Rate: ratelimit.PerSecond(50)})
//	if err != nil {
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: p.Transport(nil)}
//
// or, with one pace for each endpoint behind a balancer:
//
//	balancer.Config{Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
//		return p.TransportFor(e.Addr, next)
//	}}
//
// A [Pacer] sends at most [Config].Rate to each host, and less if the host says so: it obeys
// Retry-After (RFC 9110, section 10.2.3) of 429 and 503, and the RateLimit field of
// draft-ietf-httpapi-ratelimit-headers-11 of every response. Requests wait in order of arrival. A
// request fails with an [*Error] at once if it is known to get its turn too late, and uses nothing
// of the rate if it leaves while it waits. Config.Rate is required.
//
// # Place in a chain
//
// A pacer stands inside of what repeats requests, so that repeats are paced too, and outside of
// what judges a server by its answers, so that the wait is not taken for the server's. Behind a
// balancer it stands around the transport of each endpoint (balancer.Config.Wrap). An Error has the
// methods NotSent and RetryAfter, by which balancer sees that it can ask another endpoint.
//
// # Limits
//
// A Pacer knows of this process only: n processes that share a server's limit each take a part of
// the rate. It counts requests, whatever they cost the server, and takes what a RateLimit field
// counts to be requests. That field counts whole seconds, so where less than a second's worth is
// left it asks for a slower pace than the server would bear, and is obeyed.
package pacer
