package retry

import (
	"net/http"
	"time"
)

// SetRandom replaces the source of jitter.
func (r *Retrier) SetRandom(f func(n int64) int64) { r.random = f }

const MaxBuffered = maxBuffered

// Buffered changes how much the process keeps of requests' bodies by n, and returns it.
func Buffered(n int64) int64 { return buffered.Add(n) }

// HedgeDelay returns after what time req would be hedged, or 0.
func (r *Retrier) HedgeDelay(req *http.Request) time.Duration {
	d, _ := r.window(req).delay()
	return d
}
