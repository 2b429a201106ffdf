package retry

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	quantile    = 0.95
	generation  = 5 * time.Second // a window holds what came in the last one to two generations,
	generations = 100             // and at least so many requests,
	stale       = 5 * time.Minute // unless they are older than this
	enough      = 50              // requests before which there is no quantile
	slowShare   = 0.25            // if more than this share of the requests is late, all of the host is slow
	subBuckets  = 8               // of each power of two: from 128 µs on a bucket is at most 13 % wide
	buckets     = 27 * subBuckets // up to 2.4 hours
	unit        = 16 * time.Microsecond
)

// A window knows how long requests of one host and class took lately, to the header of the answer.
// It is safe for concurrent use.
type window struct {
	wait atomic.Int64 // the quantile, as a duration; zero if it is not known yet

	mu       sync.Mutex // guards the fields below
	now, old histogram
	began    time.Duration // of the generation now
	news     int           // requests since the quantile was computed
	late     float64       // share of the latest requests that took longer than the quantile
}

type histogram struct {
	n     int
	count [buckets]uint32
}

// delay returns after what time a request is late; ok is false if that is not known.
func (w *window) delay() (d time.Duration, ok bool) {
	d = time.Duration(w.wait.Load())
	return d, d > 0
}

// overdue notes that a request has taken longer than the quantile.
func (w *window) overdue() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lateLocked(1)
}

// helps reports whether hedging does: if many requests are late, the host is slow and would only
// have more to do.
func (w *window) helps() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late <= slowShare
}

func (w *window) lateLocked(x float64) { w.late += (x - w.late) / 32 }

// record notes that a request took d, or longer if it was abandoned then. late says that overdue
// has been told of it.
func (w *window) record(now, d time.Duration, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch age := now - w.began; {
	case age >= stale:
		w.old, w.now, w.began = histogram{}, histogram{}, now
	case age >= generation && w.now.n >= generations:
		w.old, w.now, w.began = w.now, histogram{}, now
	}
	w.now.n++
	w.now.count[bucket(d)]++
	if wait := time.Duration(w.wait.Load()); !late && d <= wait {
		w.lateLocked(0)
	}
	if w.news++; w.news >= 16 || w.wait.Load() == 0 {
		w.news = 0
		if q, ok := w.quantileLocked(); ok {
			w.wait.Store(int64(q))
		}
	}
}

// quantileLocked returns the upper end of the quantile's bucket, so that rather fewer requests are
// late than more: those that are share what hedges may draw.
func (w *window) quantileLocked() (d time.Duration, ok bool) {
	n := w.now.n + w.old.n
	if n < enough {
		return 0, false
	}
	above := n - int(quantile*float64(n)) // requests that may be late
	for i := buckets - 1; i > 0; i-- {
		above -= int(w.now.count[i] + w.old.count[i])
		if above < 0 {
			return upper(i), true
		}
	}
	return upper(0), true
}

// bucket returns the index of d's bucket: linear in each power of two.
func bucket(d time.Duration) int {
	n := uint64(max(d, 0) / unit)
	if n < subBuckets {
		return int(n)
	}
	shift := bits.Len64(n) - bits.Len64(subBuckets)
	return min((shift+1)*subBuckets+int(n>>shift)-subBuckets, buckets-1)
}

// upper returns the first duration beyond bucket i.
func upper(i int) time.Duration {
	if i < subBuckets {
		return time.Duration(i+1) * unit
	}
	shift := i/subBuckets - 1
	return time.Duration((i%subBuckets+subBuckets+1)<<shift) * unit
}
