package redislimit

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLeasesInUseKeepTheirPlace: when there is no room for another lease, those give way whose time
// is over, and no others: what they have paid for would be lost.
func TestLeasesInUseKeepTheirPlace(t *testing.T) {
	ls := newLeases()
	const most = maxLeases / leaseShards
	for i := range uint64(most) {
		l := ls.get(i*leaseShards, 0)
		l.balance, l.expires = 1, 100
	}
	shard := &ls.shards[0]
	require.Nil(t, ls.get(most*leaseShards, 99))
	require.Len(t, shard.m, most)
	require.NotNil(t, ls.get(most*leaseShards, 100))
	require.LessOrEqual(t, len(shard.m), most)
	require.NotNil(t, ls.get(1, 0), "other shards have room")
}
