// Package conformance runs the public suite of tests for HTTP caches (http-cache-tests) through
// cache.Middleware around a plain reverse proxy. The suite's own client and server run unmodified,
// in Node, and a test counts as the suite counts it.
//
//	make conformance                 # npm's http-cache-tests 0.4.5, installed outside the repository
//	make conformance SUITE=DIR       # a checkout of http-tests/cache-tests, after npm install in it
//	make conformance ARGS='-id=ID'   # the exchanges of one test
//	make conformance ARGS='-bare'    # the reverse proxy without a cache: what the suite gives for nothing
//
// docs/conformance.md has the reason of each test that does not pass.
package conformance
