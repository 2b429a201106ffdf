//go:build !race

package cache_test

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// Bytes are counted exactly, over many reads: an average rounded down to 0 B/op would hide what
// happens now and then.
func TestReadHitsAllocateNotAByte(t *testing.T) {
	hour := func(_, _ string) time.Duration { return time.Hour }
	tags := func(_, _ string) []string { return []string{"t"} }
	load := func(context.Context, string) (string, error) { return "", nil }
	var keys []string
	for k := range 20_000 {
		keys = append(keys, fmt.Sprint("key-", k))
	}
	for name, cfg := range map[string]cache.MemoryConfig[string, string]{
		"plain":      {MaxEntries: 100_000},
		"LRU":        {MaxEntries: 100_000, Eviction: cache.LRU},
		"everything": {Weigher: func(_, v string) int64 { return int64(len(v)) }, MaxWeight: 1 << 20, TTL: hour, Tags: tags, IdleTTL: time.Hour, Stale: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t, cfg)
			for _, k := range keys {
				m.Set(k, "value")
			}
			ctx := t.Context()
			reads := func() {
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						for i := range 50_000 {
							k := keys[i%len(keys)]
							if _, ok := m.Get(k); !ok {
								panic("miss")
							}
							if v, err := m.Load(ctx, k, load); v != "value" || err != nil {
								panic("miss")
							}
						}
					})
				}
				wg.Wait()
			}
			reads()
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			reads()
			runtime.ReadMemStats(&after)
			// The goroutines and whatever the runtime does meanwhile; a byte per hundred reads would be 4000.
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4000))
			require.Less(t, after.Mallocs-before.Mallocs, uint64(60))
		})
	}
}

func TestGetAllocatesNothing(t *testing.T) {
	numbers := newMemory(t, cache.MemoryConfig[int64, int64]{MaxEntries: 100_000})
	texts := newMemory(t, cache.MemoryConfig[string, string]{TTL: func(_, _ string) time.Duration { return time.Hour }})
	load := func(context.Context, string) (string, error) { return "", nil }
	for k := range int64(1000) {
		numbers.Set(k, k)
		texts.Set(fmt.Sprint("key-", k), "value")
	}
	var k int64
	require.Zero(t, testing.AllocsPerRun(10_000, func() {
		k++
		numbers.Get(k % 2000)
		if bits.UintSize == 64 { // only there are they overwritten in place
			numbers.Set(k%1000, k)
		}
		texts.Get("key-7")
		texts.Get("absent")
		texts.Load(t.Context(), "key-8", load)
	}))
}
