package rediscache_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/internal/program"
)

// A server is a redis-server of this test.
type server struct {
	t    testing.TB
	addr string
	path string
	args []string
	cmd  *exec.Cmd
}

// startRedis starts a redis-server on a free port, without persistence unless args say otherwise.
func startRedis(t testing.TB, args ...string) *server {
	t.Helper()
	path := program.Path(t, "redis-server")
	addr := freeport.Reserve(t) // no test of another package is given it meanwhile
	s := &server{t: t, addr: addr, path: path, args: append([]string{
		"--port", port(addr), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir(),
	}, args...)}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// start returns when the server answers.
func (s *server) start() {
	s.cmd = exec.Command(s.path, s.args...)
	require.NoError(s.t, s.cmd.Start())
	c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	defer c.Close()
	answers := func() bool { return c.Ping(context.Background()).Err() == nil }
	require.Eventually(s.t, answers, 60*time.Second, 5*time.Millisecond)
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

// stop makes the server hang: its connections stay and say nothing.
func (s *server) stop() { require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGSTOP)) }

func (s *server) resume() { require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGCONT)) }

func (s *server) client(t testing.TB) *redis.Client { return clientOf(t, s.addr) }

// clientOf is a client that gives up early, so that killed servers do not keep goroutines.
func clientOf(t testing.TB, addr string) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: 1, DialerRetries: 1,
		DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// startCluster starts three nodes that have a third of the slots each.
func startCluster(t testing.TB) (nodes []*server) {
	t.Helper()
	for i := range 3 {
		nodes = append(nodes, startRedis(t, "--cluster-enabled", "yes",
			"--cluster-config-file", fmt.Sprintf("nodes-%d.conf", i),
			"--cluster-node-timeout", "2000", "--cluster-port", port(freeport.Reserve(t))))
	}
	found, err := nodes[0].client(t).ConfigGet(t.Context(), "cluster-port").Result()
	require.NoError(t, err)
	for i, node := range nodes {
		c := node.client(t)
		slots := c.ClusterAddSlotsRange(t.Context(), i*16384/len(nodes), (i+1)*16384/len(nodes)-1)
		require.NoError(t, slots.Err())
		require.NoError(t, c.Do(t.Context(), "cluster", "set-config-epoch", i+1).Err())
		if i > 0 {
			meet := c.Do(
				t.Context(), "cluster", "meet", "127.0.0.1", port(nodes[0].addr), found["cluster-port"],
			)
			require.NoError(t, meet.Err())
		}
	}
	for _, node := range nodes {
		c := node.client(t)
		require.Eventually(t, func() bool {
			info, err := c.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, fmt.Sprintf("cluster_size:%d", len(nodes)))
		}, 60*time.Second, 20*time.Millisecond)
	}
	return nodes
}
