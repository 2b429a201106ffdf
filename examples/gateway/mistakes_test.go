package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What people get wrong on their first evening, and what -check says of it.
func TestMistakesOfTheFirstEvening(t *testing.T) {
	t.Setenv("SHORT", "123")
	dir := t.TempDir()
	const top = "upstreams:\n  app:\n    hosts: [\"10.0.0.1:80\"]\n"
	const text = top + "routes:\n  - path: /\n    upstream: app\n"
	hosts := func(now string) string { return strings.Replace(text, `["10.0.0.1:80"]`, now, 1) }
	upstream := func(line string) string {
		return strings.Replace(text, "    hosts", "    "+line+"\n    hosts", 1)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"indented too far", strings.Replace(text, "    hosts", "    url: http://a\n     hosts", 1),
			"4: mapping values are not allowed in this context: is the line indented as its neighbours " +
				"are, and the value in quotes if it has a colon?"},
		{"indented not far enough", upstream("url: http://a\n   wait: 3s"),
			"4: did not find expected key: is this line, or the one before it, indented too far or not far " +
				"enough?"},
		{"not indented", strings.Replace(text, "  app:\n    hosts", "app:\n  hosts", 1),
			"2: app: unknown key: if it belongs to upstreams, indent it: the keys here are admin, "},
		{"tabs", "upstreams:\n\tapp:\n\t\thosts: [a]\n",
			"2: found character that cannot start any token: indent with spaces and not with tabs, "},
		{"a blank that is none", strings.Replace(text, "    upstream", "\u00a0\u00a0 upstream", 1),
			": unknown key: it has a character that only looks like a space: the keys here are "},
		{"star without quotes", text + "    host: *.example.com\n",
			"7: unknown anchor '.example.com' referenced: put what begins with a star in quotes"},
		{"star in a list", text + "    methods: [GET, *]\n",
			"7: did not find expected alphabetic or numeric character: put what begins with * or & in " +
				"quotes"},
		{"open quote", strings.Replace(text, "upstream: app", `upstream: "app`, 1),
			"7: found unexpected end of stream: a quote is not closed"},
		{"nothing", "# later\n", " no documents in stream: there is nothing in the file"},
		{"two documents", text + "---\n" + text,
			" expected single document, found multiple: leave out the line ---"},
		{"port for a host", hosts("[9001]"),
			`3: upstreams.app.hosts[0]: "9001" is a port without a host: write it as in 10.0.0.1:9001`},
		{"port alone", hosts(`[":9001"]`),
			`3: upstreams.app.hosts[0]: ":9001" is a port without a host: write it as in 10.0.0.1:9001`},
		{"port to listen on", text + "server: {listen: 8080}\n",
			`7: server.listen: "8080" is a port without a host: write it as in 127.0.0.1:8080`},
		{"blank before a port", hosts(`["10.0.0.1: 80"]`),
			`3: upstreams.app.hosts[0]: "10.0.0.1: 80" is not an address such as 10.0.0.1:8080`},
		{"no address", hosts("[10.0.0.256]"),
			`3: upstreams.app.hosts[0]: "10.0.0.256" is not an address such as 10.0.0.1:8080`},
		{"path in a host", hosts("[a.test/v1]"),
			`3: upstreams.app.hosts[0]: "a.test/v1" is not an address such as 10.0.0.1:8080: leave out ` +
				"the path"},
		{"URL in a host", hosts(`["https://a.test/v1?key=secret"]`),
			`3: upstreams.app.hosts[0]: "https://a.test/v1?…" is a URL and not an address: leave out ` +
				"https:// and the path"},
		{"host in two parts", hosts("[addr: a.test, weight: 2]"),
			`3: upstreams.app.hosts[1]: "" is not an address such as 10.0.0.1:8080: a host needs an addr`},
		{"URL in a route's host", text + "    host: http://a.test\n",
			`7: routes[0].host: "http://a.test" is a URL and not a host name: leave out http://`},
		{"URL in an upstream's host", upstream("host: https://a.test"),
			`3: upstreams.app.host: "https://a.test" is a URL and not a host: leave out https://`},
		{"URL of Redis", text + "redis: {addr: \"redis://a:6379/0\"}\n",
			`7: redis.addr: "redis://a:6379/0" is a URL and not an address: leave out redis:// and the path`},
		{"star for all hosts", text + "    host: \"*\"\n",
			"as in *.example.com. For all hosts leave it out"},
		{"path in a url", upstream("url: http://a.test/v1"),
			"3: upstreams.app.url: must have no more than scheme, host and port: the key path takes a path"},
		{"key of an upstream", text + "    strip_prefix: /a\n",
			"7: routes[0].strip_prefix: unknown key: it is a key of each of the upstreams: the "},
		{"key of two sections", upstream("timeout: 3s"),
			"3: upstreams.app.timeout: unknown key: it is a key of redis and each of the routes: "},
		{"key of the file", text + "server:\n  upstreams: {}\n",
			"8: server.upstreams: unknown key: it is a key of the file itself, not indented: the "},
		{"name twice", strings.Replace(text, "routes:", "  app:\n    hosts: [b]\nroutes:", 1),
			"4: upstreams.app: stands here twice, first in line 2\n"},
		{"word for a list", text + "    methods: GET\n",
			"7: routes[0].methods: must be a list, not `GET`: put brackets around it"},
		{"word for a mapping", upstream("sticky: true"),
			"3: upstreams.app.sticky: must be a mapping, not `true`: write {} for its defaults"},
		{"mapping for a list", strings.Replace(text, "  - path: /\n    upstream", "  /:\n    upstream", 1),
			"5: routes: must be a list, not a mapping"},
		{"URL that is a mapping", upstream("url:\n      http: a"),
			"4: upstreams.app.url: must be a string, not a mapping"},
		{"all methods", text + "    methods: [any]\n",
			`7: routes[0].methods[0]: "any" is not a method: for all methods leave the key methods out`},
		{"one address for two", text + "admin: {listen: \"127.0.0.1:8080\"}\n",
			"7: admin.listen: server.listen has the same address"},
		{"metrics on it, too", text + "admin: {metrics: {listen: \":8081\", paths: [/metrics]}}\n",
			"7: admin.metrics.listen: admin.listen has the same address"},
		{"no such certificate", text + "server:\n  tls:\n    certificates:\n" +
			"      - {cert: no.pem, key: no.key}\n",
			"10: server.tls.certificates[0]: open " + filepath.Join(dir, "no.pem") +
				": no such file or directory"},
		{"no such authority", upstream("url: https://a\n    wait: 1s\n    tls:\n      ca: no.pem"),
			"4: upstreams.app.wait: needs health.path: nothing else says that a host is back\n" +
				"FILE:6: upstreams.app.tls.ca: open " + filepath.Join(dir, "no.pem") +
				": no such file or directory\n"},
		{"not a certificate", upstream("url: https://a\n    tls: {ca: g.yaml}"),
			"4: upstreams.app.tls.ca: " + filepath.Join(dir, "g.yaml") + " has no certificate"},
		{"no such variables", upstream("sticky: {secret_env: NO_SUCH_A}") +
			"admin: {token_env: NO_SUCH_B}\nredis: {addr: a, password_env: NO_SUCH_C}\n",
			"3: upstreams.app.sticky.secret_env: the environment has no NO_SUCH_A\n" +
				"FILE:8: admin.token_env: the environment has no NO_SUCH_B\n" +
				"FILE:9: redis.password_env: the environment has no NO_SUCH_C\n"},
		{"variable with too little", text + "admin: {token_env: SHORT}\n",
			"7: admin.token_env: SHORT must have 16 characters or more"},
		{"secret in a redirect", strings.Replace(text, "upstream: app",
			`redirect: {to: "https://a.test/ b?token=secret"}`, 1),
			`6: routes[0].redirect.to: "https://a.test/ b?…" is neither a URL such as `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, "g.yaml")
			require.NoError(t, os.WriteFile(file, []byte(tt.text), 0o600))
			_, err := loadConfig(file, Config.outside)
			require.Error(t, err)
			out := describe(err) + "\n"
			want := strings.ReplaceAll(tt.want, "FILE", file)
			if tt.want[0] != ':' && tt.want[0] != 'a' { // the whole line is known
				require.True(t, strings.HasPrefix(out, file+":"+want), out)
			}
			require.Contains(t, out, want)
			if strings.HasSuffix(want, "\n") { // there is no other fault
				require.Equal(t, file+":"+want, out)
			}
			require.NotContains(t, out, "key=secret")
			require.NotContains(t, out, "token=secret")
		})
	}
}

// What looks like a mistake and is none.
func TestConfigurationsThatAreGood(t *testing.T) {
	for name, text := range map[string]string{
		"lines of Windows": strings.ReplaceAll(simple("", "127.0.0.1:1"), "\n", "\r\n"),
		"byte order mark":  "\ufeff" + simple("", "127.0.0.1:1"),
		"anchors": "upstreams:\n  a: &a {hosts: [b]}\n  c:\n    <<: *a\n" +
			"routes: [{upstream: a}, {upstream: c, path: /c}]",
		"JSON": `{"upstreams": {"a": {"hosts": ["b:1"]}}, "routes": [{"upstream": "a"}]}`,
		"a form that leads to itself": "upstreams: {a: {hosts: [b]}}\nroutes:\n" +
			"  - {path: /form, methods: [POST], redirect: {to: /form, status: 303}}\n" +
			"  - {path: /form, upstream: a}",
		"a form beside what is got": "upstreams: {a: {hosts: [b]}}\nroutes:\n" +
			"  - {path: /form, redirect: {to: /form, status: 302}}\n" +
			"  - {path: /form, methods: [GET], upstream: a}",
	} {
		_, err := parseConfig("f", []byte(text))
		require.NoError(t, err, name)
	}
	for _, route := range []string{
		"{path: /form, methods: [POST], redirect: {to: /form, status: 307}}",
		"{path: /form, methods: [POST, GET], redirect: {to: /form, status: 303}}",
		"{path: /form, redirect: {to: /form, status: 303}}",
	} {
		_, err := parseConfig("f", []byte("upstreams: {a: {hosts: [b]}}\nroutes:\n  - "+route+
			"\n  - {path: /form, methods: [PUT], upstream: a}"))
		require.ErrorContains(t, err, "leads back to this route", route)
	}
}

// On which addresses two servers of one machine can listen.
func TestAddressesThatClash(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"127.0.0.1:80", ":80", true},
		{"127.0.0.1:80", "0.0.0.0:80", true},
		{"127.0.0.1:80", "[::]:80", true},
		{"[::1]:80", "[::]:80", true},
		{"[::1]:80", "0.0.0.0:80", false},
		{"[::1]:80", "127.0.0.1:80", false},
		{"0.0.0.0:80", "[::]:80", true},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{"", ":80", false},
		{"unix:/run/a", "unix:/run/a", true},
		{"unix:/run/a", ":80", false},
	} {
		require.Equal(t, tt.want, clash(tt.a, tt.b), tt)
		require.Equal(t, tt.want, clash(tt.b, tt.a), tt)
	}
}

// Each hint of the demo is a line that a shell takes as it is.
func TestHintsOfTheDemoAreLines(t *testing.T) {
	var out strings.Builder
	demoHints(&out, "127.0.0.1:1", "127.0.0.1:2")
	for line := range strings.Lines(out.String()) {
		require.Zero(t, strings.Count(line, "'")%2, line)
	}
	require.Contains(t, out.String(), `-w '%{http_code}\n' http://127.0.0.1:1/limited/; done`)
}

// Rules need neither certificates nor secrets of the machine on which they are written.
func TestRulesWithoutFiles(t *testing.T) {
	path, err := binary()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "g.yaml")
	require.NoError(t, os.WriteFile(file, []byte("objectives: {all: {availability: 0.99}}\n"+
		"server: {tls: {certificates: [{cert: no.pem, key: no.key}]}}\nadmin: {token_env: NO_SUCH_B}\n"+
		"upstreams: {a: {hosts: [b]}}\nroutes: [{upstream: a}]\n"), 0o600))
	out, err := exec.Command(path, "-rules", "-config", file).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "groups:")
}
