package pacer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
)

func TestPacerHostsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerMinute(1).WithBurst(1), MaxKeys: 10, MaxQueue: -1})
		admitted := 0
		for i := range 1000 {
			if p.Wait(t.Context(), fmt.Sprint("host", i)) == nil {
				admitted++
			}
		}
		require.Equal(t, 11, admitted, "the rest share one pace")
		require.Equal(t, 10, p.Stats().Keys)
		require.EqualValues(t, 990, p.Stats().Overflowed)
		require.ErrorIs(t, p.Wait(t.Context(), "host0"), pacer.ErrQueueFull, "nobody's place was given away")
		time.Sleep(time.Minute)
		for i := range 5 {
			require.NoError(t, p.Wait(t.Context(), fmt.Sprint("new", i)), "idle hosts make room")
		}
		require.Equal(t, 10, p.Stats().Keys)
	})
}

// TestPacerLeavingTheOverflow: a host that gets a pace of its own after it shared the one of the
// rest has no second burst, and what it has said is not forgotten.
func TestPacerLeavingTheOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(1).WithBurst(5), MaxKeys: 1, MaxQueue: -1})
		require.NoError(t, p.Wait(t.Context(), "first"))
		for range 5 {
			require.NoError(t, p.Wait(t.Context(), "late"))
		}
		require.ErrorIs(t, p.Wait(t.Context(), "late"), pacer.ErrQueueFull)
		time.Sleep(1500 * time.Millisecond) // the first is idle
		require.NoError(t, p.Wait(t.Context(), "late"))
		require.ErrorIs(t, p.Wait(t.Context(), "late"), pacer.ErrQueueFull, "six of five and one a second")
		require.EqualValues(t, 6, p.Stats().Overflowed)

		time.Sleep(time.Minute)
		require.NoError(t, p.Wait(t.Context(), "second"))
		require.NoError(t, send(t, p.TransportFor("ill", answer(429, "Retry-After", "60")), "http://ill/"))
		time.Sleep(10 * time.Second)
		require.ErrorIs(t, p.Wait(t.Context(), "ill"), pacer.ErrQueueFull, "it said a minute")
		time.Sleep(50 * time.Second)
		require.NoError(t, p.Wait(t.Context(), "ill"))
	})
}

// TestPacerKeepsWhatIsToWait: a host that said to wait keeps its pace until that is over, even if
// it has all its tokens and another host would need the place.
func TestPacerKeepsWhatIsToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(1).WithBurst(2), MaxKeys: 1, MaxQueue: -1})
		require.NoError(t, send(t, p.TransportFor("ill", answer(429, "Retry-After", "60")), "http://ill/"))
		time.Sleep(30 * time.Second)
		require.NoError(t, p.Wait(t.Context(), "new"))
		require.EqualValues(t, 1, p.Stats().Overflowed)
		require.ErrorIs(t, p.Wait(t.Context(), "ill"), pacer.ErrQueueFull)
		time.Sleep(30 * time.Second)
		require.NoError(t, p.Wait(t.Context(), "ill"))
		time.Sleep(2 * time.Second)
		require.NoError(t, p.Wait(t.Context(), "new"))
		require.EqualValues(t, 1, p.Stats().Overflowed, "once the wait is over the place can be had")
	})
}

// TestPacerLeavingAnOverflowThatWasSlowed: the host takes the slow pace along, and not its trace
// once that is over.
func TestPacerLeavingAnOverflowThatWasSlowed(t *testing.T) {
	slowed := func(t *testing.T) *pacer.Pacer {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(5), MaxKeys: 1, MaxQueue: -1})
		require.NoError(t, p.Wait(t.Context(), "first"))
		hint := answer(200, "RateLimit", `"p";r=1;t=60`)
		require.NoError(t, send(t, p.TransportFor("late", hint), "http://late/"))
		require.EqualValues(t, 1, p.Stats().Overflowed)
		return p
	}
	admitted := func(t *testing.T, p *pacer.Pacer) (n int) {
		for p.Wait(t.Context(), "late") == nil {
			n++
		}
		require.EqualValues(t, 1, p.Stats().Overflowed, "it has a pace of its own")
		return n
	}
	synctest.Test(t, func(t *testing.T) {
		p := slowed(t)
		time.Sleep(time.Second) // the first is idle
		require.LessOrEqual(t, admitted(t, p), 1)
		time.Sleep(20 * time.Second)
		require.LessOrEqual(t, admitted(t, p), 1, "it is one a minute, in bursts of one")
	})
	synctest.Test(t, func(t *testing.T) {
		p := slowed(t)
		time.Sleep(time.Hour)
		require.Equal(t, 5, admitted(t, p), "the hint is over, and nothing is owed")
	})
}
