// Gateway is an API gateway composed of Trivet's packages: a reverse proxy that routes by host,
// path and method to load-balanced upstreams, with limits, health checks, hot reload and graceful
// drain.
//
//	gateway                     run three demo backends and a gateway before them, on loopback
//	gateway -config file.yaml   run the gateway of that file; gateway.yaml shows every key
//	gateway -check -config f    only check the file
//	gateway -rules -config f    only write Prometheus rules for its objectives
//
// SIGHUP reloads the file and its certificates; a bad file changes nothing. SIGTERM and SIGINT
// drain the gateway and end it; a second one ends it at once. The exit status is 0 after a drain, 1
// if something failed, 2 for a wrong command line or configuration.
//
// It is one program in few files, to be read and copied:
//
//   - main.go: the command line, signals, exit status
//   - config.go: the configuration, its defaults and its rules
//   - routeconfig.go: the configuration of a route
//   - checks.go: the faults of a configuration, and checks that several keys share
//   - yaml.go: reading a file strictly
//   - off.go: values that may be off
//   - positions.go: the line and field of every fault
//   - outside.go: the files and the environment that a configuration names
//   - gateway.go: a configuration made live, and its replacement while the gateway runs
//   - changes.go: what a reload leaves as it is, and what it cannot change
//   - server.go: the public server, and what each request passes first
//   - routing.go: from a request's host, path and method to its route
//   - bounds.go: bounds on header and body, and on what there is at once
//   - stalls.go: bounds on time without progress
//   - blame.go: who is to blame when such an exchange is ended
//   - pace.go: the least pace of a body
//   - tunnel.go: upgraded connections: how long they may be idle, and how they end
//   - tls.go: certificates, and which proxies are trusted
//   - limits.go: the limits that routes name, on ratelimit
//   - counts.go: where limits are counted, in memory or in Redis
//   - route.go: what a request of one route passes before it is proxied
//   - redirect.go: routes that send a client elsewhere
//   - cache.go: the caches of routes, on cache
//   - cachestore.go: what they share, on cache and cache/rediscache
//   - snapshot.go: their contents, over a restart
//   - purge.go: removing from the caches, and the token of the admin server
//   - headers.go: what a route changes in headers
//   - gate.go: the limits and the concurrency bound in front of one route
//   - upstream.go: one upstream, on balancer
//   - upstreamconfig.go: the configuration of an upstream
//   - upstreamtls.go: its certificates, on crypto/tls
//   - rewrite.go: what a request has changed on its way to it
//   - sticky.go: by what its hosts are chosen
//   - wait.go: requests that wait while all of its hosts are down
//   - breaker.go: the circuit breakers of an upstream's hosts, on breaker
//   - retry.go: repeated requests of an upstream, and timeouts of routes, on retry
//   - versions.go: the versions of a route, each with its upstream, on versioning
//   - rollout.go: the configuration of a route's rollout, on versioning
//   - split.go: a rollout made live, between a route's upstream and its canary
//   - rollouts.go: what the admin server shows of rollouts and shadows, and how a person acts on
//     them
//   - shadow.go: copies of a route's requests, and the comparison of answers, on versioning
//   - observe.go: metrics, traces, access log and health, on telemetry
//   - lines.go: the access log's lines, gathered before they are written
//   - objectives.go: objectives and their Prometheus rules
//   - grpc.go: refusals in the form that clients of gRPC understand
//   - drain.go: the end without a lost request
//   - admin.go: the admin server
//   - metricsserver.go: what others may see of it
//   - demo.go: the demo backends
//   - deploy: a Grafana dashboard, Prometheus alerts, a scrape configuration, KEDA scaling
package main
