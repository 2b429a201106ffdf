package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

const minimalConfig = `
upstreams:
  app: {hosts: ["127.0.0.1:9001"]}
routes:
  - upstream: app
`

func TestCommentedConfigurationIsGoodAndShowsTheDefaults(t *testing.T) {
	commented, err := loadConfig("gateway.yaml", nil)
	require.NoError(t, err)
	minimal, err := parseConfig("minimal", []byte(minimalConfig))
	require.NoError(t, err)
	// An empty list means the same as no list.
	commented.Server.TLS.Certificates, commented.Server.TrustedProxies = nil, nil
	commented.Admin.Metrics.Paths = nil
	l := &commented.Telemetry.AccessLog
	l.RequestHeaders, l.ResponseHeaders, l.Query = nil, nil, nil
	require.Equal(t, minimal.Server, commented.Server)
	require.Equal(t, minimal.Admin, commented.Admin)
	require.Equal(t, minimal.Telemetry, commented.Telemetry)
	require.Equal(t, "127.0.0.1:6379", commented.Redis.Addr)
	commented.Redis.Addr = ""
	require.Equal(t, minimal.Redis, commented.Redis)
	want, got := minimal.Upstreams["app"], commented.Upstreams["app"]
	require.Equal(t, want.ConnectTimeout, got.ConnectTimeout)
	require.Equal(t, want.ResponseTimeout, got.ResponseTimeout)
	require.Equal(t, want.Health.Interval, got.Health.Interval)
	require.Equal(t, want.Health.Timeout, got.Health.Timeout)
	require.Equal(t, []Host{
		{Addr: "127.0.0.1:9001"},
		{Addr: "127.0.0.1:9002", Weight: 2},
		{Addr: "127.0.0.1:9003", Priority: 1},
		{Addr: "127.0.0.1:9004", Weight: drained},
	}, got.Hosts)
	require.Equal(t, want.MaxConns, got.MaxConns)
	require.Equal(t, Duration(10*time.Second), commented.Routes[1].Timeout)
	require.EqualValues(t, off, commented.Routes[1].StallTimeout)
}

func TestBoundsByDefaultAndOff(t *testing.T) {
	cfg, err := parseConfig("f", []byte(minimalConfig))
	require.NoError(t, err)
	s := cfg.Server
	require.Equal(t,
		[]any{Bound(10000), Bound(10000), Timeout(time.Hour), Pace(240), Timeout(20 * time.Second)},
		[]any{s.MaxRequests, s.MaxTunnels, s.TunnelIdle, s.MinRate, s.StallTimeout})
	require.Equal(t, Bound(1024), cfg.Upstreams["app"].MaxConns)
	require.Equal(t, s.StallTimeout, cfg.Routes[0].StallTimeout)

	cfg, err = parseConfig("f", []byte(`
upstreams: {app: {hosts: ["a:1"], max_conns: off}}
routes: [{upstream: app}, {upstream: app, path: /x, stall_timeout: 5s}]
server: {max_requests: off, max_tunnels: off, tunnel_idle: off, min_rate: off, stall_timeout: off}
`))
	require.NoError(t, err)
	s = cfg.Server
	require.Equal(t, []any{Bound(off), Bound(off), Timeout(off), Pace(off), Timeout(off)},
		[]any{s.MaxRequests, s.MaxTunnels, s.TunnelIdle, s.MinRate, s.StallTimeout})
	require.Equal(t, Bound(off), cfg.Upstreams["app"].MaxConns)
	require.EqualValues(t, off, cfg.Routes[0].StallTimeout)
	require.Equal(t, Timeout(5*time.Second), cfg.Routes[1].StallTimeout)
}

func TestTrustedProxies(t *testing.T) {
	list := "server: {trusted_proxies: [10.1.2.3/8, unix, \"2001:db8::1\"]}"
	cfg, err := parseConfig("f", []byte(minimalConfig+list))
	require.NoError(t, err)
	require.Equal(t, trust{unix: true, proxies: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128"),
	}}, trustIn(cfg.Server.TrustedProxies))
	cfg, err = parseConfig("f", []byte(minimalConfig))
	require.NoError(t, err)
	require.Zero(t, trustIn(cfg.Server.TrustedProxies), "nobody is trusted by default")

	other, err := parseConfig("f", []byte(minimalConfig+"server: {trusted_proxies: [unix]}"))
	require.NoError(t, err)
	require.Equal(t, []string{"server.trusted_proxies"}, fixedChanges(cfg, other))
}

// keysOf adds the YAML keys of a type to keys, in the form "upstreams.*.health.path".
func keysOf(typ reflect.Type, path string, keys map[string]bool) {
	switch typ.Kind() {
	case reflect.Map:
		keysOf(typ.Elem(), path+".*", keys)
	case reflect.Slice, reflect.Pointer:
		keysOf(typ.Elem(), path, keys)
	case reflect.Struct:
		for f := range typ.Fields() {
			if tag := f.Tag.Get("yaml"); tag != "" {
				keys[strings.TrimPrefix(path+"."+tag, ".")] = true
				keysOf(f.Type, path+"."+tag, keys)
			}
		}
	}
}

func TestCommentedConfigurationHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("gateway.yaml")
	require.NoError(t, err)
	// The comment beside an empty list shows an entry.
	text = regexp.MustCompile(`(?m)^( *)(\w+): \[\] +# - (.*)$`).ReplaceAll(text, []byte("$1$2: [$3]"))
	var root yaml.Node
	require.NoError(t, yaml.Load(text, &root))
	shown := map[string]bool{}
	var walk func(n *yaml.Node, path string, names bool)
	walk = func(n *yaml.Node, path string, names bool) {
		switch n.Kind {
		case yaml.DocumentNode, yaml.SequenceNode:
			for _, c := range n.Content {
				walk(c, path, names)
			}
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				key := n.Content[i].Value
				if names {
					walk(n.Content[i+1], path+".*", false)
					continue
				}
				child := strings.TrimPrefix(path+"."+key, ".")
				shown[child] = true
				named := slices.Contains([]string{"upstreams", "limits", "objectives",
					"routes.headers.request.set", "routes.headers.response.set"}, child)
				walk(n.Content[i+1], child, named)
			}
		}
	}
	walk(&root, "", false)
	keys := map[string]bool{}
	keysOf(reflect.TypeFor[Config](), "", keys)
	require.Greater(t, len(keys), 60)
	require.Equal(t, keys, shown)
}

func TestConfigErrorsNameLineAndField(t *testing.T) {
	// Each text is appended to minimalConfig, whose last line is 5.
	tests := []struct{ name, text, want string }{
		{"unknown key", "sever: {listen: a}",
			"f:6: sever: unknown key: did you mean server? the keys here are admin, cache, limits, " +
				"objectives, redis, routes, server, telemetry, upstreams"},
		{"unknown key below", "server:\n  lisen: a",
			"f:7: server.lisen: unknown key: did you mean listen? the keys here are deadline_field, " +
				"drain_delay, drain_timeout, h2c, hint_field, idle_timeout, listen, max_body, " +
				"max_header_bytes, max_header_fields, max_requests, max_tunnels, min_rate, " +
				"read_header_timeout, stall_timeout, tls, trusted_proxies, tunnel_idle"},
		{"unknown key in a list", "    pth: /",
			"f:6: routes[0].pth: unknown key: did you mean path? the keys here are cache, concurrency, " +
				"headers, host, limits, max_body, methods, path, redirect, rollout, shadow, stall_timeout, " +
				"timeout, upstream, versions"},
		{"unknown key like no other", "    weather: fine",
			"f:6: routes[0].weather: unknown key: the keys here are cache, concurrency, headers, host, " +
				"limits, max_body, methods, path, redirect, rollout, shadow, stall_timeout, timeout, " +
				"upstream, versions"},
		{"faults of two kinds", "server: {idle_timeout: 5, max_body: -1KiB}\nlimits: {a: {rate: 5/s, by: x}}",
			"f:6: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `5`\n" +
				"f:6: server.max_body: must be positive\n" +
				"f:7: limits.a.by: \"x\" is not one of: address, header, all"},
		{"key twice", "routes: []",
			"f:6: routes: stands here twice, first in line 4"},
		{"number for a duration", "server: {idle_timeout: 5}",
			"f:6: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `5`"},
		{"word for a duration", "server:\n  idle_timeout: soon",
			"f:7: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `soon`"},
		{"list for a duration", "server: {idle_timeout: [1s]}",
			"f:6: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not a list"},
		{"negative duration", "server: {idle_timeout: -5s}",
			"f:6: server.idle_timeout: must be positive"},
		{"endless duration", "server: {idle_timeout: 10000h}",
			"f:6: server.idle_timeout: must be at most 24h0m0s"},
		{"zero for a bound", "server: {max_requests: 0}",
			"f:6: server.max_requests: must not be zero: for the default, leave it out"},
		{"negative bound", "server: {max_tunnels: -1}",
			"f:6: server.max_tunnels: must be positive, or off for no bound"},
		{"word for a bound", "server:\n  max_requests: many",
			"f:7: server.max_requests: must be a whole number or off, not `many`"},
		{"list for a bound", "server: {max_requests: [1]}",
			"f:6: server.max_requests: must be a whole number or off, not a list"},
		{"rate without a second", "server: {min_rate: 240B}",
			"f:6: server.min_rate: must be a rate such as 240B/s or 1KiB/s, or off, not `240B`"},
		{"zero for a rate", "server: {min_rate: 0B/s}",
			"f:6: server.min_rate: must not be zero: for the default, leave it out"},
		{"negative rate", "server: {min_rate: -1B/s}",
			"f:6: server.min_rate: must be positive, or off for no bound"},
		{"negative timeout", "server: {tunnel_idle: -1h}",
			"f:6: server.tunnel_idle: must be positive"},
		{"endless timeout", "server: {stall_timeout: 25h}",
			"f:6: server.stall_timeout: must be at most 24h0m0s"},
		{"zero for a timeout", "    stall_timeout: 0s",
			"f:6: routes[0].stall_timeout: must not be zero: for the default, leave it out"},
		{"negative body of a route", "    max_body: -1B",
			"f:6: routes[0].max_body: must be positive"},
		{"body of a route without unit", "    max_body: 100",
			"f:6: routes[0].max_body: must be a size such as 512B, 32KiB or 10MiB, not `100`"},
		{"zero for the body of a route", "    max_body: 0B",
			"f:6: routes[0].max_body: must not be zero: for the default, leave it out"},
		{"star in a path", "    path: /api/*",
			"f:6: routes[0].path: \"/api/*\" is only that path: write \"/api/\" for all paths below it"},
		{"size without unit", "server: {max_body: 100}",
			"f:6: server.max_body: must be a size such as 512B, 32KiB or 10MiB, not `100`"},
		{"size that overflows", "server: {max_body: 99999999999999GiB}",
			"f:6: server.max_body: must be a size such as 512B, 32KiB or 10MiB, not `99999999999999GiB`"},
		{"negative size", "server: {max_body: -1KiB}",
			"f:6: server.max_body: must be positive"},
		{"header beyond 32 bits", "server: {max_header_bytes: 4GiB}",
			"f:6: server.max_header_bytes: must be at most 1GiB"},
		{"word for a number", "server: {max_header_fields: many}",
			"f:6: server.max_header_fields: must be a whole number, not `many`"},
		{"negative number", "server: {max_header_fields: -1}",
			"f:6: server.max_header_fields: must be positive"},
		{"list for a mapping", "server: [1]",
			"f:6: server: must be a mapping, not a list"},
		{"string for a list", "    methods: GET",
			"f:6: routes[0].methods: must be a list, not `GET`: put brackets around it"},
		{"address without port", "server: {listen: localhost}",
			`f:6: server.listen: "localhost" is not an address such as 127.0.0.1:8080`},
		{"address with an empty port", "server: {listen: \"127.0.0.1:\"}",
			`f:6: server.listen: "127.0.0.1:" is not an address such as 127.0.0.1:8080`},
		{"address that is none", "server: {listen: \"a b:80\"}",
			`f:6: server.listen: "a b:80" is not an address such as 127.0.0.1:8080`},
		{"Redis with a password", "redis: {addr: \"redis://:secret@a:6379\"}",
			"f:6: redis.addr: what stands here is a URL and not an address: leave out redis://. A password " +
				"goes into the variable that password_env names"},
		{"public admin server", "admin: {listen: \":8081\"}",
			"f:6: admin.listen: must be a loopback address: the admin server has no authentication"},
		{"admin server on all addresses", "admin: {listen: \"0.0.0.0:8081\"}",
			"f:6: admin.listen: must be a loopback address: the admin server has no authentication"},
		{"unclean path", "    path: /a/../b",
			`f:6: routes[0].path: "/a/../b" is not a clean path that begins with a slash`},
		{"wildcard", "    path: /{id}",
			`f:6: routes[0].path: "/{id}" is not a clean path that begins with a slash`},
		{"host with port", "    host: a.test:80",
			`f:6: routes[0].host: "a.test:80" is not a host name without port and final dot, in ASCII`},
		{"host with final dot", "    host: a.test.",
			`f:6: routes[0].host: "a.test." is not a host name without port and final dot, in ASCII`},
		{"host with umlaut", "    host: ä.test",
			`f:6: routes[0].host: "ä.test" is not a host name without port and final dot, in ASCII`},
		{"host of two lines", "    host: \"a\\nb\"",
			`f:6: routes[0].host: "a\nb" is not a host name without port and final dot, in ASCII`},
		{"host of a star", "    host: \"*\"",
			`f:6: routes[0].host: "*" is not a host name without port and final dot, in ASCII: ` +
				"a star stands only for whole labels at the beginning, as in *.example.com. For all hosts " +
				"leave it out"},
		{"host with a star for a part", "    host: a*.test",
			`f:6: routes[0].host: "a*.test" is not a host name without port and final dot, in ASCII: ` +
				"a star stands only for whole labels at the beginning, as in *.example.com"},
		{"host with two stars", "    host: \"*.*.test\"",
			`f:6: routes[0].host: "*.*.test" is not a host name without port and final dot, in ASCII: ` +
				"a star stands only for whole labels at the beginning, as in *.example.com"},
		{"host with a port behind a star", "    host: \"*.test:80\"",
			`f:6: routes[0].host: "*.test:80" is not a host name without port and final dot, in ASCII`},
		{"same wildcard twice",
			"  - {upstream: app, host: \"*.a.test\"}\n  - {upstream: app, host: \"*.A.test\"}",
			"f:7: routes[2].path: routes[1] has this host, path and method, too"},
		{"path of two lines", "    path: \"/a\\nb\"",
			`f:6: routes[0].path: "/a\nb" is not a clean path that begins with a slash`},
		{"method with a comma", "    methods: [\"GET,PUT\"]",
			`f:6: routes[0].methods[0]: "GET,PUT" is not a method such as GET; CONNECT cannot be proxied`},
		{"method in lower case", "    methods: [GET, put]",
			`f:6: routes[0].methods[1]: "put" is not a method such as GET; CONNECT cannot be proxied`},
		{"CONNECT", "    methods: [CONNECT]",
			`f:6: routes[0].methods[0]: "CONNECT" is not a method such as GET; CONNECT cannot be proxied`},
		{"unknown upstream", "  - {upstream: ap, path: /a}",
			`f:6: routes[1].upstream: "ap" is not one of the upstreams: app`},
		{"route without upstream", "  - path: /a",
			`f:6: routes[1].upstream: "" is not one of the upstreams: app`},
		{"same route twice", "  - {upstream: app, path: /}",
			"f:6: routes[1].path: routes[0] has this host, path and method, too"},
		{"same method twice",
			"  - {upstream: app, path: /a, methods: [GET]}\n" +
				"  - {upstream: app, path: /a, methods: [PUT, GET]}",
			"f:7: routes[2].path: routes[1] has this host, path and method, too"},
		{"no network", "server: {trusted_proxies: [10.0.0.0/8, 10.0.0.0/99]}",
			"f:6: server.trusted_proxies[1]: must be a network such as 10.0.0.0/8, an address or unix, " +
				"not `10.0.0.0/99`"},
		{"a proxy by name", "server: {trusted_proxies: [unix, Unix, proxy.test]}",
			"f:6: server.trusted_proxies[1]: must be a network such as 10.0.0.0/8, an address or unix, " +
				"not `Unix`\n" +
				"f:6: server.trusted_proxies[2]: must be a network such as 10.0.0.0/8, an address or unix, " +
				"not `proxy.test`"},
		{"a list of proxies in the list", "server: {trusted_proxies: [[unix]]}",
			"f:6: server.trusted_proxies[0]: must be a network such as 10.0.0.0/8, an address or unix, " +
				"not a list"},
		{"certificate without key", "server: {tls: {certificates: [{cert: a.pem}]}}",
			"f:6: server.tls.certificates[0]: needs both cert and key"},
		{"HTTP/2 in clear with certificates", "server: {h2c: true, tls: {certificates: [{cert: a, key: b}]}}",
			"f:6: server.h2c: is HTTP/2 in clear, but there are certificates, with which HTTP/2 needs no " +
				"setting"},
		{"a number for h2c", "server: {h2c: 1}",
			"f:6: server.h2c: must be true or false, not `1`"},
		{"old TLS", "server: {tls: {min_version: \"1.1\"}}",
			`f:6: server.tls.min_version: "1.1" is neither "1.2" nor "1.3"`},
		{"unknown limit", "    limits: [a]",
			`f:6: routes[0].limits[0]: "a" is not one of the limits: there are none`},
		{"same limit twice", "    limits: [a, a]\nlimits: {a: {rate: 1/s, by: all}}",
			`f:6: routes[0].limits[1]: "a" stands here twice`},
		{"limits in two stores",
			"    limits: [a, b]\nredis: {addr: a}\n" +
				"limits: {a: {rate: 1/s, by: all}, b: {rate: 1/s, by: all, store: redis}}",
			`f:6: routes[0].limits[1]: "b" counts in redis, but "a" in memory: ` +
				"those of one route are decided together, so in one store"},
		{"negative concurrency", "    concurrency: -1",
			"f:6: routes[0].concurrency: must be positive"},
		{"Redis without address", "redis: {tls: true}",
			"f:6: redis.addr: is required"},
		{"objective without a target", "objectives: {a: {}}",
			"f:6: objectives.a.availability: there is no objective"},
		{"objective of no route", "objectives: {a: {availability: 0.9, routes: [/b]}}",
			`f:6: objectives.a.routes[0]: "/b" is not host and path of a route: /`},
		{"objective beyond reach", "objectives: {a: {availability: 1}}",
			"f:6: objectives.a.availability: 1 is not between 0.5 and 1"},
		{"half a latency objective", "objectives: {a: {latency: 1s}}",
			"f:6: objectives.a.latency: Latency and LatencyTarget need each other"},
		{"objective with a bad name", "objectives: {a b: {availability: 0.9}}",
			`f:6: objectives.a b: "a b" is not a letter followed by letters, digits, '-' and '_'`},
		{"unknown output", "telemetry: {access_log: {output: syslog}}",
			`f:6: telemetry.access_log.output: "syslog" is not one of: stdout, stderr, none`},
		{"credentials in the log", "telemetry: {access_log: {request_headers: [Authorization]}}",
			"f:6: telemetry.access_log.request_headers: Authorization holds credentials"},
		{"collector without scheme", "telemetry: {otlp: {endpoint: \"a:4318\"}}",
			"f:6: telemetry.otlp.endpoint: is not a URL such as http://127.0.0.1:4318"},
		{"share beyond the whole", "telemetry: {otlp: {sample: 2}}",
			"f:6: telemetry.otlp.sample: must be a share such as 0.25, more than 0 and at most 1, not `2`"},
		{"mapping without a value", "server:",
			"f:6: server: has no value: without one, leave it out"},
		{"duration without a value", "server: {idle_timeout: }",
			"f:6: server.idle_timeout: has no value: without one, leave it out"},
		{"a window that Redis cannot count",
			"redis: {addr: a}\nlimits:\n  x:\n    by: all\n    store: redis\n    rate: 10/1.0000001s",
			"f:11: limits.x.rate: 1.0000001s is not in whole microseconds, which is what Redis counts"},
		{"limit without a value", "    limits: [~]",
			"f:6: routes[0].limits[0]: has no value: without one, leave it out"},
		{"route without a value", "  - ",
			"f:6: routes[1]: has no value: without one, leave it out"},
		{"network without a value", "server: {trusted_proxies: [null]}",
			"f:6: server.trusted_proxies[0]: has no value: without one, leave it out"},
		{"empty key", "~: 2",
			"f:1: : has an empty key"},
		{"zero duration", "server: {drain_delay: 0s}",
			"f:6: server.drain_delay: must not be zero: for the default, leave it out"},
		{"zero size", "server: {max_body: 0KiB}",
			"f:6: server.max_body: must not be zero: for the default, leave it out"},
		{"zero number", "server: {max_header_fields: 0}",
			"f:6: server.max_header_fields: must not be zero: for the default, leave it out"},
		{"control character", "a: \x00",
			"f:6: has bytes that are not text in UTF-8"},
		{"not UTF-8", "a:\n  b: \xff",
			"f:7: has bytes that are not text in UTF-8"},
		{"several at once, in the order of the file", "    path: a\nserver:\n  max_body: -1B\n  listen: x",
			`f:6: routes[0].path: "a" is not a clean path that begins with a slash` + "\n" +
				"f:8: server.max_body: must be positive" + "\n" +
				`f:9: server.listen: "x" is not an address such as 127.0.0.1:8080`},
		{"syntax", "a: [",
			"f:7: did not find expected node content"},
		{"tab", "a:\n\tb: 1",
			"f:7: found character that cannot start any token: indent with spaces and not with tabs, and " +
				"put what begins with @, % or ` in quotes"},
		{"two documents", "---\na: 1",
			"f: expected single document, found multiple: leave out the line ---"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig("f", []byte(minimalConfig+tt.text))
			var bad *ConfigError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, strings.Split(tt.want, "\n"), bad.Lines)
		})
	}
}

func TestFaultyFilesCostLittleMemory(t *testing.T) {
	many := func(n int, line string) string { return strings.Repeat(line+"\n", n) }
	var names strings.Builder
	for i := range 2_000 {
		fmt.Fprintf(&names, "  upstream-%d: {hosts: [a]}\n", i)
	}
	for name, tt := range map[string]struct{ text, want string }{
		// Each of these once took gigabytes.
		"nesting": {
			"server: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
			"f:1: server: must be a mapping, not a list",
		},
		"long key": {
			"? " + strings.Repeat("k", 20_000) + "\n: [" + strings.Repeat("1,", 20_000) + "]",
			"unknown key",
		},
		"wrong names": {
			"upstreams:\n" + names.String() + "routes:\n" + many(20_000, "  - upstream: x"),
			`"x" is not one of the upstreams: there are 2000`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := parseConfig("f", []byte(tt.text))
			runtime.ReadMemStats(&after)
			require.ErrorContains(t, err, tt.want)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(200<<20))
		})
	}
}

func TestLimitErrorsNameLineAndField(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{by: all}",
			`rate: is required, such as 100/s`},
		{"{rate: 100, by: all}",
			"rate: must be a rate such as 100/s, 1000/h or 5/10s, not `100`"},
		{"{rate: 0/s, by: all}",
			"rate: must be a rate such as 100/s, 1000/h or 5/10s, not `0/s`"},
		{"{rate: 1/fortnight, by: all}",
			"rate: must be a rate such as 100/s, 1000/h or 5/10s, not `1/fortnight`"},
		{"{rate: 1/9999h, by: all}",
			`rate: 9999h0m0s is not between 1ms and 8784h0m0s`},
		{"{rate: 1/d, by: all, burst: -1}",
			`burst: -1 is negative`},
		{"{rate: 1/d, by: all, burst: 9999}",
			`burst: 9999 takes longer than 35136h0m0s to earn`},
		{"{rate: 1/s, by: all, sliding: true, burst: 2}",
			`burst: has no meaning for a sliding window`},
		{"{rate: 1/s}",
			`by: "" is not one of: address, header, all`},
		{"{rate: 1/s, by: user}",
			`by: "user" is not one of: address, header, all`},
		{"{rate: 1/s, by: header, missing: skip}",
			`header: "" is not a header field such as X-Api-Key`},
		{"{rate: 1/s, by: header, header: a b, missing: skip}",
			`header: "a b" is not a header field such as X-Api-Key`},
		{"{rate: 1/s, by: header, header: A}",
			`missing: "" is not one of: reject, skip, shared`},
		{"{rate: 1/s, by: all, header: A}",
			`header: has a meaning only with by: header`},
		{"{rate: 1/s, by: all, missing: skip}",
			`missing: has a meaning only with by: header`},
		{"{rate: 1/s, by: all, store: disk}",
			`store: "disk" is not one of: redis, memory`},
		{"{rate: 1/s, by: all, on_error: open}",
			`on_error: has a meaning only with store: redis`},
		{"{rate: 1/s, by: all, store: redis, on_error: ignore}",
			`on_error: "ignore" is not one of: open, closed, local`},
		{"{rate: 1/s, by: all, store: redis, on_error: open, share: 0.5}",
			`share: has a meaning only with on_error: local`},
		{"{rate: 1/s, by: all, store: redis, share: 1.5}",
			"share: must be a share such as 0.25, more than 0 and at most 1, not `1.5`"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			_, err := parseConfig("f", []byte("limits: {l: "+tt.text+"}\nredis: {addr: a}"+minimalConfig))
			require.EqualError(t, err, "f:1: limits.l."+tt.want)
		})
	}
	_, err := parseConfig("f", []byte("limits: {l: {rate: 1/s, by: all, store: redis}}"+minimalConfig))
	require.EqualError(t, err, "f:1: limits.l.store: there is no redis.addr")
}

func TestEmptyAndHugeFilesAreErrors(t *testing.T) {
	_, err := parseConfig("f", nil)
	require.EqualError(t, err, "f: no documents in stream: there is nothing in the file")
	_, err = parseConfig("f", []byte("{}"))
	require.EqualError(t, err,
		"f:1: routes: at least one is required\nf:1: upstreams: at least one is required")

	file := filepath.Join(t.TempDir(), "huge.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("# a comment\n", 100_000)), 0o600))
	_, err = loadConfig(file, nil)
	require.ErrorContains(t, err, "larger than 1 MiB")

	// A pipe has no size that could be checked before it is read.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	var writer sync.WaitGroup
	writer.Go(func() {
		_, _ = w.WriteString(strings.Repeat("# a comment\n", 100_000))
		_ = w.Close()
	})
	defer writer.Wait()
	_, err = loadConfig(fmt.Sprintf("/dev/fd/%d", r.Fd()), nil)
	require.ErrorContains(t, err, "larger than 1 MiB")
	_, err = io.Copy(io.Discard, r)
	require.NoError(t, err)

	_, err = loadConfig(file+".none", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzParseConfig(f *testing.F) {
	commented, err := os.ReadFile("gateway.yaml")
	require.NoError(f, err)
	f.Add(commented)
	f.Add([]byte(minimalConfig))
	f.Add([]byte("a: &a [*a]\nroutes: *a"))
	f.Add([]byte("server: {listen: \"[::1]:0\", max_body: 1B}\nroutes: [{}, 1, [a]]\n" +
		"upstreams: {a: {hosts: [{addr: 1}]}, \"\": }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := parseConfig("f", text)
		if err != nil {
			var bad *ConfigError
			require.ErrorAs(t, err, &bad)
			require.NotEmpty(t, bad.Lines)
			return
		}
		// An accepted configuration stays the same when completed again, and can be made live.
		again, faults := cfg.withDefaults()
		require.Empty(t, faults)
		require.Equal(t, cfg, again)
		for _, u := range cfg.Upstreams {
			if u.TLS != (UpstreamTLS{}) || u.Sticky != nil && u.Sticky.SecretEnv != "" {
				return
			}
		}
		if cfg.Server.TLS.on() || cfg.Redis.PasswordEnv != "" || cfg.Telemetry.OTLP.Endpoint != "" {
			return // depends on files, the environment or the network
		}
		g, err := newGateway(cfg, discardLog, io.Discard, io.Discard)
		require.NoError(t, err)
		g.close(t.Context())
	})
}
