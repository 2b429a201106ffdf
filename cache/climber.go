package cache

// A climber finds the share of the cache that the admission window should have: it changes the
// share a little, sees whether the hit ratio rose, and goes on or turns round. Recency-heavy
// traffic wants a large window, frequency-heavy traffic a small one.
type climber struct {
	hits, misses int
	ratio        float64 // of the last sample
	step         float64 // share of the capacity; its sign is the direction

	pinned   bool // the last step could not be made: the window is as small as it can be
	waited   int  // samples since, without turning round
	patience int  // samples to wait

	length float64 // of the sample, in uses per entry
	random func() float64
}

const (
	climbSample  = 10     // uses per entry between two steps, on average
	climbDither  = 0.05   // samples differ in length by this share, to stay out of step with the traffic
	climbStep    = 0.0625 // share of the capacity
	climbDecay   = 0.98   // of the step while the hit ratio is steady
	climbRestart = 0.05   // change of the hit ratio that calls for full steps again
	maxPatience  = 16
)

func newClimber(random func() float64) climber {
	return climber{step: -climbStep, length: climbSample, random: random}
}

// climb returns by which share of the capacity the window should grow or, if negative, shrink.
// Until a sample is complete it returns 0.
func (c *climber) climb(entries int) float64 {
	uses := c.hits + c.misses
	if float64(uses) < c.length*float64(entries) {
		return 0
	}
	c.length = climbSample * (1 + climbDither*(2*c.random()-1))
	ratio := float64(c.hits) / float64(uses)
	change := ratio - c.ratio
	c.ratio = ratio
	c.hits, c.misses = 0, 0
	steady := change < climbRestart && change > -climbRestart

	// A pinned window was not changed, so a small change of the ratio is chance. To try the other
	// direction costs hits, so it is done more and more seldom as long as it does not pay.
	if c.pinned && steady && change < 0 {
		if c.waited++; c.waited <= c.patience {
			return c.step
		}
		c.waited, c.patience = 0, min(maxPatience, 2*c.patience+1)
	}
	if c.pinned && !steady {
		c.waited, c.patience = 0, 0 // the traffic is another
	}
	amount := c.step
	if change < 0 {
		amount = -amount
	}
	switch {
	case steady:
		c.step = climbDecay * amount
	case amount >= 0:
		c.step = climbStep
	default:
		c.step = -climbStep
	}
	return amount
}
