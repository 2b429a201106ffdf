package versioning

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Phase is what a [Rollout] is doing.
type Phase string

const (
	// PhaseWaiting is before the Store has answered for the first time: stable gets all requests.
	PhaseWaiting Phase = "waiting"

	// PhaseRunning is a step, or before the first one.
	PhaseRunning Phase = "running"

	// PhasePaused is a step that does not end by itself, except by a rollback.
	PhasePaused Phase = "paused"

	// PhasePromoted is after the last step: canary gets all requests.
	PhasePromoted Phase = "promoted"

	// PhaseRolledBack is after a rollback: stable gets all requests.
	PhaseRolledBack Phase = "rolled_back"

	// PhaseSuperseded is that of a replica whose release is not the one that is tried: stable gets
	// all its requests.
	PhaseSuperseded Phase = "superseded"
)

// A RolloutState is what all replicas of a [Rollout] have in common. A [RolloutStore] keeps it.
type RolloutState struct {
	Release string  `json:"release"`
	Phase   Phase   `json:"phase"`
	Step    int     `json:"step"`   // of RolloutConfig.Steps; -1 before the first
	Weight  float64 `json:"weight"` // the share of keys that get canary, in steps of 0.0001
	Reason  Reason  `json:"reason"` // why it is so
	Text    string  `json:"text"`   // the same as a sentence, with numbers

	// Epoch counts changes of the weight. Evidence belongs to one.
	Epoch uint64 `json:"epoch"`

	// Period is the number of the weight in this try of the release, from 1 on; ErrorsBefore and
	// LatencyBefore are the evidence of those before.
	Period        int     `json:"period"`
	ErrorsBefore  float64 `json:"errors_before"`
	LatencyBefore float64 `json:"latency_before"`

	// Extended is by how much later the step's deadline is, since the rollout was resumed.
	Extended time.Duration `json:"extended_ns"`

	// Past are releases that were tried, the latest last.
	Past []string `json:"past"`

	// Revision is the Store's: it counts changes. Zero means that there is no state.
	Revision uint64 `json:"revision"`

	// Attempt names the change that made this state, so that a change is made once even if the
	// answer to it is lost and the call repeated.
	Attempt string `json:"attempt"`
}

// maxPast is how many releases are remembered.
const maxPast = 100

// begun returns the state that follows s when release is tried.
func (s RolloutState) begun(release string, reason Reason) RolloutState {
	past := s.Past
	if s.Release != "" && s.Release != release {
		past = append(slices.Clone(past), s.Release)
		past = past[max(len(past)-maxPast, 0):]
	}
	return RolloutState{
		Release: release, Phase: PhaseRunning, Step: -1, Reason: reason, Text: "the release is new",
		Epoch: s.Epoch + 1, Past: past, Revision: s.Revision,
	}
}

// atStep returns the state that follows s at a step, or after the last one. What the test of s has
// found goes on to count.
func (s RolloutState) atStep(step int, steps []Step, reason Reason, v *Verdict) RolloutState {
	next := s
	next.Phase, next.Step, next.Reason, next.Extended = PhaseRunning, step, reason, 0
	next.Epoch++
	if s.Period > 0 && v.Epoch == s.Epoch {
		next.ErrorsBefore, next.LatencyBefore = v.Errors.Evidence, v.Latency.Evidence
	}
	next.Period++
	if step >= len(steps) {
		next.Phase, next.Step, next.Weight = PhasePromoted, len(steps), 1
		next.Text = "canary gets all requests for good"
		return next
	}
	weight := steps[step].weight()
	next.Weight = shareOf(weight)
	next.Text = fmt.Sprintf("canary gets %s of requests, step %d of %d", percent(weight), step+1, len(steps))
	return next
}

// nextStep returns the index of the first step with more than a weight, or the number of steps. The
// weight may be that of a step that is not configured any more: it never falls, and no step that is
// greater is left out.
func nextStep(steps []Step, weight int) int {
	for i := range steps {
		if steps[i].weight() > weight {
			return i
		}
	}
	return len(steps)
}

func (p *plan) nextStep() int { return nextStep(p.cfg.Steps, p.state.weight()) }

// ended returns the state that follows s when the release is rolled back.
func (s RolloutState) ended(reason Reason, text string) RolloutState {
	s.Phase, s.Weight, s.Reason, s.Text = PhaseRolledBack, 0, reason, clip(text)
	s.Epoch++
	return s
}

// paused returns the state that follows s when the rollout waits for a person.
func (s RolloutState) paused(reason Reason, text string) RolloutState {
	s.Phase, s.Reason, s.Text = PhasePaused, reason, clip(text)
	return s
}

// maxText is how many bytes of a sentence are kept: a Gate's error may be of any length.
const maxText = 1000

func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "") }

// resumed returns the state that follows s when it goes on after the given time at its weight. If
// it was paused because of evidence, whoever resumes it has judged that, and it begins anew.
func (s RolloutState) resumed(age time.Duration) RolloutState {
	switch s.Reason {
	case ReasonErrors, ReasonLatency, ReasonFloor, ReasonJudge:
		s.Epoch++
		s.Period, s.ErrorsBefore, s.LatencyBefore, s.Extended = min(s.Period, 1), 0, 0, 0
	default:
		s.Extended = age
	}
	s.Phase, s.Reason, s.Text = PhaseRunning, ReasonOperator, "resumed"
	return s
}

// asksFor reports whether a change to next, whose caller does not know what became of the one to s,
// asks for the same. Evidence and times may have gone on since.
func (s *RolloutState) asksFor(next *RolloutState) bool {
	return s.Attempt != "" && s.Revision == next.Revision && s.Release == next.Release &&
		s.Phase == next.Phase && s.Step == next.Step && s.Weight == next.Weight &&
		s.Reason == next.Reason && s.Text == next.Text
}

// serves returns the weight that a replica with that release gives canary.
func (s *RolloutState) serves(release string) int {
	if s.Release != release {
		return 0
	}
	switch s.Phase {
	case PhaseRunning, PhasePaused, PhasePromoted:
		return s.weight()
	}
	return 0
}

// valid reports whether s can have come from a Rollout.
func (s *RolloutState) valid() bool {
	switch s.Phase {
	case PhaseRunning, PhasePaused, PhasePromoted, PhaseRolledBack:
	default:
		return false
	}
	return validName(s.Release) && s.Weight >= 0 && s.Weight <= 1 && s.Step >= -1 &&
		s.Period >= 0 && s.ErrorsBefore >= 0 && s.LatencyBefore >= 0 && s.Extended >= 0
}

// weight returns the weight of canary in an integer.
func (s *RolloutState) weight() int { return weightOf(s.Weight) }

func percent(weight int) string { return fmt.Sprintf("%g %%", shareOf(weight)*100) }
