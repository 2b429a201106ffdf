//go:build !race

package ratelimit_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// TestR07_MemoryIsFlat: ten million hostile keys take what the first took.
func TestR07_MemoryIsFlat(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	store := newMemory(t, 100_000)
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(10)))
	var key [1]string
	const n = 10_000_000
	buf := make([]byte, 0, 16)
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			buf = fmt.Appendf(buf[:0], "%x", i)
			key[0] = string(buf)
			if _, err := l.TakeKeys(t.Context(), key[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood(0, n/100)
	first := heap()
	flood(n/100, n)
	last := heap()
	s := store.Stats()
	t.Logf("%d keys: heap %d B before, %d after 1 %%, %d at the end; %d slots of %d B, %d keys displaced",
		n, before, first, last, s.Slots, s.Bytes/s.Slots, s.Displaced)
	require.LessOrEqual(t, float64(last)-float64(before), 1.1*float64(s.Bytes))
	require.LessOrEqual(t, float64(last), float64(first)+0.05*float64(s.Bytes))
	runtime.KeepAlive(l)
}

// TestMemoryAtAMillionKeys: the bars are 20 B a slot and 40 B a key, all told.
func TestMemoryAtAMillionKeys(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 1_000_000
	store := newMemory(t, n)
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(1).WithBurst(10)))
	for i := range n {
		allow(t, l, fmt.Sprint(i))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	s := store.Stats()
	perKey := float64(after.HeapAlloc-before.HeapAlloc) / n
	live := store.Owed("p")
	t.Logf(
		"%.1f B a key, %.1f B a slot; %d of %d keys live, %d displaced", perKey,
		float64(s.Bytes)/float64(s.Slots), live, n, s.Displaced,
	)
	require.LessOrEqual(t, perKey, 40.0)
	require.LessOrEqual(t, float64(s.Bytes)/float64(s.Slots), 20.0)
	require.LessOrEqual(t, float64(s.Displaced), 0.01*n)
	runtime.KeepAlive(l)
}
