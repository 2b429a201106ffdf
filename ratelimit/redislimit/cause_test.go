package redislimit_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// TestFailuresSayTheirFirstCause: not that the time was over, within which go-redis would have
// tried again. The clients have go-redis's defaults.
func TestFailuresSayTheirFirstCause(t *testing.T) {
	liar := startLiar(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()
	unknown := func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.DNSError{Err: "no such host", Name: "redis.test", IsNotFound: true}
	}
	for want, tt := range map[string]struct {
		options redis.Options
		reply   string
	}{
		"connection refused": {options: redis.Options{Addr: closed.Addr().String()}},
		"no such host":       {options: redis.Options{Dialer: unknown}},
		"READONLY":           {redis.Options{Addr: liar.addr}, "-READONLY You write against a replica.\r\n"},
		"CLUSTERDOWN":        {redis.Options{Addr: liar.addr}, "-CLUSTERDOWN The cluster is down\r\n"},
		"LOADING":            {redis.Options{Addr: liar.addr}, "-LOADING Redis is loading\r\n"},
		"NOPERM":             {redis.Options{Addr: liar.addr}, "-NOPERM no permissions to run 'time'\r\n"},
	} {
		liar.reply.Store(&tt.reply)
		client := redis.NewClient(&tt.options)
		defer client.Close()
		var told []error
		l := newLimiter(t, ratelimit.Config{
			Store:    newStore(t, client, redislimit.Config{Timeout: time.Second}),
			Policies: []ratelimit.Policy{policyOf("p", ratelimit.PerHour(100))},
			Observe: func(_ context.Context, e ratelimit.Event) {
				if e.Kind == ratelimit.StoreChanged {
					told = append(told, e.Err)
				}
			},
		})
		d := take(t, l, "a")
		require.True(t, d.Degraded)
		require.Len(t, told, 1)
		require.ErrorContains(t, told[0], want)
	}
}

// TestR35_ConnectionsThatDieTogether: a healthy server that cuts off all pooled connections costs
// no decision, and does not open the breaker.
func TestR35_ConnectionsThatDieTogether(t *testing.T) {
	server := startRedis(t)
	admin := server.client(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: 20, MinIdleConns: 20})
	defer client.Close()
	store := newStore(t, client, redislimit.Config{Timeout: 10 * time.Second})
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(1e6).WithBurst(1e6)))
	all := func() (degraded int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				d, err := l.TakeKeys(t.Context(), []string{"a"})
				mu.Lock()
				defer mu.Unlock()
				if err != nil || d.Degraded {
					degraded++
				}
			})
		}
		wg.Wait()
		return degraded
	}
	require.Zero(t, all())
	for range 5 {
		require.NoError(t, admin.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
		require.Zero(t, all())
		require.False(t, store.Stats().Open)
	}
}

// TestRightsAreEnough: a user with the rights that the package comment names can do all that the
// store does.
func TestRightsAreEnough(t *testing.T) {
	server := startRedis(t)
	admin := server.client(t)
	require.NoError(t, admin.Do(ctx, "ACL", "SETUSER", "limits", "on", ">secret", "resetkeys",
		"~trivet:ratelimit:*", "-@all", "+evalsha", "+eval", "+get", "+set", "+time",
		"+hello", "+client", "+auth", "+ping").Err())
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "limits", Password: "secret"})
	defer client.Close()
	store := newStore(t, client, redislimit.Config{Timeout: 10 * time.Second})
	for _, a := range algorithms {
		l := limiterOn(t, store, logIns(a))
		d := take(t, l, "a")
		require.False(t, d.Degraded)
		require.NoError(t, d.Charge(t.Context(), 1))
		require.NoError(t, d.Done(200))
		d, err := l.PeekKeys(t.Context(), []string{"a"})
		require.NoError(t, err)
		require.False(t, d.Degraded)
		require.EqualValues(t, 4, d.Remaining)
	}
}

// TestR34_LeasesOfSlidingWindowsAreRefused: what is used after the window that it was paid in would
// let an aligned window admit up to twice its limit.
func TestR34_LeasesOfSlidingWindowsAreRefused(t *testing.T) {
	store := newStore(t, quick(t, "127.0.0.1:1"), redislimit.Config{
		Leases: map[string]redislimit.LeaseConfig{"window": {}, "bucket": {}},
	})
	p := policyOf("window", ratelimit.PerHour(100))
	p.Algorithm = ratelimit.SlidingWindow
	_, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{p}})
	require.ErrorContains(t, err, `Leases["window"]: the policy is a SlidingWindow`)
	_, err = ratelimit.New(ratelimit.Config{
		Store: store, Policies: []ratelimit.Policy{policyOf("bucket", ratelimit.PerHour(100))},
	})
	require.NoError(t, err)
}
