package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUpstreamErrorsNameLineAndField(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{}",
			`: either url or hosts is required`},
		{"{url: users.internal}",
			`.url: "users.internal" is not a URL such as http://users.internal:8080`},
		{"{url: \"ftp://a\"}",
			`.url: "ftp://a" is not a URL such as http://users.internal:8080`},
		{"{url: \"http://a/path\"}",
			`.url: must have no more than scheme, host and port: the key path takes a path`},
		{"{url: \"http://me:secret@a\"}",
			`.url: must have no more than scheme, host and port`},
		{"{url: \"https://a\", h2c: true}",
			`.h2c: is HTTP/2 in clear, but the url says https, where HTTP/2 needs no setting`},
		{"{hosts: [\"a:b:c\"]}",
			`.hosts[0]: "a:b:c" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [a, \"\"]}",
			`.hosts[1]: "" is not an address such as 10.0.0.1:8080: a host needs an addr`},
		{"{hosts: [a, b, a]}",
			`.hosts[2]: "a" stands here twice`},
		{"{hosts: [{adr: a}]}",
			`.hosts[0].adr: unknown key: did you mean addr? the keys here are addr, priority, weight`},
		{"{hosts: [\"http://10.0.0.1:80\"]}",
			`.hosts[0]: "http://10.0.0.1:80" is a URL and not an address: leave out http://`},
		{"{hosts: [\"https://me:secret@a\"]}",
			`.hosts[0]: what stands here is a URL and not an address: leave out https://`},
		{"{hosts: [{addr: a, priority: -1}]}",
			".hosts[0].priority: must be a whole number from 0, not `-1`"},
		{"{hosts: [a], health: {path: x}}",
			`.health.path: "x" is not a path that begins with a slash, encoded as in a URL`},
		{"{hosts: [a], health: {path: /%z}}",
			`.health.path: "/%z" is not a path that begins with a slash, encoded as in a URL`},
		{"{hosts: [a], health: {path: /a b}}",
			`.health.path: "/a b" is not a path that begins with a slash, encoded as in a URL`},
		{"{hosts: [a, \"a:\"]}",
			`.hosts[1]: "a:" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [\"a:99999\"]}",
			`.hosts[0]: "a:99999" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [\"a:+80\"]}",
			`.hosts[0]: "a:+80" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [\"[::1\"]}",
			`.hosts[0]: "[::1" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [\"[a]\"]}",
			`.hosts[0]: "[a]" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [\"a\\nb\"]}",
			`.hosts[0]: "a\nb" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [a?b]}",
			`.hosts[0]: "a?b" is not an address such as 10.0.0.1:8080`},
		{"{hosts: [ä]}",
			`.hosts[0]: "ä" is not an address such as 10.0.0.1:8080`},
		{"{url: \"http://a:99999\"}",
			`.url: "http://a:99999" is not a URL such as http://users.internal:8080`},
		{"{url: \"http://a,b\"}",
			`.url: "http://a,b" is not a URL such as http://users.internal:8080`},
		{"{url: \"ftp://me:secret@a\"}",
			`.url: what stands here is not a URL such as http://users.internal:8080`},
		{"{hosts: [\"me:secret@a:80\"]}",
			`.hosts[0]: what stands here is not an address such as 10.0.0.1:8080`},
		{"{hosts: [{addr: a, weight: -1}]}",
			".hosts[0].weight: must be a whole number from 0, not `-1`"},
		{"{hosts: [{addr: a, weight: 4294967296}]}",
			".hosts[0].weight: must be a whole number from 0, not `4294967296`"},
		{"{hosts: [{addr: a, weight: }]}",
			".hosts[0].weight: has no value: without one, leave it out"},
		{"{hosts: [a], health: {fall: -1}}",
			`.health.fall: must be positive`},
	} {
		t.Run(tt.text, func(t *testing.T) {
			_, err := parseConfig("f", []byte("upstreams: {u: "+tt.text+"}\nroutes: [{upstream: u}]"))
			require.EqualError(t, err, "f:1: upstreams.u"+tt.want)
		})
	}
}

func TestAddressesThatAreGood(t *testing.T) {
	for _, addr := range []string{
		"a", "A.b.", "a_b:80", "a:http", "10.0.0.1", "10.0.0.1:80", "::1", "[::1]", "[::1]:80",
		"fe80::1%eth0", "[fe80::1%eth0]:80", "unix:/run/a.sock",
	} {
		require.True(t, validAddr(addr), addr)
	}
}

func TestFaultsOfUpstreamKeys(t *testing.T) {
	for _, tt := range []struct{ keys, want string }{
		{"host: \"http://a\"",
			`host: "http://a" is a URL and not a host: leave out http://`},
		{"host: \"unix:/a\"", `host: "unix:/a" is not a host such as users.internal, with or without a port`},
		{"host: \"a b\"", `host: "a b" is not a host such as users.internal, with or without a port`},
		{"path: base", `path: "base" is not a clean path that begins with a slash`},
		{"path: /a//b", `path: "/a//b" is not a clean path that begins with a slash`},
		{"path: /a/../b", `path: "/a/../b" is not a clean path that begins with a slash`},
		{"path: /a?b", `path: "/a?b" is not a clean path that begins with a slash`},
		{"path: /", `path: changes nothing: leave it out`},
		{"strip_prefix: /a%20b", `strip_prefix: "/a%20b" is not a clean path that begins with a slash`},
		{"strip_prefix: /", `strip_prefix: changes nothing: leave it out`},
		{"idle_timeout: -1s", `idle_timeout: must be positive`},
		{"idle_timeout: 5", "idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `5`"},
		{"wait: 5s", `wait: needs health.path: nothing else says that a host is back`},
		{"wait: -5s, health: {path: /}", `wait: must be positive`},
		{"policy: fastest",
			`policy: "fastest" is not one of: adaptive, hash_path, least_request, round_robin`},
		{"sticky: {cookie: a b}", `sticky.cookie: "a b" is not the name of a cookie`},
		{"sticky: {max_age: 1500ms}",
			`sticky.max_age: is not in whole seconds, which is what a cookie can say`},
		{"sticky: {max_age: -1s}", `sticky.max_age: must be positive`},
		{"sticky: {name: a}",
			`sticky.name: unknown key: the keys here are cookie, insecure, max_age, secret_env`},
		{"srv: http", `srv: has no meaning with hosts`},
		{"polcy: a", `polcy: unknown key: did you mean policy? the keys here are breaker, connect_timeout, ` +
			`h2c, health, hedge, host, hosts, idle_timeout, max_conns, path, policy, response_timeout, ` +
			`retry, srv, sticky, strip_prefix, tls, url, wait`},
	} {
		t.Run(tt.keys, func(t *testing.T) {
			_, err := parseConfig("f", []byte(upstreamOf("a", tt.keys)))
			require.EqualError(t, err, "f:1: upstreams.app."+tt.want)
		})
	}
	for url, want := range map[string]string{
		"http://a:80":      `srv: says which port, so the url must have none`,
		"http://127.0.0.1": `srv: needs a name in the url`,
	} {
		_, err := parseConfig("f", []byte("upstreams: {a: {url: \""+url+"\", srv: http}}\n"+
			"routes: [{upstream: a}]"))
		require.EqualError(t, err, "f:1: upstreams.a."+want)
	}
	_, err := parseConfig("f", []byte("upstreams: {a: {url: \"http://a\", srv: _http._tcp}}\n"+
		"routes: [{upstream: a}]"))
	require.EqualError(t, err, `f:1: upstreams.a.srv: "_http._tcp" is not the name of a service such as `+
		`http, without underscores`)
}
