package cache

// A climber finds the share of the cache that the admission window should have:
// it changes the share a little, sees whether the hit ratio rose, and goes on or
// turns round. Recency-heavy traffic wants a large window, frequency-heavy
// traffic a small one.
type climber struct {
	hits, misses int
	ratio        float64 // of the last sample
	step         float64 // share of the capacity; its sign is the direction
}

const (
	climbSample  = 10     // uses per entry between two steps
	climbStep    = 0.0625 // share of the capacity
	climbDecay   = 0.98   // of the step while the hit ratio is steady
	climbRestart = 0.05   // change of the hit ratio that calls for full steps again
)

func newClimber() climber { return climber{step: -climbStep} }

// climb returns by which share of the capacity the window should grow or, if
// negative, shrink. Until a sample is complete that is 0.
func (c *climber) climb(entries int) float64 {
	uses := c.hits + c.misses
	if uses < climbSample*entries {
		return 0
	}
	ratio := float64(c.hits) / float64(uses)
	change := ratio - c.ratio
	amount := c.step
	if change < 0 {
		amount = -amount
	}
	switch {
	case change < climbRestart && change > -climbRestart:
		c.step = climbDecay * amount
	case amount >= 0:
		c.step = climbStep
	default:
		c.step = -climbStep
	}
	c.ratio = ratio
	c.hits, c.misses = 0, 0
	return amount
}
