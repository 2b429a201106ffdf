package lbsim

import (
	"math"
	"slices"
	"time"
)

// Result is what a run has shown.
type Result struct {
	Requests              int
	Failed, Expired       int
	P50, P99, P999, P9999 time.Duration // of what succeeded, and of the deadlines that passed
	Mean                  time.Duration // of the same
	MaxInside             int           // requests at one server at once
	Jain                  float64       // fairness of picks over the servers that stayed well; 1 is even
	BadShare              float64       // of the picks, at servers with weather
	LeastShare            float64       // picks of the least used server that stayed well, in fair shares
	// Starved is the longest time from a recovery to a quarter of the fair share; -1 if it never
	// came.
	Starved time.Duration
}

// ErrorShare is the share of requests that failed or expired.
func (r Result) ErrorShare() float64 { return float64(r.Failed+r.Expired) / float64(r.Requests) }

func (m *sim) report() Result {
	r := m.result
	slices.Sort(m.latencies)
	quantile := func(q float64) time.Duration {
		if len(m.latencies) == 0 {
			return 0
		}
		return time.Duration(m.latencies[min(int(q*float64(len(m.latencies))), len(m.latencies)-1)])
	}
	r.P50, r.P99, r.P999, r.P9999 = quantile(.5), quantile(.99), quantile(.999), quantile(.9999)
	for _, l := range m.latencies {
		r.Mean += time.Duration(l)
	}
	r.Mean /= time.Duration(max(len(m.latencies), 1))
	r.MaxInside = m.maxInside
	total, bad := 0.0, 0.0
	var well []float64
	for i, buckets := range m.counts {
		n := 0.0
		for _, c := range buckets {
			n += float64(c)
		}
		total += n
		if m.weather.bad[i] {
			bad += n
		} else {
			well = append(well, n)
		}
	}
	r.BadShare = bad / total
	if len(well) > 0 {
		sum, squares := 0.0, 0.0
		for _, n := range well {
			sum += n
			squares += n * n
		}
		r.Jain = sum * sum / (float64(len(well)) * squares)
		r.LeastShare = slices.Min(well) / (total / float64(len(m.servers)))
	}
	for _, v := range m.weather.recovery {
		if d := m.starved(v); d < 0 {
			r.Starved = -1
		} else if r.Starved >= 0 {
			r.Starved = max(r.Starved, d)
		}
	}
	return r
}

// starved returns how long after v its server first has a second with a quarter of the fair share.
func (m *sim) starved(v recovery) time.Duration {
	span := int(second / time.Duration(bucket))
	for b := int(math.Ceil(float64(v.at) / float64(bucket))); b+span <= len(m.counts[v.server]); b++ {
		mine, all := 0.0, 0.0
		for k := b; k < b+span; k++ {
			mine += float64(m.counts[v.server][k])
			for i := range m.counts {
				all += float64(m.counts[i][k])
			}
		}
		if mine >= 0.25*all/float64(len(m.servers)) {
			return time.Duration(b+span)*time.Duration(bucket) - v.at
		}
	}
	if v.at+10*second > time.Duration(m.end-m.warm) {
		return 0 // too late to tell
	}
	return -1
}
