package redislimit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/program"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

func TestR17_OneSlotOrRefused(t *testing.T) {
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer cluster.Close()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	one := []ratelimit.Policy{policyOf("a", ratelimit.PerSecond(1))}
	two := append(one, policyOf("b", ratelimit.PerSecond(1)))
	for _, client := range []redis.UniversalClient{cluster, ring} {
		_, err := ratelimit.New(ratelimit.Config{
			Store: newStore(t, client, redislimit.Config{}), Policies: two,
		})
		require.ErrorContains(
			t, err,
			"ratelimit: Config.Store: redislimit: Config.HashTag: or SameKey is needed for 2 policies",
		)
		for _, cfg := range []redislimit.Config{{HashTag: "x"}, {SameKey: true}} {
			_, err = ratelimit.New(ratelimit.Config{Store: newStore(t, client, cfg), Policies: two})
			require.NoError(t, err)
		}
		_, err = ratelimit.New(ratelimit.Config{
			Store: newStore(t, client, redislimit.Config{}), Policies: one,
		})
		require.NoError(t, err)
	}
	store := newStore(t, cluster, redislimit.Config{SameKey: true})
	l := newLimiter(t, ratelimit.Config{Store: store, Policies: two})
	require.True(t, take(t, l, "x", "y").Degraded, "the promise of SameKey was broken")
	require.Zero(t, store.Stats().Calls)
}

// TestR17_Cluster: three real nodes.
func TestR17_Cluster(t *testing.T) {
	var addrs []string
	for _, node := range program.RedisCluster(t, 3) {
		addrs = append(addrs, node.Addr)
	}
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	defer cluster.Close()
	window := policyOf("window", ratelimit.PerDay(3))
	window.Algorithm = ratelimit.SlidingWindow
	for _, cfg := range []redislimit.Config{{HashTag: "tag"}, {SameKey: true}, {}} {
		cfg.Timeout = 10 * time.Second
		policies := []ratelimit.Policy{window, policyOf("bucket", ratelimit.PerDay(1).WithBurst(100))}
		if cfg.HashTag == "" && !cfg.SameKey {
			policies = policies[:1]
		}
		store := newStore(t, cluster, cfg)
		l := newLimiter(t, ratelimit.Config{Store: store, Policies: policies})
		for i := range 30 { // over all nodes
			keys := []string{fmt.Sprint(cfg, i), fmt.Sprint(cfg, i)}
			if cfg.HashTag != "" {
				keys[1] += "other"
			}
			for n := range 5 {
				d := take(t, l, keys[:len(policies)]...)
				require.False(t, d.Degraded, "%+v", store.Stats())
				require.Equal(t, n < 3, d.Allowed)
			}
		}
	}
	for i, addr := range addrs {
		c := redis.NewClient(&redis.Options{Addr: addr})
		n, err := c.DBSize(t.Context()).Result()
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Greater(t, n, int64(5), "node %d has its part", i)
	}
}
