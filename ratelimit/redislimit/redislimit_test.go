package redislimit_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// A server is a redis-server of this test.
type server struct {
	t    testing.TB
	addr string
	args []string
	cmd  *exec.Cmd
}

// startRedis starts a redis-server on a free port, without persistence unless args say otherwise.
func startRedis(t testing.TB, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("TRIVET_REQUIRE_SERVERS") == "1" {
			t.Fatal("TRIVET_REQUIRE_SERVERS is set and there is no redis-server")
		}
		t.Skip("no redis-server")
	}
	addr := freeport.Reserve(t) // no test of another package is given it meanwhile
	s := &server{t: t, addr: addr, args: append([]string{
		"--port", addr[strings.LastIndexByte(addr, ':')+1:], "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir(),
	}, args...)}
	s.start()
	t.Cleanup(s.kill)
	s.await()
	return s
}

func (s *server) start() {
	s.cmd = exec.Command("redis-server", s.args...)
	require.NoError(s.t, s.cmd.Start())
}

// await returns when the server answers.
func (s *server) await() {
	c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	defer c.Close()
	require.Eventually(s.t, func() bool { return c.Ping(s.t.Context()).Err() == nil }, 20*time.Second, 5*time.Millisecond)
}

func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *server) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func constant(*http.Request) (string, bool) { return "all", true }

func policyOf(name string, rate ratelimit.Rate) ratelimit.Policy {
	return ratelimit.Policy{Name: name, Rate: rate, Key: constant, Missing: ratelimit.MissingReject}
}

func newStore(t testing.TB, c redis.UniversalClient, cfg redislimit.Config) *redislimit.Store {
	t.Helper()
	s, err := redislimit.New(c, cfg)
	require.NoError(t, err)
	return s
}

func newLimiter(t testing.TB, cfg ratelimit.Config) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(cfg)
	require.NoError(t, err)
	return l
}

func TestDecisionsAreOneRoundTrip(t *testing.T) {
	store := newStore(t, startRedis(t).client(t), redislimit.Config{Timeout: 5 * time.Second})
	window := policyOf("window", ratelimit.PerHour(4))
	window.Window = ratelimit.SlidingWindow
	l := newLimiter(t, ratelimit.Config{Store: store, Policies: []ratelimit.Policy{
		policyOf("bucket", ratelimit.PerHour(10).WithBurst(10)), window,
	}})
	for i := range 4 {
		d, err := l.TakeKeys(t.Context(), []string{"a", "b"})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.EqualValues(t, 3-i, d.Remaining)
		require.False(t, d.Degraded, "%+v", store.Stats())
	}
	require.EqualValues(t, 4, store.Stats().Calls)
	for range 100 {
		d, err := l.TakeKeys(t.Context(), []string{"a", "b"})
		require.NoError(t, err)
		require.Equal(t, []string{"window"}, d.Violated())
		require.Positive(t, d.RetryAfter)
	}
	require.EqualValues(t, 5, store.Stats().Calls, "a repeated denial is no round trip")
	require.Zero(t, l.Stats().Failures, fmt.Sprint(store.Stats()))
}
