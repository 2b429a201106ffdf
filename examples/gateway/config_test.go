package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const minimalConfig = `
upstreams:
  app: {hosts: ["127.0.0.1:9001"]}
routes:
  - upstream: app
`

func TestCommentedConfigurationIsGoodAndShowsTheDefaults(t *testing.T) {
	commented, err := loadConfig("gateway.yaml")
	require.NoError(t, err)
	minimal, err := parseConfig("minimal", []byte(minimalConfig))
	require.NoError(t, err)
	require.Equal(t, minimal.Server, commented.Server)
	require.Equal(t, minimal.Admin, commented.Admin)
	require.Equal(t, minimal.Upstreams["app"].ConnectTimeout, commented.Upstreams["app"].ConnectTimeout)
	require.Equal(t, minimal.Upstreams["app"].ResponseTimeout, commented.Upstreams["app"].ResponseTimeout)
	require.Equal(t, minimal.Upstreams["app"].Health.Interval, commented.Upstreams["app"].Health.Interval)
	require.Equal(t, minimal.Upstreams["app"].Health.Timeout, commented.Upstreams["app"].Health.Timeout)
	require.Equal(t, []Host{{Addr: "127.0.0.1:9001"}, {Addr: "127.0.0.1:9002", Weight: 2}, {Addr: "127.0.0.1:9003", Priority: 1}},
		commented.Upstreams["app"].Hosts)
	require.Equal(t, Duration(10*time.Second), commented.Routes[1].Timeout)
}

func TestConfigErrorsNameLineAndField(t *testing.T) {
	// Each text is appended to minimalConfig, whose last line is 5.
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "sever: {listen: a}", []string{"f:6: sever: unknown key"}},
		{"unknown key below", "server:\n  lisen: a", []string{"f:7: server.lisen: unknown key"}},
		{"unknown key in a list", "    pth: /", []string{"f:6: routes[0].pth: unknown key"}},
		{"key twice", "routes: []", []string{"f:6: routes: stands here twice, first in line 4"}},
		{"number for a duration", "server: {idle_timeout: 5}", []string{"f:6: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `5`"}},
		{"word for a duration", "server:\n  idle_timeout: soon", []string{"f:7: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `soon`"}},
		{"list for a duration", "server: {idle_timeout: [1s]}", []string{"f:6: server.idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not a list"}},
		{"negative duration", "server: {idle_timeout: -5s}", []string{"f:6: server.idle_timeout: must be positive"}},
		{"endless duration", "server: {idle_timeout: 10000h}", []string{"f:6: server.idle_timeout: must be at most 24h0m0s"}},
		{"size without unit", "server: {max_body: 100}", []string{"f:6: server.max_body: must be a size such as 512B, 32KiB or 10MiB, not `100`"}},
		{"size that overflows", "server: {max_body: 99999999999999GiB}", []string{"f:6: server.max_body: must be a size such as 512B, 32KiB or 10MiB, not `99999999999999GiB`"}},
		{"negative size", "server: {max_body: -1KiB}", []string{"f:6: server.max_body: must be positive"}},
		{"word for a number", "server: {max_header_fields: many}", []string{"f:6: server.max_header_fields: must be a whole number, not `many`"}},
		{"negative number", "server: {max_header_fields: -1}", []string{"f:6: server.max_header_fields: must be positive"}},
		{"list for a mapping", "server: [1]", []string{"f:6: server: must be a mapping, not a list"}},
		{"string for a list", "    methods: GET", []string{"f:6: routes[0].methods: must be a list, not `GET`"}},
		{"address without port", "server: {listen: localhost}", []string{`f:6: server.listen: "localhost" is not an address such as 127.0.0.1:8080`}},
		{"public admin server", "admin: {listen: \":8081\"}", []string{"f:6: admin.listen: must be a loopback address: the admin server has no authentication"}},
		{"admin server on all addresses", "admin: {listen: \"0.0.0.0:8081\"}", []string{"f:6: admin.listen: must be a loopback address: the admin server has no authentication"}},
		{"unclean path", "    path: /a/../b", []string{`f:6: routes[0].path: "/a/../b" is not a clean path that begins with a slash`}},
		{"wildcard", "    path: /{id}", []string{`f:6: routes[0].path: "/{id}" is not a clean path that begins with a slash`}},
		{"host with port", "    host: a.test:80", []string{`f:6: routes[0].host: "a.test:80" is not a host name without port`}},
		{"method in lower case", "    methods: [GET, put]", []string{`f:6: routes[0].methods[1]: "put" is not a method such as GET; CONNECT cannot be proxied`}},
		{"CONNECT", "    methods: [CONNECT]", []string{`f:6: routes[0].methods[0]: "CONNECT" is not a method such as GET; CONNECT cannot be proxied`}},
		{"unknown upstream", "  - {upstream: ap, path: /a}", []string{`f:6: routes[1].upstream: "ap" is not one of the upstreams: app`}},
		{"route without upstream", "  - path: /a", []string{`f:6: routes[1].upstream: "" is not one of the upstreams: app`}},
		{"same route twice", "  - {upstream: app, path: /}", []string{"f:6: routes[1].path: another route has this host, path and method"}},
		{"same method twice", "  - {upstream: app, path: /a, methods: [GET]}\n  - {upstream: app, path: /a, methods: [PUT, GET]}",
			[]string{"f:7: routes[2].path: another route has this host, path and method"}},
		{"several at once, in the order of the file", "    path: a\nserver:\n  max_body: -1B\n  listen: x",
			[]string{
				`f:6: routes[0].path: "a" is not a clean path that begins with a slash`,
				"f:8: server.max_body: must be positive",
				`f:9: server.listen: "x" is not an address such as 127.0.0.1:8080`,
			}},
		{"syntax", "a: [", []string{"f:7: did not find expected node content"}},
		{"tab", "a:\n\tb: 1", []string{"f:7: found character that cannot start any token"}},
		{"two documents", "---\na: 1", []string{"f: expected single document, found multiple"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig("f", []byte(minimalConfig+tt.text))
			var bad *ConfigError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, tt.want, bad.Lines)
		})
	}
}

func TestUpstreamErrorsNameLineAndField(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                                 `f:1: upstreams.u: either url or hosts is required`,
		"{url: users.internal}":              `f:1: upstreams.u.url: "users.internal" is not a URL such as http://users.internal:8080`,
		"{url: \"ftp://a\"}":                 `f:1: upstreams.u.url: "ftp://a" is not a URL such as http://users.internal:8080`,
		"{url: \"http://a/path\"}":           `f:1: upstreams.u.url: must have no more than scheme, host and port`,
		"{url: \"http://me:secret@a\"}":      `f:1: upstreams.u.url: must have no more than scheme, host and port`,
		"{url: \"https://a\", h2c: true}":    `f:1: upstreams.u.h2c: is HTTP/2 in clear, but the url says https, where HTTP/2 needs no setting`,
		"{hosts: [\"a:b:c\"]}":               `f:1: upstreams.u.hosts[0]: "a:b:c" is not an address such as 10.0.0.1:8080`,
		"{hosts: [a, \"\"]}":                 `f:1: upstreams.u.hosts[1]: "" is not an address such as 10.0.0.1:8080`,
		"{hosts: [a, b, a]}":                 `f:1: upstreams.u.hosts[2]: "a" stands here twice`,
		"{hosts: [{adr: a}]}":                `f:1: upstreams.u.hosts[0].adr: unknown key`,
		"{hosts: [{addr: a, priority: -1}]}": "f:1: upstreams.u.hosts[0].priority: must be a whole number from 0, not `-1`",
		"{hosts: [a], health: {path: x}}":    `f:1: upstreams.u.health.path: must begin with a slash`,
		"{hosts: [a], health: {fall: -1}}":   `f:1: upstreams.u.health.fall: must be positive`,
	} {
		t.Run(text, func(t *testing.T) {
			_, err := parseConfig("f", []byte("upstreams: {u: "+text+"}\nroutes: [{upstream: u}]"))
			require.EqualError(t, err, want)
		})
	}
}

func TestEmptyAndHugeFilesAreErrors(t *testing.T) {
	_, err := parseConfig("f", nil)
	require.EqualError(t, err, "f: no documents in stream")
	_, err = parseConfig("f", []byte("{}"))
	require.EqualError(t, err, "f:1: routes: at least one is required\nf:1: upstreams: at least one is required")

	file := filepath.Join(t.TempDir(), "huge.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("# a comment\n", 100_000)), 0o600))
	_, err = loadConfig(file)
	require.ErrorContains(t, err, "larger than 1 MiB")
	_, err = loadConfig(file + ".none")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzParseConfig(f *testing.F) {
	commented, err := os.ReadFile("gateway.yaml")
	require.NoError(f, err)
	f.Add(commented)
	f.Add([]byte(minimalConfig))
	f.Add([]byte("a: &a [*a]\nroutes: *a"))
	f.Add([]byte("server: {listen: \"[::1]:0\", max_body: 1B}\nroutes: [{}, 1, [a]]\nupstreams: {a: {hosts: [{addr: 1}]}, \"\": }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := parseConfig("f", text)
		if err != nil {
			var bad *ConfigError
			require.ErrorAs(t, err, &bad)
			require.NotEmpty(t, bad.Lines)
			return
		}
		// What is accepted can be made live, and its completion is stable.
		again, faults := cfg.withDefaults()
		require.Empty(t, faults)
		require.Equal(t, cfg, again)
		if cfg.Server.TLS.on() || cfg.Redis.PasswordEnv != "" || cfg.Telemetry.OTLP.Endpoint != "" {
			return // depends on files, the environment, the network
		}
		g, err := newGateway(cfg, discardLog, io.Discard, io.Discard)
		require.NoError(t, err)
		g.close(t.Context())
	})
}
