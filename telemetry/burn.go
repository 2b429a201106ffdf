package telemetry

import "time"

// A windowPair is two windows over which an error budget may burn too fast: the long one proves
// that it matters, the short one that it still goes on. A budget that burns at rate 1 lasts 30 days
// (Google, The Site Reliability Workbook, chapter 5).
type windowPair struct {
	long, short time.Duration
	factor      float64 // the rate above which the pair fires
	severity    Severity
}

var windowPairs = [...]windowPair{
	{time.Hour, 5 * time.Minute, 14.4, Page},   // 2 % of the budget
	{6 * time.Hour, 30 * time.Minute, 6, Page}, // 5 %
	{24 * time.Hour, 2 * time.Hour, 3, Ticket}, // 10 %
	{72 * time.Hour, 6 * time.Hour, 1, Ticket}, // 10 %
}

const ringMinutes = 72*60 + 1 // the longest window and a minute to begin

// An Objective is one of the two that an [SLO] can have.
type Objective string

const (
	Availability Objective = "availability" // a share of the requests must not fail
	Latency      Objective = "latency"      // a share of those that do not fail must be done in time
)

// A Severity says who should act on a [Burn].
type Severity string

const (
	Page   Severity = "page"   // somebody, now
	Ticket Severity = "ticket" // somebody, within days
)

// A Burn is how fast an objective's error budget is used up within a pair of windows.
type Burn struct {
	Objective Objective     `json:"objective"`
	Severity  Severity      `json:"severity"`
	Long      time.Duration `json:"long_ns"`
	Short     time.Duration `json:"short_ns"`
	Factor    float64       `json:"factor"`    // it fires if both rates are higher
	LongRate  float64       `json:"long_rate"` // at 1, the budget lasts just its 30 days
	ShortRate float64       `json:"short_rate"`
	Total     uint64        `json:"total"`  // requests within the long window
	Bad       uint64        `json:"bad"`    // of them, those that failed or were slow
	Firing    bool          `json:"firing"` // and at least SLOConfig.MinEvents of Total are bad
}

// Burn returns the state of each objective and pair of windows. It leaves out a pair whose factor
// the objective can never reach, because more than all requests would have to fail.
func (s *SLO) Burn() []Burn { return s.burn(time.Since(s.epoch)) }

func (s *SLO) burn(at time.Duration) []Burn {
	sums := s.sums(at)
	var all []Burn
	for _, o := range s.goals() {
		for _, w := range windowPairs {
			if !w.reachable(o.target) {
				continue
			}
			total, bad := o.counts(sums[w.long])
			b := Burn{
				Objective: o.name, Severity: w.severity, Long: w.long, Short: w.short, Factor: w.factor,
				Total: total, Bad: bad,
			}
			b.LongRate = rate(total, bad, o.target)
			total, bad = o.counts(sums[w.short])
			b.ShortRate = rate(total, bad, o.target)
			b.Firing = b.LongRate > w.factor && b.ShortRate > w.factor && b.Bad >= uint64(s.cfg.MinEvents)
			all = append(all, b)
		}
	}
	return all
}

func (w windowPair) reachable(target float64) bool { return w.factor*(1-target) < 1 }

func rate(total, bad uint64, target float64) float64 {
	if total == 0 {
		return 0
	}
	return float64(bad) / float64(total) / (1 - target)
}

// A goal is an objective that an SLO has: what it counts, and which part of that must be good.
type goal struct {
	name   Objective
	target float64
	counts func(sum) (total, bad uint64)
}

func (s *SLO) goals() []goal {
	var all []goal
	if s.cfg.Availability > 0 {
		counts := func(c sum) (total, bad uint64) { return c.total, c.bad }
		all = append(all, goal{Availability, s.cfg.Availability, counts})
	}
	if s.cfg.Latency > 0 {
		counts := func(c sum) (total, bad uint64) { return c.timed, c.slow }
		all = append(all, goal{Latency, s.cfg.LatencyTarget, counts})
	}
	return all
}

// A sum is what counts held over a window.
type sum struct{ total, bad, timed, slow uint64 }

// sums returns the counts of all windows that end at an offset since the epoch.
func (s *SLO) sums(at time.Duration) map[time.Duration]sum {
	now := int64(at/time.Minute) + 1
	out := make(map[time.Duration]sum, 2*len(windowPairs))
	ends := make(map[int64]time.Duration, 2*len(windowPairs))
	for _, w := range windowPairs {
		ends[int64(w.long/time.Minute)] = w.long
		ends[int64(w.short/time.Minute)] = w.short
	}
	var acc sum
	for back := int64(1); back < ringMinutes; back++ {
		index := now - back + 1 // the current minute first
		if index > 0 {
			if m := &s.ring[index%ringMinutes]; m.index.Load() == index {
				acc.total += m.total.Load()
				acc.bad += m.bad.Load()
				acc.timed += m.timed.Load()
				acc.slow += m.slow.Load()
			}
		}
		if w, ok := ends[back]; ok {
			out[w] = acc
		}
	}
	return out
}
