package rediscache_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/internal/program"
)

// A server is a redis-server of this test.
type server struct {
	*program.Process
	t testing.TB
}

// startRedis starts a redis-server on a free port, without persistence unless args say otherwise.
func startRedis(t testing.TB, args ...string) *server {
	t.Helper()
	return &server{program.Redis(t, args...), t}
}

func (s *server) client(t testing.TB) *redis.Client { return clientOf(t, s.Addr) }

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
	for _, node := range program.RedisCluster(t, 3) {
		nodes = append(nodes, &server{node, t})
	}
	return nodes
}
