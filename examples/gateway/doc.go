// Gateway is an API gateway composed of Trivet's packages: a reverse proxy that routes by host, path and
// method to load-balanced upstreams, with limits, health checks, hot reload and graceful drain.
//
//	gateway                     three demo backends and a gateway before them, on loopback
//	gateway -config file.yaml   the gateway that the file describes; gateway.yaml is a commented one
//	gateway -check -config f    only check the file
//	gateway -rules -config f    only write Prometheus rules for its objectives
//
// Signals: SIGHUP reloads the file and its certificates (a bad one changes nothing), SIGTERM and SIGINT drain and end; a
// second one ends at once. Exit status: 0 after a drain, 1 if something failed, 2 for a wrong
// command line or configuration.
//
// It is one program in few files, to be read and copied:
//
//   - main.go: the command line, signals, exit status
//   - config.go: what can be configured, its defaults and its rules
//   - yaml.go: strict YAML, with line and field in every error
//   - gateway.go: a configuration made live, and its replacement while running
//   - server.go: the public server and the way of a request
//   - tls.go: certificates, and which proxies are trusted
//   - bounds.go: bounds on header, body and time without progress
//   - limits.go, gate.go: what consumers may ask for, on ratelimit, and what stands before each route
//   - upstream.go: one upstream, on balancer
//   - observe.go: metrics, traces, access log, objectives and health, on telemetry
//   - drain.go: the end without a lost request
//   - admin.go: the admin server
//   - demo.go: the demo backends
//   - deploy: a Grafana dashboard, Prometheus alerts, a scrape configuration, KEDA scaling
package main
