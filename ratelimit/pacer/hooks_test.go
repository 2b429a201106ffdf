package pacer_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
)

// TestR32_TurnsAreToldWithoutAnEnd: a caller that gives up its turn is observed by a context that
// has not ended.
func TestR32_TurnsAreToldWithoutAnEnd(t *testing.T) {
	var told []error
	observe := func(ctx context.Context, _ pacer.Event) { told = append(told, ctx.Err()) }
	p, err := pacer.New(pacer.Config{Rate: ratelimit.PerHour(1), Observe: observe})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, p.Wait(ctx, "a"))
	cancel()
	require.Error(t, p.Wait(ctx, "a"))
	require.Equal(t, []error{nil, nil}, told)
}

// TestHooksThatPanic: a panic of Observe goes on in the caller's goroutine, and the turn is taken.
func TestHooksThatPanic(t *testing.T) {
	fail := true
	observe := func(context.Context, pacer.Event) {
		if fail {
			panic("observe")
		}
	}
	p, err := pacer.New(pacer.Config{Rate: ratelimit.PerHour(1).WithBurst(2), Observe: observe})
	require.NoError(t, err)
	require.PanicsWithValue(t, "observe", func() { _ = p.Wait(t.Context(), "a") })
	fail = false
	require.NoError(t, p.Wait(t.Context(), "a"))
}
