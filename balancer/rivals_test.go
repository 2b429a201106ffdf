package balancer

import (
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// PeakEWMA returns Finagle's policy, a rival in the simulation: the better of two random endpoints
// by (requests in flight + 1) · latency, where a higher latency counts at once and a lower one with
// the time constant decay. Finagle uses 10 s. With it, [View.Cost] is the decaying peak of the
// latency.
func PeakEWMA(decay time.Duration) Policy { return peakEWMA{decay} }

type peakEWMA struct{ decay time.Duration }

func (p peakEWMA) validate() error {
	f := settings.Of("balancer", "PeakEWMA")
	if p.decay <= 0 {
		f.Add("", "PeakEWMA needs a positive decay")
	}
	return f.Err()
}

func (p peakEWMA) traits() traits { return traits{estimator: estimator{decay: p.decay, peak: true}} }

func (p peakEWMA) Pick(v *View, _ *http.Request) int {
	v.reason = ReasonCost
	return v.leastOf(2, v.score)
}

// Random returns a policy that draws an endpoint at random, by weight: another rival.
func Random() Policy { return random{} }

type random struct{}

func (random) validate() error { return nil }
func (random) traits() traits  { return traits{} }

func (random) Pick(v *View, _ *http.Request) int {
	v.reason = "random"
	if v.tier.uniform {
		return v.any()
	}
	return v.byWeight()
}
