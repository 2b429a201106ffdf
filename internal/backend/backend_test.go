//go:build unix

package backend_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/backend"
)

func TestMain(m *testing.M) {
	backend.Main()
	goleak.VerifyTestMain(m)
}

// A running backend is a Backend or a Process.
type running interface {
	Set(backend.Behaviour)
	Counts() map[string]int
	Requests() int
}

// onBoth runs test with a Backend and with a Process.
func onBoth(t *testing.T, cfg backend.Config, test func(t *testing.T, b running, base *url.URL)) {
	t.Run("kind=goroutine", func(t *testing.T) {
		b := backend.Start(t, cfg)
		test(t, b, b.URL)
	})
	t.Run("kind=process", func(t *testing.T) {
		p := backend.StartProcess(t, cfg)
		test(t, p, p.URL)
	})
}

// client returns a client for backends that speak p.
func client(t *testing.T, p backend.Protocol) *http.Client {
	tr := backend.Transport(p)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// get sends a request with that id and returns the answer's status and body.
func get(t *testing.T, c *http.Client, url, id string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	req.Header.Set(backend.IDField, id)
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestProtocols(t *testing.T) {
	protocols := map[backend.Protocol]string{
		backend.HTTP1: "HTTP/1.1", backend.HTTP2: "HTTP/2.0", backend.H2C: "HTTP/2.0",
	}
	for p, want := range protocols {
		t.Run("protocol="+string(p), func(t *testing.T) {
			onBoth(t, backend.Config{Name: "a", Protocol: p}, func(t *testing.T, _ running, base *url.URL) {
				resp, err := client(t, p).Get(base.String())
				require.NoError(t, err)
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, want, resp.Proto)
				require.Equal(t, "a\n", string(body))
				require.Equal(t, "a", resp.Header.Get("Backend"))
			})
		})
	}
}

func TestCountsRequestsById(t *testing.T) {
	onBoth(t, backend.Config{}, func(t *testing.T, b running, base *url.URL) {
		c := client(t, backend.HTTP1)
		for _, id := range []string{"1", "2", "2", "line\tbreak"} {
			_, _, err := get(t, c, base.String(), id)
			require.NoError(t, err)
		}
		_, _, err := get(t, c, base.String()+"/healthz", "health")
		require.NoError(t, err)
		require.Equal(t, map[string]int{"1": 1, "2": 2, "line\tbreak": 1}, b.Counts())
		require.Equal(t, 4, b.Requests())
	})
}

func TestBehaviour(t *testing.T) {
	failing := backend.Config{Name: "a", Behaviour: backend.Behaviour{Status: 500}}
	onBoth(t, failing, func(t *testing.T, b running, base *url.URL) {
		c := client(t, backend.HTTP1)
		status, _, err := get(t, c, base.String(), "")
		require.NoError(t, err)
		require.Equal(t, 500, status)

		b.Set(backend.Behaviour{Delay: 50 * time.Millisecond})
		begin := time.Now()
		status, body, err := get(t, c, base.String()+"?bytes=100000&delay=50ms", "")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Len(t, body, 100000)
		require.GreaterOrEqual(t, time.Since(begin), 100*time.Millisecond)

		b.Set(backend.Behaviour{Unhealthy: true})
		status, _, err = get(t, c, base.String()+"/healthz", "")
		require.NoError(t, err)
		require.Equal(t, 503, status)
		status, _, err = get(t, c, base.String(), "")
		require.NoError(t, err)
		require.Equal(t, 200, status)

		b.Set(backend.Behaviour{Abort: true})
		_, _, err = get(t, c, base.String(), "")
		require.Error(t, err)

		b.Set(backend.Behaviour{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", base.String(), nil)
		require.NoError(t, err)
		_, err = c.Do(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		b.Set(backend.Behaviour{})
		status, body, err = get(t, c, base.String(), "")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "a\n", body)
	})
}

func TestHandlerAnswersAndIsCounted(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	b := backend.Start(t, backend.Config{Handler: echo})
	resp, err := client(t, backend.HTTP1).Post(b.URL.String(), "text/plain", strings.NewReader("echo"))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "echo", string(body))
	require.Equal(t, 1, b.Requests())
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	b := backend.Start(t, backend.Config{Behaviour: backend.Behaviour{Delay: 200 * time.Millisecond}})
	answered := make(chan int, 1)
	c := client(t, backend.HTTP1)
	go func() {
		status, _, _ := get(t, c, b.URL.String(), "")
		answered <- status
	}()
	require.Eventually(t, func() bool { return b.Requests() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, b.Shutdown(t.Context()))
	require.Equal(t, 200, <-answered)
}

func TestKilledProcessIsGoneAndComesBack(t *testing.T) {
	p := backend.StartProcess(t, backend.Config{Name: "a"})
	c := client(t, backend.HTTP1)
	_, _, err := get(t, c, p.URL.String(), "1")
	require.NoError(t, err)
	p.Kill()
	_, _, err = get(t, c, p.URL.String(), "2")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Equal(t, map[string]int{"1": 1}, p.Counts(), "counts outlive the process")
	p.Restart()
	_, _, err = get(t, c, p.URL.String(), "2")
	require.NoError(t, err)
	require.Equal(t, map[string]int{"1": 1, "2": 1}, p.Counts())
}

func TestPausedProcessAcceptsAndSaysNothing(t *testing.T) {
	p := backend.StartProcess(t, backend.Config{Name: "a"})
	p.Pause()
	c := client(t, backend.HTTP1)
	answered := make(chan string, 1)
	go func() {
		_, body, _ := get(t, c, p.URL.String(), "")
		answered <- body
	}()
	select {
	case body := <-answered:
		t.Fatalf("a paused process answered %q", body)
	case <-time.After(100 * time.Millisecond):
	}
	p.Resume()
	require.Equal(t, "a\n", <-answered)
}

func TestTerminatedProcessAnswersWhatIsInFlight(t *testing.T) {
	slow := backend.Behaviour{Delay: 200 * time.Millisecond}
	p := backend.StartProcess(t, backend.Config{Name: "a", Behaviour: slow})
	c := client(t, backend.HTTP1)
	answered := make(chan string, 1)
	go func() {
		_, body, _ := get(t, c, p.URL.String(), "")
		answered <- body
	}()
	require.Eventually(t, func() bool { return p.Requests() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, p.Terminate(t.Context()))
	require.Equal(t, "a\n", <-answered)
}

func TestTerminatingProcessIsUnhealthyForItsGrace(t *testing.T) {
	p := backend.StartProcess(t, backend.Config{Grace: time.Second})
	c := client(t, backend.HTTP1)
	ended := make(chan error, 1)
	go func() { ended <- p.Terminate(t.Context()) }()
	require.Eventually(t, func() bool {
		status, _, err := get(t, c, p.URL.String()+"/healthz", "")
		return err == nil && status == 503
	}, time.Minute, time.Millisecond)
	status, _, err := get(t, c, p.URL.String(), "")
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.NoError(t, <-ended)
}
