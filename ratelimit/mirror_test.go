package ratelimit_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// While a store works, this process's counts follow it, so that the store's failure grants nobody a
// fresh burst.

// admittedLocally returns how many requests of key l admits while its store fails.
func admittedLocally(t *testing.T, l *ratelimit.Limiter, store *brokenStore, key string) (n int) {
	t.Helper()
	store.err = errDown
	defer func() { store.err = nil }()
	for allow(t, l, key) {
		n++
		require.Less(t, n, 1000)
	}
	return n
}

// TestR18_MirrorOfAStoreThatDoesNotCount: a store that does not say what is left has admitted all
// the same, so each admission counts here.
func TestR18_MirrorOfAStoreThatDoesNotCount(t *testing.T) {
	for _, a := range algorithms {
		store := &brokenStore{remaining: -1}
		p := logIns(a)
		p.CountIf = nil
		l := limiterOn(t, store, p)
		for range 3 {
			require.True(t, allow(t, l, "a"))
		}
		require.Equal(t, 2, admittedLocally(t, l, store, "a"), a)
		require.Equal(t, 5, admittedLocally(t, l, store, "b"), a)
	}
}

// TestR18_MirrorGivesNothingBack: what was used here while the store failed stays used, though the
// store, which knows nothing of it, says that much is left.
func TestR18_MirrorGivesNothingBack(t *testing.T) {
	for _, a := range algorithms {
		store := &brokenStore{}
		p := logIns(a)
		p.CountIf = nil
		l := limiterOn(t, store, p)
		require.Equal(t, 5, admittedLocally(t, l, store, "a"), a)
		require.True(t, allow(t, l, "a"), "the store is up: four are left there")
		require.Zero(t, admittedLocally(t, l, store, "a"), a)
	}
}

// TestLocalSharesOfRateFor: a rate of the caller's plan has its share too.
func TestLocalSharesOfRateFor(t *testing.T) {
	for _, a := range algorithms {
		store := &brokenStore{err: errDown}
		p := logIns(a)
		p.CountIf = nil
		p.LocalShare = 0.5
		plan := p.Rate
		plan.Limit *= 8
		plan.Burst *= 8
		p.RateFor = func(*http.Request) ratelimit.Rate { return plan }
		l := limiterOn(t, store, p)
		for i := range 21 {
			d, err := l.Take(t.Context(), new(http.Request))
			require.NoError(t, err)
			require.Equal(t, i < 20, d.Allowed, "%s: request %d", a, i)
		}
	}
}
