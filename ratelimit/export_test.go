package ratelimit

import "time"

// What the tests of this package drive with times of their own.

// SetBase makes m count from another moment.
func (m *MemoryStore) SetBase(t time.Time) { m.base = t }

// Base returns the moment that m counts from.
func (m *MemoryStore) Base() time.Time { return m.base }

// A Cell is one key's cell under one rate.
type Cell struct {
	word      int64
	rate      Rate
	algorithm Algorithm
}

// NewCell returns an unused Cell, or what is wrong with rate.
func NewCell(r Rate, a Algorithm) (*Cell, error) {
	r, err := r.Validate(a)
	return &Cell{rate: r, algorithm: a}, err
}

// Rate returns the rate with its defaults.
func (c *Cell) Rate() Rate { return c.rate }

// SetRate changes the rate.
func (c *Cell) SetRate(r Rate) error {
	r, err := r.Validate(c.algorithm)
	c.rate = r
	return err
}

// Take asks for cost at the given time since the base.
func (c *Cell) Take(now time.Duration, cost int64) (ok bool, remaining int64, retry, reset time.Duration) {
	a := c.answer(now, cost)
	if a.ok {
		c.word = a.word
	}
	return a.ok, a.remaining, a.retry, a.reset
}

// Refund takes back what Take charged, which left the cell at receipt.
func (c *Cell) Refund(now time.Duration, cost, receipt int64) {
	if c.algorithm == SlidingWindow {
		s := newSlide(c.rate.Limit, c.rate.Window, toTicks(now))
		c.word = s.refund(c.word, cost, uint64(receipt))
		return
	}
	g := c.rate.grid()
	c.word = g.refund(c.word, toTicks(now), cost, receipt)
}

// Receipt returns what Refund needs after a Take at now that was admitted.
func (c *Cell) Receipt(now time.Duration) int64 {
	if c.algorithm == SlidingWindow {
		s := newSlide(c.rate.Limit, c.rate.Window, toTicks(now))
		return int64(s.k)
	}
	return c.word
}

// Charge adds cost.
func (c *Cell) Charge(now time.Duration, cost int64) { c.word = c.answer(now, cost).word }

func (c *Cell) answer(now time.Duration, cost int64) answer {
	if c.algorithm == SlidingWindow {
		s := newSlide(c.rate.Limit, c.rate.Window, toTicks(now))
		return s.answer(c.word, cost)
	}
	g := c.rate.grid()
	return g.answer(c.word, toTicks(now), cost)
}

// SetJitter replaces the randomness of l's Retry-After.
func (l *Limiter) SetJitter(f func() float64) { l.jitter = f }

// Owed returns how many of keys owe anything in m's table of the given policy.
func (m *MemoryStore) Owed(policy string) (n int) {
	t := m.table(policy)
	now := m.now()
	for i := range t.sets {
		s := &t.sets[i]
		s.mu.Lock()
		for _, word := range s.words {
			if t.owed(now, word) > 0 {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// What the memory store's table is made of.
type Set = set

const SetBytes = setBytes
