package ratelimit_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// TestPeek says what Take would say, and changes nothing: neither counts nor Stats nor events.
func TestPeek(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := policyOf("p", ratelimit.Rate{Limit: 3, Window: 3 * time.Minute, Burst: 3})
				if p.Algorithm = a; a == ratelimit.SlidingWindow {
					p.Rate.Burst = 0
				}
				events := 0
				l := newLimiter(t, ratelimit.Config{
					Policies: []ratelimit.Policy{p},
					Observe:  func(context.Context, ratelimit.Event) { events++ },
				})
				for i := range int64(4) {
					for range 5 {
						d, err := l.Peek(t.Context(), new(http.Request))
						require.NoError(t, err)
						require.Equal(t, i < 3, d.Allowed)
						require.Equal(t, 3-i, d.Remaining)
						require.NoError(t, d.Charge(t.Context(), 1))
						require.NoError(t, d.Done(200))
					}
					peeked, err := l.Peek(t.Context(), new(http.Request))
					require.NoError(t, err)
					taken, err := l.Take(t.Context(), new(http.Request))
					require.NoError(t, err)
					require.Equal(t, taken.Allowed, peeked.Allowed)
					require.Equal(t, taken.Violated(), peeked.Violated())
					require.Equal(t, taken.RetryAfter, peeked.RetryAfter)
				}
				require.Equal(t, 4, events)
				require.EqualValues(t, 3, l.Stats().Admitted)
				require.EqualValues(t, 1, l.Stats().Limited)
			})
		})
	}
}

// TestPeekWithoutAnAnswer: a missing key, prices that are no prices, keys that are too few.
func TestPeekWithoutAnAnswer(t *testing.T) {
	p := policyOf("p", ratelimit.PerHour(10))
	p.Key = ratelimit.ByHeader("X-Key")
	p.Missing = ratelimit.MissingReject
	l := limiterOf(t, p)
	d, err := l.Peek(t.Context(), new(http.Request))
	require.NoError(t, err)
	require.Equal(t, ratelimit.NoKey, d.Outcome)
	_, err = l.PeekKeys(t.Context(), nil)
	require.ErrorContains(t, err, "PeekKeys: 0 keys for 1 policies")
	p.Missing, p.Cost = ratelimit.MissingShared, func(*http.Request) int64 { return -1 }
	_, err = limiterOf(t, p).Peek(t.Context(), new(http.Request))
	require.ErrorContains(t, err, "Cost: returned -1")
}

// TestPeekWhileTheStoreFails: each policy's OnError says what Take would.
func TestPeekWhileTheStoreFails(t *testing.T) {
	for onError, want := range map[ratelimit.OnError]ratelimit.Outcome{
		ratelimit.FailLocal: ratelimit.Admitted, ratelimit.FailOpen: ratelimit.Admitted,
		ratelimit.FailClosed: ratelimit.Unavailable,
	} {
		p := policyOf("p", ratelimit.PerHour(10).WithBurst(2))
		p.OnError = onError
		l := limiterOn(t, &brokenStore{err: errDown}, p)
		for range 5 {
			d, err := l.PeekKeys(t.Context(), []string{"a"})
			require.NoError(t, err)
			require.Equal(t, want, d.Outcome)
			require.True(t, d.Degraded)
			if onError == ratelimit.FailLocal {
				require.EqualValues(t, 2, d.Remaining)
			}
		}
		require.False(t, l.Stats().StoreUp)
	}
}

// TestPeekDoesNotMirror: a peek at the store leaves the local counts as they are.
func TestPeekDoesNotMirror(t *testing.T) {
	store := &brokenStore{}
	l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(10).WithBurst(2)))
	_, err := l.PeekKeys(t.Context(), []string{"a"})
	require.NoError(t, err)
	store.err = errDown
	d, err := l.PeekKeys(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.EqualValues(t, 2, d.Remaining)
}

// TestPeekLowersNoLocalCount: what others have left in the store is mirrored by decisions alone.
func TestPeekLowersNoLocalCount(t *testing.T) {
	store := &brokenStore{}
	p := policyOf("p", ratelimit.PerHour(10).WithBurst(4))
	p.LocalShare = 0.5
	l, other := limiterOn(t, store, p), limiterOn(t, store, p)
	for range 2 {
		_, err := other.TakeKeys(t.Context(), []string{"a"})
		require.NoError(t, err)
	}
	_, err := l.PeekKeys(t.Context(), []string{"a"})
	require.NoError(t, err)
	store.err = errDown
	d, err := l.PeekKeys(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.EqualValues(t, 2, d.Remaining)
}
