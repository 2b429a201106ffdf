package versioning

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// A ShadowOutcome is what has become of a request that was sampled.
type ShadowOutcome string

const (
	// ShadowMatch is a candidate's answer without a difference but for noise.
	ShadowMatch ShadowOutcome = "match"

	// ShadowDiffer is one with a difference.
	ShadowDiffer ShadowOutcome = "differ"

	// ShadowLearning is one that was compared before it was known what is noise.
	ShadowLearning ShadowOutcome = "learning"

	ShadowFailure  ShadowOutcome = "failure"   // Transport has returned an error
	ShadowTimeout  ShadowOutcome = "timeout"   // it took longer than Timeout, or Close cut it off
	ShadowPanic    ShadowOutcome = "panic"     // the candidate, the handler in use or Show panicked
	ShadowDropped  ShadowOutcome = "dropped"   // there was no room: Queue or MaxBytes
	ShadowTooLarge ShadowOutcome = "too_large" // a body is larger than MaxBody
	ShadowPartial  ShadowOutcome = "partial"   // the handler in use has not read the whole body
	ShadowCanceled ShadowOutcome = "canceled"  // the client has left
	ShadowMethod   ShadowOutcome = "method"    // requests with this method are not copied
	ShadowUpgrade  ShadowOutcome = "upgrade"   // the connection is upgraded
	ShadowStream   ShadowOutcome = "stream"    // the answer is a stream of events
)

// shadowOutcomes are in the order of shadowCounts.
var shadowOutcomes = [...]ShadowOutcome{
	ShadowMatch, ShadowDiffer, ShadowLearning, ShadowFailure, ShadowTimeout, ShadowPanic, ShadowDropped,
	ShadowTooLarge, ShadowPartial, ShadowCanceled, ShadowMethod, ShadowUpgrade, ShadowStream,
}

type shadowCounts [len(shadowOutcomes)]atomic.Uint64

// A ShadowEvent is a request that was sampled.
type ShadowEvent struct {
	Shadow  string // its name
	Outcome ShadowOutcome
}

// LogValue implements [slog.LogValuer].
func (e ShadowEvent) LogValue() slog.Value {
	return slog.GroupValue(slog.String("event", "shadow"), slog.String("outcome", string(e.Outcome)),
		slog.GroupAttrs("detail", slog.String("shadow", e.Shadow)))
}

// count counts and reports an outcome.
func (s *Shadow) count(ctx context.Context, outcome ShadowOutcome) {
	s.counts[slices.Index(shadowOutcomes[:], outcome)].Add(1)
	if s.cfg.Observe != nil {
		s.cfg.Observe(context.WithoutCancel(ctx), ShadowEvent{s.cfg.Name, outcome})
	}
}

// ShadowStats is a snapshot of counters and gauges.
type ShadowStats struct {
	Requests map[string]uint64 `json:"requests"` // by ShadowOutcome
	Queue    int               `json:"queue"`    // copies that wait
	Workers  int               `json:"workers"`  // that are busy
	Bytes    int               `json:"bytes"`    // that copies take

	// Panics counts panics on the Shadow's goroutines: of Observe and Show, and of the handler in
	// use while it answers a request once more, see [ShadowConfig].Learn.
	Panics uint64 `json:"panics"`
}

// Stats returns a snapshot.
func (s *Shadow) Stats() ShadowStats {
	stats := ShadowStats{
		Requests: map[string]uint64{}, Queue: len(s.queue), Workers: int(s.workers.Load()),
		Bytes: int(s.bytes.Load()), Panics: s.panics.Load(),
	}
	for i, outcome := range shadowOutcomes {
		stats.Requests[string(outcome)] = s.counts[i].Load()
	}
	return stats
}

// A ShadowReport is what comparisons have found.
type ShadowReport struct {
	Compared  uint64       `json:"compared"`
	Learned   uint64       `json:"learned"`   // pairs of answers of the handler in use
	Judged    uint64       `json:"judged"`    // compared since noise is known
	Differing uint64       `json:"differing"` // judged with a difference that is not noise
	Paths     []PathReport `json:"paths"`     // the most frequent differences first, noise last
	Samples   []Difference `json:"samples"`
	Primary   LatencyOf    `json:"primary"`
	Candidate LatencyOf    `json:"candidate"`
}

// A PathReport is how often answers differed at a path.
type PathReport struct {
	Path    string `json:"path"`
	Differs uint64 `json:"differs"` // between the handler in use and the candidate
	Noise   uint64 `json:"noise"`   // between two answers of the handler in use
	Noisy   bool   `json:"noisy"`   // so that it does not count
}

// LatencyOf has the percentiles of the time until answers began.
type LatencyOf struct {
	P50 time.Duration `json:"p50_ns"`
	P95 time.Duration `json:"p95_ns"`
	P99 time.Duration `json:"p99_ns"`
}

func (h *histogram) percentiles() LatencyOf {
	var counts [bins]uint64
	h.addTo(counts[:])
	return LatencyOf{quantile(counts[:], 0.5), quantile(counts[:], 0.95), quantile(counts[:], 0.99)}
}

// Report returns what comparisons have found until now.
func (s *Shadow) Report() ShadowReport {
	r := ShadowReport{
		Paths: []PathReport{}, Primary: s.primary.percentiles(), Candidate: s.candidate.percentiles(),
	}
	d := &s.differences
	d.mu.Lock()
	r.Compared, r.Learned, r.Judged, r.Differing = d.compared, d.learned, d.judged, d.differing
	r.Samples = append([]Difference{}, d.samples...)
	for path, c := range d.paths {
		r.Paths = append(r.Paths, PathReport{path, c.differs, c.noise, d.noisyLocked(c)})
	}
	d.mu.Unlock()
	slices.SortFunc(r.Paths, func(a, b PathReport) int {
		if a.Noisy != b.Noisy {
			if a.Noisy {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.Differs, a.Differs), cmp.Compare(a.Path, b.Path))
	})
	return r
}

// Judge returns a function for [RolloutConfig].Judge. It holds the rollout until least answers have
// been judged, and at least one. Then it returns worse, which is [Hold] or [RejectRelease], if the
// share of them that differ is more than most, and otherwise [Advance]. most is from 0 to 1: 0.05
// for 5 %. With another most or another worse it holds the rollout for ever, and its reason says
// so.
//
// A Shadow compares one candidate. Another release needs another Shadow, or it is judged by what
// the release before has answered.
func (s *Shadow) Judge(most float64, least int, worse Decision) func() (Decision, string) {
	return func() (Decision, string) {
		switch {
		case !(most >= 0 && most <= 1):
			return Hold, fmt.Sprintf("the share %v that may differ is not from 0 to 1", most)
		case worse != Hold && worse != RejectRelease:
			return Hold, fmt.Sprintf("the decision %q is not Hold or RejectRelease", worse)
		}
		least := max(least, 1)
		d := &s.differences
		d.mu.Lock()
		judged, differing := d.judged, d.differing
		d.mu.Unlock()
		switch {
		case judged < uint64(least):
			return Hold, fmt.Sprintf("%d of %d answers are compared", judged, least)
		case float64(differing) > most*float64(judged):
			return worse, fmt.Sprintf("%d of %d answers differ, more than %.4g %%", differing, judged,
				100*most)
		}
		return Advance, fmt.Sprintf("%d of %d answers differ", differing, judged)
	}
}
