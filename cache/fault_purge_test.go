package cache_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// While a response is fetched, much else may be purged. That costs it its place only if it may be
// meant.
func TestC45_OtherPurgesDoNotTouchAFetchUnderWay(t *testing.T) {
	ctx := t.Context()
	for _, label := range []string{"", "mine"} {
		store := newSpyStore(t, cache.MemoryStoreConfig{})
		for i := range 50 {
			key := cache.Key{byte(i)}
			_, mark, err := store.Get(ctx, key)
			require.NoError(t, err)
			for n := range 1000 {
				other := fmt.Sprintf("%d %d", i, n)
				if n == i*10 && label != "" {
					other = label
				}
				require.NoError(t, store.Purge(ctx, cache.Purge{Label: other, How: cache.Hard}))
			}
			e := &cache.Entry{Mark: mark, Labels: []string{"yours", "mine"}, Status: 200, Size: 0}
			how, _ := store.Purged(e)
			require.Equal(t, label != "", how == cache.Hard)
			require.NoError(t, store.Put(ctx, key, e, 8))
			r, _, err := store.Get(ctx, key)
			require.NoError(t, err)
			require.Equal(t, label != "", r == nil, "entry %d", i)
		}
	}
}

// A fetch that lasts for more purges than are remembered one by one is never thought untouched by
// one that meant it.
func TestC45_NoPurgeIsForgottenWhileAFetchLasts(t *testing.T) {
	ctx := t.Context()
	store := newSpyStore(t, cache.MemoryStoreConfig{})
	_, mark, err := store.Get(ctx, cache.Key{})
	require.NoError(t, err)
	require.NoError(t, store.Purge(ctx, cache.Purge{Label: "mine", How: cache.Hard}))
	for n := range 5000 {
		require.NoError(t, store.Purge(ctx, cache.Purge{Label: fmt.Sprint(n), How: cache.Hard}))
		e := &cache.Entry{Mark: mark, Labels: []string{"mine"}, Status: 200}
		if n%500 == 0 || n > 1000 && n < 1050 {
			how, _ := store.Purged(e)
			require.Equal(t, cache.Hard, how, n)
			require.NoError(t, store.Put(ctx, cache.Key{}, e, 8))
			r, _, err := store.Get(ctx, cache.Key{})
			require.NoError(t, err)
			require.Nil(t, r, n)
		}
	}
}
