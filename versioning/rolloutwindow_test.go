package versioning

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTheWindowOfSlowness: what is slow is decided by the last ten seconds, and only what is above
// the 95th percentile by more than a histogram can tell.
func TestTheWindowOfSlowness(t *testing.T) {
	var s slowness
	e := &evidence{weight: 500}
	add := func(n int, took time.Duration) {
		for i := range n {
			e.record(draw{counts: true, canary: i%2 == 0, bucket: i}, success, took)
		}
	}
	begun := time.Now()
	s.look(e, begun)
	add(1000, 10*time.Millisecond)
	s.look(e, begun.Add(slowWindow-1))
	require.Zero(t, e.slowFrom.Load(), "the window is not over")
	s.look(e, begun.Add(slowWindow))
	from := time.Duration(e.slowFrom.Load())
	require.Greater(t, from, 10*time.Millisecond, "those that all requests are like are not slow")
	require.Less(t, from, 11*time.Millisecond)

	add(1000, 100*time.Millisecond)
	s.look(e, begun.Add(2*slowWindow-1))
	require.EqualValues(t, from, e.slowFrom.Load())
	s.look(e, begun.Add(2*slowWindow))
	require.Greater(t, time.Duration(e.slowFrom.Load()), 100*time.Millisecond, "only the last window counts")

	from = time.Duration(e.slowFrom.Load())
	add(minSlowness-1, time.Millisecond)
	s.look(e, begun.Add(5*slowWindow))
	require.EqualValues(t, from, e.slowFrom.Load(), "with so few the window goes on")
	add(1, time.Millisecond)
	s.look(e, begun.Add(5*slowWindow+1))
	require.Less(t, time.Duration(e.slowFrom.Load()), 2*time.Millisecond)
}

// TestNoDoubtWithinTheTolerance: a release that is slower by no more than may be is not held for
// it.
func TestNoDoubtWithinTheTolerance(t *testing.T) {
	for tolerance, want := range map[float64]Decision{1.25: RejectRelease, 4: Advance} {
		cfg := &RolloutConfig{Alpha: 0.005, Tolerance: tolerance, Steps: []Step{{Weight: 0.05}}}
		p := position{cfg: cfg, judged: Advance, state: &RolloutState{Weight: 0.05, Period: 1}}
		v := p.verdict(slowTally(1.5), time.Now())
		require.Greater(t, v.Latency.Evidence, v.Needed)
		require.Equal(t, want, v.Decision, "%v: %s", tolerance, v.Text)
	}
}

// TestReleasesOfThePastAreBounded, the latest of which are remembered.
func TestReleasesOfThePastAreBounded(t *testing.T) {
	var s RolloutState
	for i := range 3 * maxPast {
		s = s.begun(strconv.Itoa(i), ReasonStart)
	}
	require.Len(t, s.Past, maxPast)
	require.Equal(t, strconv.Itoa(3*maxPast-2), s.Past[maxPast-1])
	require.Equal(t, strconv.Itoa(2*maxPast-1), s.Past[0])
}

// TestAResumedRolloutIsJudgedAnew if it was paused for what was found: whoever resumes it has
// judged that. Otherwise what was seen stays, and the deadline begins again.
func TestAResumedRolloutIsJudgedAnew(t *testing.T) {
	for _, reason := range []Reason{ReasonErrors, ReasonLatency, ReasonFloor, ReasonJudge} {
		judged := RolloutState{
			Phase: PhasePaused, Reason: reason, Epoch: 4, Period: 3, ErrorsBefore: 7, LatencyBefore: 8,
			Extended: time.Hour, Weight: 0.05,
		}
		want := RolloutState{
			Phase: PhaseRunning, Reason: ReasonOperator, Text: "resumed", Epoch: 5, Period: 1, Weight: 0.05,
		}
		require.Equal(t, want, judged.resumed(time.Minute), reason)
	}
	for _, reason := range []Reason{ReasonOperator, ReasonDeadline, ReasonGate} {
		paused := RolloutState{
			Phase: PhasePaused, Reason: reason, Epoch: 4, Period: 3, ErrorsBefore: 7, LatencyBefore: 8,
		}
		want := paused
		want.Phase, want.Reason, want.Text = PhaseRunning, ReasonOperator, "resumed"
		want.Extended = time.Minute
		require.Equal(t, want, paused.resumed(time.Minute), reason)
	}
}
