package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

func TestL34_SigtermLosesNoAcceptedRequest(t *testing.T) {
	b := backend.Start(t, backend.Config{Behaviour: backend.Behaviour{Delay: 5 * time.Millisecond}})
	p, _ := launchWith(t, simple("server: {drain_delay: 500ms}", b.Addr))
	c := client(t)

	var wg sync.WaitGroup
	var answered, refused atomic.Int64
	lost := make(chan error, 1000)
	for range 8 {
		wg.Go(func() {
			for {
				// net/http does not repeat a POST.
				resp, err := c.Post("http://"+p.addr, "text/plain", strings.NewReader("x"))
				// When the gateway has gone, the kernel refuses connections, and resets those in
				// the queue of the closed listener. The gateway has accepted neither. A connection
				// that it had accepted and dropped would end in EOF.
				if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
					refused.Add(1)
					return
				}
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 {
						err = errors.New(resp.Status)
					}
				}
				if err != nil {
					lost <- err
					continue
				}
				answered.Add(1)
			}
		})
	}
	// One request is in flight for longer than the delay.
	wg.Go(func() {
		resp, err := c.Get("http://" + p.addr + "/?delay=1500ms")
		if err != nil {
			lost <- err
			return
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "backend\n" {
			lost <- fmt.Errorf("%q %v", body, err)
		}
	})
	require.Eventually(t, func() bool { return answered.Load() > 500 }, 30*time.Second, time.Millisecond)
	p.signal(t, syscall.SIGTERM)
	p.await(t, p.stderr, "msg=draining")
	resp, body := get(t, client(t), "http://"+p.admin+"/readyz")
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "{\"status\":\"fail\"}\n", body)
	resp, _ = get(t, client(t), "http://"+p.addr)
	require.True(t, resp.Close, "clients are told to go elsewhere")
	wg.Wait()
	require.Equal(t, 0, p.status(t), p.stderr)
	close(lost)
	for err := range lost {
		t.Error(err)
	}
	require.Equal(t, int64(8), refused.Load())
	require.Equal(t, answered.Load()+2, int64(b.Requests()))
	t.Logf("%d requests answered, 0 lost", answered.Load()+2)
}

func TestL34_DrainEndsWhatWouldNotEnd(t *testing.T) {
	hijack := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n" + upgrade)
		_ = rw.Flush()
		_, _ = io.Copy(io.Discard, rw)
	})
	t.Run("websockets are closed", func(t *testing.T) {
		b := backend.Start(t, backend.Config{Handler: hijack})
		p, _ := launchWith(t, simple("server: {drain_delay: 100ms, drain_timeout: 200ms}", b.Addr))
		conn, err := net.Dial("tcp", p.addr)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n"+upgrade)
		buf := bufio.NewReader(conn)
		resp, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		p.signal(t, syscall.SIGTERM)
		rest, err := io.ReadAll(buf)
		require.NoError(t, err)
		require.Equal(t, closeGoingAway, string(rest), "no frame is half sent")
		require.Equal(t, 0, p.status(t), p.stderr)
	})
	t.Run("requests are cut at drain_timeout", func(t *testing.T) {
		b := backend.Start(t, backend.Config{Behaviour: backend.Behaviour{Hang: true}})
		p, _ := launchWith(t, simple("server: {drain_delay: 100ms, drain_timeout: 200ms}", b.Addr))
		go func() { _, _ = http.Get("http://" + p.addr) }()
		require.Eventually(t, func() bool { return b.Requests() == 1 }, time.Minute, time.Millisecond)
		p.signal(t, syscall.SIGTERM)
		require.Equal(t, 1, p.status(t))
		require.Contains(t, p.stderr.String(), "they have been cut")
	})
	t.Run("a second signal ends it", func(t *testing.T) {
		b := backend.Start(t, backend.Config{})
		p, _ := launchWith(t, simple("server: {drain_delay: 60s}", b.Addr))
		p.signal(t, syscall.SIGTERM)
		p.await(t, p.stderr, "msg=draining")
		p.signal(t, syscall.SIGTERM)
		require.Equal(t, 1, p.status(t))
		require.Contains(t, p.stderr.String(), "ended by a second signal")
	})
}

func TestG18_SighupWithABadFileKeepsTheOldOne(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a"})
	b := backend.Start(t, backend.Config{Name: "b"})
	p, file := launchWith(t, simple("", a.Addr))
	c := client(t)
	_, body := get(t, c, "http://"+p.addr)
	require.Equal(t, "a\n", body)

	// The new file has a good host and a bad route. Neither comes into force.
	require.NoError(t, os.WriteFile(file, []byte(simple("  - {upstream: ap, path: /x}", b.Addr)), 0o600))
	p.signal(t, syscall.SIGHUP)
	p.await(t, p.stderr, `msg="reload refused, the old configuration stays" `+
		`err=".*gateway.yaml:5: routes\[1\].upstream`)
	for range 20 {
		_, body := get(t, c, "http://"+p.addr)
		require.Equal(t, "a\n", body)
	}
	require.Zero(t, b.Requests())

	// One request is in flight during the reload of a good file.
	inflight := make(chan string, 1)
	go func() {
		resp, err := c.Get("http://" + p.addr + "/?delay=1s")
		if err != nil {
			inflight <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		inflight <- string(body)
	}()
	require.Eventually(t, func() bool { return a.Requests() == 22 }, time.Minute, time.Millisecond)
	require.NoError(t, os.WriteFile(file, []byte(simple("", b.Addr)), 0o600))
	p.signal(t, syscall.SIGHUP)
	p.await(t, p.stderr, "msg=reloaded")
	require.Eventually(t, func() bool {
		_, body := get(t, c, "http://"+p.addr)
		return body == "b\n"
	}, time.Minute, time.Millisecond)
	require.Equal(t, "a\n", <-inflight)
	p.signal(t, syscall.SIGTERM)
	require.Equal(t, 0, p.status(t))
}

func TestSighupWhileItStartsIsAReload(t *testing.T) {
	path, err := binary()
	require.NoError(t, err)
	fifo := filepath.Join(t.TempDir(), "gateway.yaml")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	p := &process{
		cmd:    exec.Command(path, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-config", fifo),
		stdout: &output{changed: make(chan struct{})},
		stderr: &output{changed: make(chan struct{})},
		exited: make(chan struct{}),
	}
	p.cmd.Stderr = p.stderr
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
	write := func(before func()) {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for a reader
		require.NoError(t, err)
		before()
		_, err = f.WriteString(simple("", "127.0.0.1:1"))
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	write(func() { p.signal(t, syscall.SIGHUP) })
	p.await(t, p.stderr, "msg=listening")
	write(func() {})
	p.await(t, p.stderr, "msg=reloaded")
	require.Equal(t, 0, p.stop(t))
}

func TestL34_SigtermAmongManySighups(t *testing.T) {
	var routes strings.Builder
	for i := range 5000 { // enough that a reload takes a while
		fmt.Fprintf(&routes, "\n  - {upstream: app, path: /%d}", i)
	}
	p, _ := launchWith(t, "server: {drain_delay: 1ms}\n"+simple(routes.String(), "127.0.0.1:1"))
	for range 20 {
		p.signal(t, syscall.SIGHUP)
		// The request takes long enough that two signals do not become one.
		get(t, client(t), "http://"+p.admin+"/healthz")
	}
	require.Equal(t, 0, p.stop(t))
}
