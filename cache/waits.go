package cache

// waitFor notes that the loader of c, if c is not nil, waits for other. It reports false, and notes
// nothing, if other waits for c: neither would ever end. The calls may belong to several caches.
func (c *call) waitFor(other *call) bool {
	if c == nil {
		return true
	}
	// First, so that of two that begin to wait for each other one at least sees that.
	c.waitsMu.Lock()
	c.waits = append(c.waits, other)
	c.waitsMu.Unlock()
	if other.reaches(c, map[*call]bool{}) {
		c.stopWaiting(other)
		return false
	}
	return true
}

// stopWaiting takes back one waitFor.
func (c *call) stopWaiting(other *call) {
	if c == nil {
		return
	}
	c.waitsMu.Lock()
	defer c.waitsMu.Unlock()
	for i, w := range c.waits {
		if w == other {
			last := len(c.waits) - 1
			c.waits[i], c.waits[last] = c.waits[last], nil
			c.waits = c.waits[:last]
			return
		}
	}
}

// reaches reports whether c waits for target, through others or by itself.
func (c *call) reaches(target *call, seen map[*call]bool) bool {
	if c == target {
		return true
	}
	if seen[c] {
		return false
	}
	seen[c] = true
	c.waitsMu.Lock()
	waits := append([]*call(nil), c.waits...) // only one lock at a time
	c.waitsMu.Unlock()
	for _, w := range waits {
		if w.reaches(target, seen) {
			return true
		}
	}
	return false
}
