package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

const (
	eventually = time.Minute // for what must happen on a busy machine
	tick       = time.Millisecond
)

func TestPoliciesOfAnUpstream(t *testing.T) {
	a, b := backend.Start(t, backend.Config{Name: "a"}), backend.Start(t, backend.Config{Name: "b"})
	hosts := a.Addr + ", " + b.Addr
	g := start(t, upstreamOf(hosts, "policy: round_robin"))
	c := client(t)
	names := func(path string, n int) string {
		var all strings.Builder
		for i := range n {
			resp, _ := get(t, c, fmt.Sprintf("%s"+path, g.url, i))
			all.WriteString(resp.Header.Get("Backend"))
		}
		return all.String()
	}
	names("/%[2]d", 4) // each host has answered, so that nothing is on probation
	require.Contains(t, []string{"abababab", "babababa"}, names("/%[2]d", 8))
	reloadText(t, g, upstreamOf(hosts, "policy: hash_path"))
	one := names("/same?%[2]d", 10)
	require.Equal(t, strings.Repeat(one[:1], 10), one)
	require.Contains(t, names("/%[2]d", 40), "a")
	require.Contains(t, names("/%[2]d", 40), "b")
	for _, policy := range []string{"least_request", "adaptive"} {
		reloadText(t, g, upstreamOf(hosts, "policy: "+policy))
		require.Len(t, names("/%[2]d", 5), 5)
	}
	reloadText(t, g, upstreamOf(hosts, "policy: round_robin"))
	require.Contains(t, []string{"abababab", "babababa"}, names("/%[2]d", 8))
}

func TestStickyUpstreams(t *testing.T) {
	a, b := backend.Start(t, backend.Config{Name: "a"}), backend.Start(t, backend.Config{Name: "b"})
	hosts := a.Addr + ", " + b.Addr
	text := func(keys string) string { return upstreamOf(hosts, "policy: round_robin, "+keys) }
	g := start(t, text("sticky: {}"))
	c := client(t)
	send := func(cookies ...*http.Cookie) (string, *http.Cookie) {
		req := request(t, "GET", g.url)
		for _, cookie := range cookies {
			req.AddCookie(cookie)
		}
		resp, _ := do(t, c, req)
		if set := resp.Cookies(); len(set) > 0 {
			return resp.Header.Get("Backend"), set[0]
		}
		return resp.Header.Get("Backend"), nil
	}
	first, cookie := send()
	require.Equal(t, "trivet_host_app", cookie.Name)
	require.True(t, cookie.Secure)
	require.Zero(t, cookie.MaxAge)
	for range 6 {
		got, again := send(cookie)
		require.Equal(t, first, got)
		require.Nil(t, again)
	}
	seen := map[string]bool{}
	for range 6 {
		got, _ := send()
		seen[got] = true
	}
	require.Len(t, seen, 2, "the policy decides about clients without a cookie")

	reloadText(t, g, text("connect_timeout: 1s, sticky: {}"))
	for range 6 {
		got, _ := send(cookie)
		require.Equal(t, first, got, "a reload keeps the secret")
	}
	reloadText(t, g, text("sticky: {cookie: host, max_age: 1h, insecure: true}"))
	_, other := send(cookie)
	require.Equal(t, "host", other.Name)
	require.Equal(t, 3600, other.MaxAge)
	require.False(t, other.Secure)

	t.Setenv("STICKY_SECRET", "a secret of the fleet")
	reloadText(t, g, text("sticky: {secret_env: STICKY_SECRET}"))
	_, mine := send()
	peer := start(t, text("sticky: {secret_env: STICKY_SECRET}"))
	require.NotEqual(t, cookie.Value, mine.Value)
	for range 6 {
		req := request(t, "GET", peer.url)
		req.AddCookie(mine)
		resp, _ := do(t, c, req)
		require.Empty(t, resp.Cookies(), "gateways with the same secret know each other's cookies")
	}
	t.Setenv("STICKY_SECRET", "too short")
	cfg, err := parseConfig("f", []byte(text("idle_timeout: 1s, sticky: {secret_env: STICKY_SECRET}")))
	require.NoError(t, err)
	require.EqualError(t, g.reload(cfg), "upstreams.app: sticky.secret_env: the environment has no "+
		"STICKY_SECRET of 16 characters or more")
	reloadText(t, g, text("connect_timeout: 1s"))
	_, none := send()
	require.Nil(t, none)
}

// What a route removes or sets of Cookie is for the upstream: a client stays with its host.
func TestStickyClientsOfARouteThatChangesCookies(t *testing.T) {
	seen := make(chan string, 100)
	name := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Header.Get("Cookie") + r.Header.Get("X-Tenant")
			w.Header().Set("Backend", name)
		})
	}
	hosts := backend.Start(t, backend.Config{Handler: name("a")}).Addr + ", " +
		backend.Start(t, backend.Config{Handler: name("b")}).Addr
	for edit, want := range map[string]string{
		"remove: [Cookie]": "", "set: {Cookie: a=b}": "a=b", "set: {X-Tenant: t}, remove: [cookie]": "t",
	} {
		g := start(t, strings.Replace(upstreamOf(hosts, "policy: round_robin, sticky: {}, retry: {}"),
			"upstream: app", "upstream: app, headers: {request: {"+edit+"}}", 1))
		c := client(t)
		resp, _ := get(t, c, g.url)
		first, cookies := resp.Header.Get("Backend"), resp.Cookies()
		require.Len(t, cookies, 1)
		require.Equal(t, want, <-seen)
		for range 6 {
			req := request(t, "GET", g.url)
			req.AddCookie(cookies[0])
			resp, _ := do(t, c, req)
			require.Equal(t, first, resp.Header.Get("Backend"), edit)
			require.Empty(t, resp.Cookies(), edit)
			require.Equal(t, want, <-seen)
		}
	}
}

// A host sees its unused connections end after idle_timeout, and not before another request.
func TestIdleTimeoutOfAnUpstream(t *testing.T) {
	closed := make(chan time.Duration, 10)
	used := make(chan time.Time, 10)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				last := time.Now()
				for {
					if _, err := conn.Read(buf); err != nil {
						closed <- time.Since(last)
						return
					}
					last = time.Now() // before the gateway can find the connection idle
					_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
					used <- last
				}
			}()
		}
	}()
	g := start(t, upstreamOf(ln.Addr().String(), "idle_timeout: 300ms"))
	c := client(t)
	get(t, c, g.url)
	require.GreaterOrEqual(t, <-closed, 300*time.Millisecond)
	reloadText(t, g, upstreamOf(ln.Addr().String(), "idle_timeout: 24h"))
	get(t, c, g.url)
	get(t, c, g.url)
	require.Empty(t, closed)
	reloadText(t, g, upstreamOf(ln.Addr().String(), "idle_timeout: 10ms"))
	get(t, c, g.url)
	<-closed // the new connection
	<-closed // and that of before
	require.Len(t, used, 4)
}

// A secret of sixteen characters is long enough, one of fifteen is not.
func TestTheLeastSecretOfStickyHosts(t *testing.T) {
	cfg := Upstream{Sticky: &StickyHost{Cookie: "c", SecretEnv: "STICKY_SECRET"}}
	for n, ok := range map[int]bool{15: false, 16: true} {
		t.Setenv("STICKY_SECRET", strings.Repeat("x", n))
		_, err := newStickiness().policy(cfg)
		require.Equal(t, ok, err == nil, n)
	}
}
