package redisguard_test

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/redisguard"
)

func TestIsNil(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	require.False(t, redisguard.IsNil(client))
	for _, none := range []redis.UniversalClient{
		nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil), (*redis.Ring)(nil),
	} {
		require.True(t, redisguard.IsNil(none), "%T", none)
	}
}

// A server that reads each command and closes the connection, as one that is killed after it has
// run a script.
func TestOnceIsSentOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var commands atomic.Int32
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := conn.Read(make([]byte, 4096)); err == nil {
				commands.Add(1)
			}
			_ = conn.Close()
		}
	}()
	client := redis.NewClient(&redis.Options{
		Addr: l.Addr().String(), Protocol: 2, DisableIdentity: true, MaxRetries: 3,
	})
	require.Error(t, client.Process(t.Context(), redis.NewCmd(t.Context(), "eval", "x", 0)))
	require.EqualValues(t, 4, commands.Swap(0), "go-redis repeats")
	require.Error(t, client.Process(t.Context(), redisguard.Once(redis.NewCmd(t.Context(), "eval", "x", 0))))
	require.EqualValues(t, 1, commands.Load())
	require.NoError(t, client.Close())
	require.NoError(t, l.Close())
	<-ended
}
