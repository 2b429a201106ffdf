package versioning

import (
	"math"
	"sync"
)

// odds are the alternatives of a test: events are so many times as likely in canary as in stable.
var odds = [...]float64{1.5, 2, 4, 10, 50}

// logEvidence returns the logarithm of the evidence that events fall into canary more often than by
// chance: the mean over odds of the likelihood ratios. Given no difference, the chance that it ever
// exceeds log(1/a), however often it is looked at, is at most a (Ville's inequality).
//
// If the arms do not differ, each order in which buckets have their first event is as likely as any
// other, whoever the clients are and whatever they do: of n buckets with an event those in canary
// are drawn without replacement from fullWeight buckets of which weight are canary's. Singles are
// canary's with the chance weight/fullWeight each. No rate of errors is in any of this.
func logEvidence(weight int, t *testTally) float64 {
	canary, stable := t.buckets.count(weight)
	return logRatio(weight, canary, stable, t.singles)
}

// logRatio is logEvidence by the numbers of buckets with an event and of singles.
func logRatio(weight, canary, stable int, events [2]uint64) float64 {
	if weight <= 0 || weight >= fullWeight {
		return 0
	}
	w := float64(weight) / fullWeight
	singles := [2]float64{float64(events[0]), float64(events[1])}
	chance := logFalling(weight, canary) + logFalling(fullWeight-weight, stable) -
		logFalling(fullWeight, canary+stable) + singles[1]*math.Log(w) + singles[0]*math.Log1p(-w)
	var logs [len(odds)]float64
	most := math.Inf(-1)
	for i, k := range odds {
		q := w * k / (w*k + 1 - w)
		logs[i] = (float64(canary)+singles[1])*math.Log(q) + (float64(stable)+singles[0])*math.Log1p(-q)
		most = max(most, logs[i])
	}
	total := 0.0
	for _, l := range logs {
		total += math.Exp(l - most)
	}
	return most + math.Log(total/float64(len(odds))) - chance
}

// logFalling returns the logarithm of n·(n-1)·…·(n-k+1).
func logFalling(n, k int) float64 { return logFactorials()[n] - logFactorials()[n-k] }

// logFactorials returns the logarithms of the factorials up to fullWeight's.
var logFactorials = sync.OnceValue(func() *[fullWeight + 1]float64 {
	logs := new([fullWeight + 1]float64)
	for i := range logs {
		logs[i], _ = math.Lgamma(float64(i + 1))
	}
	return logs
})

// share returns the part of the whole evidence that the period with that number, from 1 on, has: a
// rollout has a period for each weight, and their number is not known before. Clients that fail are
// in the same arm in each of them, so that their evidence cannot be multiplied; the weighted sum of
// what the periods find is evidence whatever they have in common. The shares add up to 1.
func share(period int) float64 { return 1 / float64(period*(period+1)) }
