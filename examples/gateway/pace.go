package main

import "time"

// paceWindow is the time over which a pace is measured.
const paceWindow = 10 * time.Second

// A pace is what a client takes or gives while the gateway waits for it.
type pace struct {
	waited time.Duration
	bytes  int
}

// tooSlow counts n bytes that took a wait, and reports whether those of a window are less than
// least bytes a second.
func (p *pace) tooSlow(n int, wait time.Duration, least Pace) bool {
	p.waited += wait
	p.bytes += n
	if p.waited < paceWindow {
		return false
	}
	slow := least > 0 && float64(p.bytes) < float64(least)*p.waited.Seconds()
	*p = pace{}
	return slow
}
