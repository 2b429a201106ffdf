package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// binary builds the gateway once. `go run` would hide its exit status.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "gateway")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// A process is a running gateway, as built.
type process struct {
	addr, admin string // where it listens
	cmd         *exec.Cmd
	stdout      *output
	stderr      *output
	exited      chan struct{}
}

// An output collects what a process writes.
type output struct {
	mu      sync.Mutex // guards the fields below
	text    bytes.Buffer
	changed chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until o matches the pattern and returns the match and its groups.
func (p *process) await(t *testing.T, o *output, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(30 * time.Second)
	for {
		o.mu.Lock()
		changed := o.changed
		o.mu.Unlock()
		if m := re.FindStringSubmatch(o.String()); m != nil {
			return m
		}
		select {
		case <-changed:
		case <-p.exited:
			if m := re.FindStringSubmatch(o.String()); m != nil {
				return m
			}
			t.Fatalf("the gateway ended without %q; stderr:\n%s", pattern, p.stderr)
		case <-timeout:
			t.Fatalf("no %q in 30 s; stderr:\n%s", pattern, p.stderr)
		}
	}
}

// launch starts the built gateway on free ports and waits until it listens.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	path, err := binary()
	require.NoError(t, err)
	args = append([]string{"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...)
	p := &process{
		cmd:    exec.Command(path, args...),
		stdout: &output{changed: make(chan struct{})},
		stderr: &output{changed: make(chan struct{})},
		exited: make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if strings.Contains(p.stderr.String(), "DATA RACE") || strings.Contains(p.stderr.String(), "panic") {
			t.Error(p.stderr)
		}
	})
	m := p.await(t, p.stderr, `msg=listening addr=(\S+) admin=(\S+)`)
	p.addr, p.admin = m[1], m[2]
	return p
}

// launchWith is launch with a configuration file that contains text.
func launchWith(t *testing.T, text string) (p *process, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "gateway.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return launch(t, "-config", file), file
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

// status waits for the end of the process and returns its exit status.
func (p *process) status(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		t.Fatalf("still running; stderr:\n%s", p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop sends SIGTERM and returns the exit status.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	return p.status(t)
}

func TestExitStatus(t *testing.T) {
	path, err := binary()
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	good := write("good.yaml", simple("", "127.0.0.1:1"))
	unknownKey := write("a.yaml", "server:\n  lisen: x\n")
	badValue := write("b.yaml", simple("server: {max_body: 1}", "127.0.0.1:1"))
	noCertificate := write("c.yaml",
		simple("server: {tls: {certificates: [{cert: c.pem, key: c.key}]}}", "127.0.0.1:1"))
	noPassword := write("d.yaml",
		simple("redis: {addr: a, password_env: NO_SUCH_PASSWORD}", "127.0.0.1:1"))
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		output string
	}{
		{"help", []string{"-h"}, 0, "-config file"},
		{"good configuration", []string{"-check", "-config", good}, 0, "the configuration is good"},
		{"unknown flag", []string{"-confg", "x"}, 2, "flag provided but not defined"},
		{"unexpected argument", []string{"gateway.yaml"}, 2, `unexpected argument "gateway.yaml"`},
		{"no such file", []string{"-config", filepath.Join(dir, "none.yaml")}, 2, "no such file"},
		{"empty name of a file", []string{"-check", "-config", ""}, 2, "-config needs a file"},
		{"unknown key", []string{"-config", unknownKey}, 2,
			"a.yaml:2: server.lisen: unknown key"},
		{"bad value", []string{"-config", badValue}, 2,
			"b.yaml:5: server.max_body: must be a size"},
		{"no such certificate", []string{"-check", "-config", noCertificate}, 2,
			"server.tls.certificates[0]: open " + filepath.Join(dir, "c.pem")},
		{"no such password", []string{"-check", "-config", noPassword}, 2,
			"redis.password_env: the environment has no NO_SUCH_PASSWORD"},
		{"rules without objectives", []string{"-rules", "-config", good}, 1, "there are no objectives"},
		{"bad flag value", []string{"-check", "-config", good, "-admin", "0.0.0.0:1"}, 2,
			"admin.listen: must be a loopback address"},
		{"address in use", []string{"-config", good, "-listen", busy.Addr().String()}, 1,
			"address already in use"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(path, tt.args...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil {
				require.ErrorAs(t, err, &exit)
			}
			require.Equal(t, tt.status, cmd.ProcessState.ExitCode(), string(out))
			require.Contains(t, string(out), tt.output)
		})
	}
}

func TestDemoWithoutArguments(t *testing.T) {
	p := launch(t)
	p.await(t, p.stdout, `curl -i http://`+regexp.QuoteMeta(p.addr))
	c := client(t)
	answered := map[string]int{}
	for range 60 {
		resp, body := get(t, c, "http://"+p.addr+"/hello")
		require.Equal(t, 200, resp.StatusCode)
		name := resp.Header.Get("X-Backend")
		require.Equal(t, "GET /hello, answered by "+name+"\n", body)
		answered[name]++
	}
	require.Greater(t, answered["fast"], answered["slow"])

	resp, body := get(t, c, "http://"+p.admin+"/upstreams")
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.Equal(t, 3, strings.Count(body, `"state": "healthy"`), body)
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, body := get(t, c, "http://"+p.admin+path)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "{\"status\":\"pass\"}\n", body)
	}
	req, err := http.NewRequest("GET", "http://"+p.admin+"/upstreams", nil)
	require.NoError(t, err)
	req.Host = "attacker.example:8081" // a name that resolves to 127.0.0.1
	resp, _ = do(t, c, req)
	require.Equal(t, 403, resp.StatusCode)

	p.signal(t, syscall.SIGINT)
	require.Equal(t, 0, p.status(t))
}

func TestWhatUpstreamsSayIsQuotedInTheLog(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\ntime=never msg=forged\n")
			_ = conn.Close()
		}
	}()
	p, _ := launchWith(t, simple("", ln.Addr().String()))
	// Requests with a body go over connections of net/http's, which tells of what comes after
	// answers.
	req, err := http.NewRequest(http.MethodPost, "http://"+p.addr, strings.NewReader("x"))
	require.NoError(t, err)
	_, _ = do(t, client(t), req)
	p.await(t, p.stderr, "Unsolicited response")
	require.Equal(t, 0, p.stop(t))
	for line := range strings.Lines(p.stderr.String()) {
		require.Regexp(t, "^(time=2|the token of the admin server, until it ends: [A-Z0-9]+\n$)", line)
	}
}

func TestG10_SlowClientsAreCutOff(t *testing.T) {
	const limit = 2 * time.Second // so that a busy machine does not make what moves stand still
	b := backend.Start(t, backend.Config{})
	bounds := fmt.Sprintf(
		"server: {read_header_timeout: %[1]s, idle_timeout: %[1]s, stall_timeout: %[1]s}", limit)
	p, _ := launchWith(t, simple(bounds, b.Addr))

	// open sends text on a new connection.
	open := func(t *testing.T, text string) net.Conn {
		conn, err := net.Dial("tcp", p.addr)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		return conn
	}
	// drip sends text over and over, a byte every 50 ms, until the gateway closes the connection.
	drip := func(ctx context.Context, conn net.Conn, text string) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				if _, err := conn.Write([]byte{text[i%len(text)]}); err != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
	const (
		whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
		post  = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789"
		chunk = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n0123"
		ok    = "HTTP/1.1 200 OK"
		bad   = "HTTP/1.1 400 Bad Request"
	)
	for _, tt := range []struct {
		name, send, drip string
		want             string // the begin of the answer, if there is one
	}{
		{name: "nothing is sent"},
		{name: "half a header", send: "GET / HTTP/1.1\r\nHost: a\r\n"},
		{name: "a header that drips", send: "GET / HTTP/1.1\r\nHost: a\r\n", drip: "A: b\r\n"},
		{name: "idle after a request", send: whole, want: ok},
		{name: "half a header after a request", send: whole + "GET", want: ok},
		{name: "half a body", send: post},
		{name: "half a chunk", send: chunk},
		{name: "half a body that nobody wants", send: strings.Replace(post, "/", "/%2e", 1), want: bad},
		{name: "the preface of HTTP/2 in clear", send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: bad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn := open(t, tt.send)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.drip != "" {
				go drip(ctx, conn, tt.drip)
			}
			begin := time.Now()
			answer, err := io.ReadAll(conn) // to the end of the connection
			if err != nil {
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
			require.True(t, strings.HasPrefix(string(answer), tt.want), string(answer))
			require.Less(t, time.Since(begin), 30*time.Second)
		})
	}
	t.Run("a response that is not read", func(t *testing.T) {
		t.Parallel()
		conn := open(t, "GET /?bytes=200000000 HTTP/1.1\r\nHost: a\r\n"+backend.IDField+": unread\r\n\r\n")
		require.Eventually(t, func() bool { return b.Counts()["unread"] == 1 },
			time.Minute, time.Millisecond)
		// The gateway gives up. The client sees the end of the connection after what was sent
		// before.
		c := client(t)
		require.Eventually(t, func() bool {
			_, body := get(t, c, "http://"+p.admin+"/upstreams")
			return strings.Contains(body, `"in_flight": 0`)
		}, time.Minute, 50*time.Millisecond)
		n, err := io.Copy(io.Discard, conn)
		if err != nil {
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
		require.Less(t, n, int64(200_000_000))
	})
	t.Run("a slow body that moves is served", func(t *testing.T) {
		t.Parallel()
		conn := open(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\nConnection: close\r\n\r\n")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { // 20 bytes in 5 s
			tick := time.NewTicker(250 * time.Millisecond)
			defer tick.Stop()
			for range 20 {
				select {
				case <-tick.C:
					_, _ = conn.Write([]byte("x"))
				case <-ctx.Done():
				}
			}
		}()
		begin := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 200, resp.StatusCode)
		require.Greater(t, time.Since(begin), 2*limit)
	})
	t.Run("the gateway waits for a slow server", func(t *testing.T) {
		t.Parallel()
		req, err := http.NewRequest("POST", "http://"+p.addr+"/?delay=5s", strings.NewReader("whole"))
		require.NoError(t, err)
		resp, body := do(t, client(t), req)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "backend\n", body)
	})
	t.Run("the gateway serves others meanwhile", func(t *testing.T) {
		t.Parallel()
		for range 300 {
			open(t, "GET / HTTP/1.1\r\nHost: a\r\n")
		}
		resp, _ := get(t, client(t), "http://"+p.addr)
		require.Equal(t, 200, resp.StatusCode)
	})
}
