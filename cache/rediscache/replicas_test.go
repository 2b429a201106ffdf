package rediscache_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// A database has one number for each key, which only grows.
type database struct{ rows [4]atomic.Int64 }

// A member is a replica of a service: its cache in front of the database.
type member struct {
	v      *rediscache.Invalidations
	values *cache.Memory[int, int64]
	told   chan bool // a send follows each notice; one that nobody waits for is dropped
	newest [4]atomic.Int64
}

func startMember(t *testing.T, db *database, v *rediscache.Invalidations) *member {
	m := &member{v: v, told: make(chan bool, 1)}
	var err error
	m.values, err = cache.NewMemory(cache.MemoryConfig[int, int64]{
		MaxEntries: 100,
		Tags:       func(key int, _ int64) []string { return []string{fmt.Sprint("tag", key)} },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error)
	go func() {
		end <- v.Run(ctx, func(n rediscache.Notice) {
			switch n.Kind {
			case rediscache.NoticeKey:
				m.values.Delete(int(n.Key[0] - '0'))
			case rediscache.NoticeTag:
				m.values.InvalidateTag(n.Tag, n.How)
			case rediscache.NoticeGap:
				m.values.Clear()
			}
			select {
			case m.told <- true:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-end, context.Canceled)
		require.NoError(t, m.values.Close(context.Background()))
	})
	return m
}

// read returns the value of key, and an error if an earlier call has returned a newer one.
func (m *member) read(db *database, key int) (int64, error) {
	newest := m.newest[key].Load()
	got, err := m.values.Load(context.Background(), key, func(context.Context, int) (int64, error) {
		return db.rows[key].Load(), nil
	})
	if err != nil {
		return 0, err
	}
	if got < newest {
		return 0, fmt.Errorf("key %d is %d after it was %d", key, got, newest)
	}
	for old := newest; got > old && !m.newest[key].CompareAndSwap(old, got); old = m.newest[key].Load() {
	}
	return got, nil
}

// TestC63_FourReplicasForgetTogether: whatever happens to Redis or to a connection, after a change
// all replicas serve the new value, and none that has served it serves an older one. It logs how
// long that took.
func TestC63_FourReplicasForgetTogether(t *testing.T) {
	server := startRedis(t)
	admin := server.client(t)
	var db database
	var members []*member
	for range 4 {
		v := newInvalidations(t, server.client(t), rediscache.InvalidationsConfig{
			MaxSilence: 500 * time.Millisecond, Timeout: 200 * time.Millisecond,
		})
		members = append(members, startMember(t, &db, v))
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	defer load.Wait()
	defer close(stop)
	for _, m := range members {
		load.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				for i := range 100 {
					if _, err := m.read(&db, i%len(db.rows)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	// change returns the time until all serve the new value. A notice that Redis has not taken is
	// tried again, unless Redis is down.
	change := func(i int, down bool) time.Duration {
		key := i % len(db.rows)
		want := db.rows[key].Add(1)
		start := time.Now()
		v := members[i%len(members)].v
		for {
			var err error
			if i%3 == 0 {
				err = v.Tag(t.Context(), fmt.Sprint("tag", key), cache.Hard)
			} else {
				err = v.Key(t.Context(), fmt.Sprint(key))
			}
			if err == nil || down {
				break
			}
		}
		for _, m := range members {
			for {
				got, err := m.read(&db, key)
				require.NoError(t, err)
				if got >= want {
					break
				}
				select {
				case <-m.told:
				case <-time.After(patience):
					require.Fail(t, "an old value is served for ever")
				}
			}
		}
		return time.Since(start)
	}
	changes := func(what string, n int, down bool) {
		took := make([]time.Duration, n)
		for i := range took {
			took[i] = change(i, down)
		}
		t.Logf("%-26s %4d changes: %s", what, n, summary(took))
	}
	for _, m := range members {
		<-m.told
	}
	changes("all is well", 500, false)
	require.NoError(t, admin.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
	changes("subscriptions are killed", 20, false)
	require.NoError(t, admin.FlushAll(t.Context()).Err())
	changes("everything is flushed", 20, false)
	server.Pause()
	changes("Redis is stopped", 4, true)
	server.Resume()
	changes("it goes on", 20, false)
	server.Kill()
	changes("Redis is killed", 4, true)
	server.Restart()
	changes("it is there again", 20, false)
}

// summary sorts took and says what it is about.
func summary(took []time.Duration) string {
	slices.Sort(took)
	at := func(i int) time.Duration { return took[i].Round(10 * time.Microsecond) }
	n := len(took)
	return fmt.Sprintf("p50 %v, p99 %v, most %v", at(n/2), at(n*99/100), at(n-1))
}

// TestHowFastNoticesAre logs how long notices take from Key to four subscribers, sent by four at
// once, alone and beside loops that keep the processors busy.
func TestHowFastNoticesAre(t *testing.T) {
	server := startRedis(t)
	for _, loops := range []int{0, 3} {
		const each = 250
		epoch := time.Now()
		var mu sync.Mutex
		var took []time.Duration
		var replicas []*rediscache.Invalidations
		var hearers, connected sync.WaitGroup
		for range 4 {
			v := newInvalidations(t, server.client(t), patient)
			replicas = append(replicas, v)
			ctx, cancel := context.WithCancel(t.Context())
			connected.Add(1)
			heard := 0
			hearers.Go(func() {
				_ = v.Run(ctx, func(n rediscache.Notice) {
					if n.Kind == rediscache.NoticeGap {
						connected.Done() // a second gap panics
						return
					}
					sent, err := time.ParseDuration(n.Key)
					mu.Lock()
					took = append(took, time.Since(epoch)-sent)
					mu.Unlock()
					if heard++; heard == 4*each || err != nil {
						cancel()
					}
				})
			})
		}
		connected.Wait()
		var done atomic.Bool
		var busy, senders sync.WaitGroup
		for range loops {
			busy.Go(func() {
				for !done.Load() {
				}
			})
		}
		for _, v := range replicas {
			senders.Go(func() {
				for range each {
					if err := v.Key(context.Background(), time.Since(epoch).String()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		senders.Wait()
		hearers.Wait()
		done.Store(true)
		busy.Wait()
		require.Len(t, took, 4*4*each)
		t.Logf("%d notices beside %d busy loops: %s", len(took), loops, summary(took))
	}
}
