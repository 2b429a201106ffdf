package rediscache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// moveSlot moves the slot of key to the next of the nodes that has it not.
func moveSlot(t *testing.T, clients []*redis.Client, key string) {
	t.Helper()
	ctx := t.Context()
	slot := clients[0].ClusterKeySlot(ctx, key).Val()
	ids := make([]string, len(clients))
	from := -1
	for i, c := range clients {
		ids[i] = c.Do(ctx, "cluster", "myid").Val().(string)
		if err := c.Exists(ctx, key).Err(); err == nil {
			from = i
		}
	}
	require.GreaterOrEqual(t, from, 0)
	to := (from + 1) % len(clients)
	require.NoError(t, clients[to].Do(ctx, "cluster", "setslot", slot, "importing", ids[from]).Err())
	require.NoError(t, clients[from].Do(ctx, "cluster", "setslot", slot, "migrating", ids[to]).Err())
	for {
		keys, err := clients[from].ClusterGetKeysInSlot(ctx, int(slot), 1).Result()
		require.NoError(t, err)
		if len(keys) == 0 {
			break
		}
		host, port, err := net.SplitHostPort(clients[to].Options().Addr)
		require.NoError(t, err)
		require.NoError(t, clients[from].Migrate(ctx, host, port, keys[0], 0, time.Minute).Err())
	}
	for _, i := range []int{to, from, (to + 1) % len(clients)} {
		require.NoError(t, clients[i].Do(ctx, "cluster", "setslot", slot, "node", ids[to]).Err())
	}
}

// TestC61_AClusterWhoseSlotsMove while it is used: those of the purges, of the announcements and of
// entries. No answer is an error, wrong, or older than a purge that was done.
func TestC61_AClusterWhoseSlotsMove(t *testing.T) {
	nodes := startCluster(t)
	var addrs []string
	var direct []*redis.Client
	for _, node := range nodes {
		addrs = append(addrs, node.Addr)
		direct = append(direct, node.client(t))
	}
	origin := newOrigin()
	clients := func() redis.UniversalClient {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	tier := cache.TieredConfig{NearTTL: 100 * time.Millisecond}
	fleet := startFleet(t, 2, clients, generous, tier, origin)
	run(t, fleet...)
	const paths = 10
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, p := range fleet {
		wg.Go(func() {
			pause := time.NewTicker(time.Millisecond)
			defer pause.Stop()
			for {
				select {
				case <-done:
					return
				case <-pause.C:
				}
				if _, _, err := ask(p.h, fmt.Sprint("/", rand.IntN(paths))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 4 {
		path := fmt.Sprint("/", i)
		get(t, fleet[0].h, path)
		moveSlot(t, direct, "shop{shopnews}:purged")
		for _, c := range direct {
			if keys := entryKeys(t, c); len(keys) > 0 {
				moveSlot(t, direct, keys[0])
				break
			}
		}
		want := origin.change(path)
		require.Eventually(t, func() bool {
			return fleet[i%2].cache.PurgeTag(context.Background(), "tag-"+path[1:], cache.Hard) == nil
		}, time.Minute, time.Millisecond)
		for _, p := range fleet {
			require.Eventually(t, func() bool {
				generation, _ := get(t, p.h, path)
				return generation == want
			}, time.Minute, time.Millisecond)
		}
		for _, p := range fleet {
			generation, _ := get(t, p.h, path)
			require.Equal(t, want, generation)
		}
	}
	close(done)
	wg.Wait()
	connected(t, fleet...)
	for _, p := range fleet {
		require.LessOrEqual(t, p.far.Stats().Epochs, uint64(1), "what was purged has moved along")
	}
}
