//go:build !race

package cache_test

import (
	"context"
	"fmt"
	"math/bits"
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
	length := func(_, v string) int64 { return int64(len(v)) }
	load := func(context.Context, string) (string, error) { return "", nil }
	var keys []string
	for k := range 20_000 {
		keys = append(keys, fmt.Sprint("key-", k))
	}
	for name, cfg := range map[string]cache.MemoryConfig[string, string]{
		"plain": {MaxEntries: 100_000},
		"LRU":   {MaxEntries: 100_000, Eviction: cache.LRU},
		"everything": {Weigher: length, MaxWeight: 1 << 20, TTL: hour, Tags: tags, IdleTTL: time.Hour,
			Stale: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t, cfg)
			for _, k := range keys {
				m.Set(k, "value")
			}
			ctx := t.Context()
			read := func() {
				for i := range 50_000 {
					k := keys[i%len(keys)]
					if _, ok := m.Get(k); !ok {
						panic("miss")
					}
					if v, err := m.Load(ctx, k, load); v != "value" || err != nil {
						panic("miss")
					}
				}
			}
			objects, bytes := allocated(func() {
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() { attributed(read) })
				}
				wg.Wait()
			})
			require.Zero(t, bytes)
			require.Zero(t, objects)
		})
	}
}

func TestGetAllocatesNothing(t *testing.T) {
	numbers := newMemory(t, cache.MemoryConfig[int64, int64]{MaxEntries: 100_000})
	texts := newMemory(t, cache.MemoryConfig[string, string]{
		TTL: func(_, _ string) time.Duration { return time.Hour },
	})
	load := func(context.Context, string) (string, error) { return "", nil }
	for k := range int64(1000) {
		numbers.Set(k, k)
		texts.Set(fmt.Sprint("key-", k), "value")
	}
	ctx := t.Context()
	objects, _ := allocated(func() {
		attributed(func() {
			for k := range int64(10_000) {
				numbers.Get(k % 2000)
				if bits.UintSize == 64 { // only there are they overwritten in place
					numbers.Set(k%1000, k)
				}
				texts.Get("key-7")
				texts.Get("absent")
				_, _ = texts.Load(ctx, "key-8", load)
			}
		})
	})
	require.Zero(t, objects)
}
