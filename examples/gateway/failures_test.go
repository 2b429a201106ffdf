package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestFailuresAreToldOnceAHostAndInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &failureLog{log: slog.New(slog.NewTextHandler(&out, nil)), upstream: "app"}
		failed := func(addr string) {
			l.observe(t.Context(), balancer.Event{
				Kind: balancer.Attempted, Endpoint: balancer.Endpoint{Addr: addr},
				Outcome: balancer.Failure, Err: errors.New("connection refused"),
			})
		}
		for range 100 {
			failed("10.0.0.1:80")
			failed("10.0.0.2:80")
		}
		require.Equal(t, 2, strings.Count(out.String(), "connection refused"))
		require.Contains(t, out.String(),
			"level=WARN msg=balancer upstream=app event=attempt outcome=failure")
		time.Sleep(failureInterval - time.Nanosecond)
		failed("10.0.0.1:80")
		require.Equal(t, 2, strings.Count(out.String(), "connection refused"))
		time.Sleep(time.Nanosecond)
		failed("10.0.0.1:80")
		require.Equal(t, 3, strings.Count(out.String(), "connection refused"))
		require.Len(t, l.said, 1)
	})
}

func TestLevelsOfWhatHappensToHosts(t *testing.T) {
	for level, events := range map[string][]balancer.Event{
		"level=WARN": {
			{Kind: balancer.EndpointChanged, State: balancer.Down},
			{Kind: balancer.EndpointChanged, State: balancer.Ejected},
			{Kind: balancer.TargetResolved, Err: errors.New("no such host")},
			{Kind: balancer.PanicChanged, Panicking: true},
		},
		"level=INFO": {
			{Kind: balancer.EndpointChanged, State: balancer.Healthy},
			{Kind: balancer.TargetResolved},
			{Kind: balancer.PanicChanged},
		},
		"": {
			{Kind: balancer.Attempted, Outcome: balancer.Success},
			{Kind: balancer.Attempted, Outcome: balancer.Failure}, // an answer, which the access log has
			{Kind: balancer.Attempted, Outcome: balancer.Canceled, Err: context.Canceled},
		},
	} {
		for _, e := range events {
			var out bytes.Buffer
			l := &failureLog{log: slog.New(slog.NewTextHandler(&out, nil))}
			l.observe(t.Context(), e)
			require.Contains(t, out.String(), level)
			require.Equal(t, level == "", out.Len() == 0)
		}
	}
}

// GET /upstreams says why requests to a host fail: here a host that speaks no TLS, and one that is
// not there.
func TestUpstreamsSayWhyTheyFail(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := ln.Addr().String()
	ln.Close()
	for addr, why := range map[string]string{
		plain.Listener.Addr().String(): "first record does not look like a TLS handshake",
		gone:                           "connection refused",
	} {
		g := start(t, "upstreams: {app: {url: \"https://app\", hosts: [\""+addr+"\"]}}\n"+
			"routes: [{upstream: app}]\n")
		resp, _ := get(t, client(t), g.url)
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		answer := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://127.0.0.1/upstreams", nil)
		newAdmin(g.gateway).Handler.ServeHTTP(answer, r)
		var upstreams map[string]struct{ Endpoints []balancer.EndpointStatus }
		require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &upstreams), answer.Body)
		host := upstreams["app"].Endpoints[0]
		require.Contains(t, host.LastError, why)
		require.WithinDuration(t, time.Now(), host.LastErrorAt, time.Minute)
	}
}

// What people get wrong most, and what -check says of it.
func TestTwelveMistakes(t *testing.T) {
	path, err := binary()
	require.NoError(t, err)
	dir := t.TempDir()
	const head = "upstreams:\n  app: {hosts: [\"10.0.0.1:80\"]}\nroutes:\n"
	for _, tt := range []struct{ name, text, want string }{
		{"misspelt key", head + "  - {upstraem: app}",
			"4: routes[0].upstraem: unknown key: did you mean upstream? the keys here are cache, "},
		{"misspelt name", head + "  - {upstream: ap}",
			`4: routes[0].upstream: "ap" is not one of the upstreams: app`},
		{"scheme in a host", strings.Replace(head, "10.0", "http://10.0", 1) + "  - {upstream: app}",
			`2: upstreams.app.hosts[0]: "http://10.0.0.1:80" is a URL and not an address: leave out http://`},
		{"number without a unit", head + "  - {upstream: app, timeout: 30}",
			"4: routes[0].timeout: must be a duration such as 500ms, 5s or 1m30s, not `30`"},
		{"size without a unit", head + "  - {upstream: app}\nserver: {max_body: 1000}",
			"5: server.max_body: must be a size such as 512B, 32KiB or 10MiB, not `1000`"},
		{"tab", head + "  - upstream: app\n\tpath: /a", "5: found a tab character that violates indentation"},
		{"star in a path", head + "  - {upstream: app, path: /api/*}",
			`4: routes[0].path: "/api/*" is only that path: write "/api/" for all paths below it`},
		{"path without a slash", head + "  - {upstream: app, path: api}",
			`4: routes[0].path: "api" is not a clean path that begins with a slash`},
		{"word for a list", head + "  - {upstream: app, methods: GET}",
			"4: routes[0].methods: must be a list, not `GET`"},
		{"key without a value", head + "  - {upstream: app, timeout: }",
			"4: routes[0].timeout: has no value: without one, leave it out"},
		{"key twice", head + "  - {upstream: app}\nroutes:\n  - {upstream: app}",
			"5: routes: stands here twice, first in line 3"},
		{"admin for everybody", head + "  - {upstream: app}\nadmin: {listen: \":8081\"}",
			"5: admin.listen: must be a loopback address: the admin server has no authentication"},
		{"several at once", strings.Replace(head, "10.0", "http://10.0", 1) +
			"  - {upstraem: app, timeout: 30}",
			"2: upstreams.app.hosts[0]: \"http://10.0.0.1:80\" is a URL and not an address: " +
				"leave out http://\n" +
				"FILE:4: routes[0].timeout: must be a duration such as 500ms, 5s or 1m30s, not `30`\n" +
				"FILE:4: routes[0].upstraem: unknown key: did you mean upstream? the keys here are cache, "},
		{"upstream without a route", strings.Replace(head, "routes", "  old: {hosts: [b]}\nroutes", 1) +
			"  - {upstream: app}", `level=WARN msg="no route uses this upstream" upstream=old`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, "g.yaml")
			require.NoError(t, os.WriteFile(file, []byte(tt.text+"\n"), 0o600))
			out, err := exec.Command(path, "-check", "-config", file).CombinedOutput()
			if strings.HasPrefix(tt.want, "level") {
				require.NoError(t, err, string(out))
				require.Contains(t, string(out), tt.want)
				return
			}
			require.Error(t, err)
			require.Contains(t, string(out), strings.ReplaceAll("FILE:"+tt.want, "FILE", file))
		})
	}
}
