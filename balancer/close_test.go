package balancer_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A slowPolicy does something during a pick, such as ending the Balancer or the target.
type slowPolicy struct{ during func() }

func (p *slowPolicy) Pick(v *balancer.View, _ *http.Request) int {
	if p.during != nil {
		p.during()
	}
	if v.Avoided(0) {
		return 1
	}
	return 0
}

// A request that is being picked for while Close counts the running ones is not among them, and
// does not leave.
func TestNothingLeavesAfterClose(t *testing.T) {
	policy, sent := new(slowPolicy), 0
	b, err := balancer.New(balancer.Config{
		Resolver: balancer.Static("a:1", "b:1"), Policy: policy,
		Wrap: upstream(
			func(
				balancer.Endpoint, *http.Request,
			) (*http.Response, error) {
				sent++
				return answer(200), nil
			},
		).wrap,
	})
	require.NoError(t, err)
	policy.during = func() { require.NoError(t, b.Close(t.Context())) }
	body := &closing{Reader: strings.NewReader("x")}
	req, err := http.NewRequest(http.MethodPost, "http://users.internal/", body)
	require.NoError(t, err)
	_, err = b.RoundTrip(req)
	require.ErrorIs(t, err, balancer.ErrClosed)
	require.Zero(t, sent)
	require.Zero(t, b.Stats().InFlight)
	require.True(t, body.closed())
}

// A request on its way from one endpoint to the next is running.
func TestCloseWaitsForRepickedRequests(t *testing.T) {
	b, err := balancer.New(balancer.Config{
		Resolver: balancer.Static("a:1", "b:1"), Policy: new(slowPolicy),
		Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
			if e.Addr == "a:1" {
				return nil, unsent{}
			}
			return answer(200), nil
		}).wrap,
	})
	require.NoError(t, err)
	req, err := http.NewRequest(http.MethodPost, "http://users.internal/", strings.NewReader("x"))
	require.NoError(t, err)
	req.GetBody = func() (io.ReadCloser, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, b.Close(ctx), context.DeadlineExceeded)
		return io.NopCloser(strings.NewReader("x")), nil
	}
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, b.Close(t.Context()))
}

// If a target is dropped while a request is being picked for, the request brings the target back:
// Close has to know of all requests.
func TestForgottenDuringAPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := new(slowPolicy)
		var b *balancer.Balancer
		inflight := 0
		b = newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"), Policy: policy, IdleTimeout: time.Minute,
			Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
				inflight = b.Stats().InFlight
				return answer(200), nil
			}).wrap,
		})
		policy.during = func() {
			policy.during = nil
			time.Sleep(2 * time.Minute)
		}
		_, err := get(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 1, inflight)
		require.Equal(t, uint64(1), b.Stats().Requests)
	})
}

// Warm opens nothing once the Balancer is closed, and Close ends one that runs.
func TestCloseEndsWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := make(chan struct{}, 10)
		b, err := balancer.New(balancer.Config{
			Resolver: balancer.Static("a:1"), Health: balancer.HealthConfig{Timeout: time.Hour},
			Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				dials <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}},
		})
		require.NoError(t, err)
		warmed := make(chan error, 1)
		go func() { warmed <- b.Warm(t.Context(), "http://users.internal", 1) }()
		synctest.Wait()
		require.Len(t, dials, 1)
		require.NoError(t, b.Close(t.Context()))
		synctest.Wait()
		require.ErrorIs(t, <-warmed, balancer.ErrClosed)
		require.ErrorIs(t, b.Warm(t.Context(), "http://users.internal", 1), balancer.ErrClosed)
		require.Len(t, dials, 1)
	})
}

// That holds for one that finds all endpoints full, too: it does not wait for room in vain.
func TestNothingLeavesAfterCloseFromFullEndpoints(t *testing.T) {
	policy, h := new(slowPolicy), new(holding)
	b, err := balancer.New(balancer.Config{
		Resolver: balancer.Static("a:1", "b:1"), Policy: policy, MaxConns: 1, Wrap: h.wrap,
	})
	require.NoError(t, err)
	bodies := hold(t, b, 2)
	picks := 0
	policy.during = func() {
		if picks++; picks == 3 { // both are full; it will wait for the first
			for _, body := range bodies {
				require.NoError(t, body.Close())
			}
			require.NoError(t, b.Close(t.Context()))
		}
	}
	resp, err := send(t.Context(), b)
	if err == nil {
		resp.Body.Close()
	}
	require.ErrorIs(t, err, balancer.ErrClosed)
	require.Equal(t, 3, picks)
	require.Len(t, h.at, 2)
}
