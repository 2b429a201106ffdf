// Gateway is an API gateway composed of Trivet's packages: a reverse proxy that routes by host, path and
// method to load-balanced upstreams, with limits, health checks, hot reload and graceful drain.
//
//	gateway                     three demo backends and a gateway before them, on loopback
//	gateway -config file.yaml   the gateway that the file describes; gateway.yaml is a commented one
//	gateway -check -config f    only check the file
//
// Signals: SIGHUP reloads the file (a bad one changes nothing), SIGTERM and SIGINT drain and end; a
// second one ends at once. Exit status: 0 after a drain, 1 if something failed, 2 for a wrong
// command line or configuration.
//
// It is one program in few files, to be read and copied:
//
//   - main.go: the command line, signals, exit status
//   - config.go: what can be configured, its defaults and its rules
//   - yaml.go: strict YAML, with line and field in every error
//   - gateway.go: a configuration made live, and its replacement while running
//   - upstream.go: one upstream, on balancer
//   - server.go: the public server and the way of a request
//   - limits.go: bounds on header, body and time without progress
//   - drain.go: the end without a lost request
//   - admin.go: the admin server
//   - demo.go: the demo backends
package main
