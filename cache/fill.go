package cache

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A fill is one fetch, of a handler or through a RoundTripper, on a goroutine of its own. Any
// number of clients read what it fetches. It outlives them if what it fetches can be stored.
type fill struct {
	c              *Cache
	x              *exchange // of the request that began it; its r has the fill's context
	mark           Mark
	base           *Entry   // the stored response that the client could not get; may be nil
	candidates     []*Entry // whose validators were sent
	from           int64    // bytes of base that need not be fetched
	ranged         bool     // a part was asked for
	probe          *Entry   // what is known of the response before it is there; set if joinable
	joinable       bool
	refresh        bool // nobody has waited for it
	remember       bool // what could not be shared
	conditionsOurs bool // the client's own were taken out
	requested      time.Time
	lease          *lease      // of the turn to fetch for all processes; may be nil
	varies         []Selecting // on what another response for the URL depends, if one was seen
	ctx            context.Context
	cancel         context.CancelCauseFunc

	mu       sync.Mutex // guards the fields below
	wake     chan struct{}
	readers  map[*reader]bool
	leader   *reader // who began the fill; nil for a refresh
	interims []interim
	forms    forms
	moved    time.Time // when the header came, or more of the body
	decided  bool
	done     bool
	stored   bool
	kept     bool // in the store
	stream   stream

	// What decide finds out. Nobody changes it afterwards, except entry: it is nil once the body
	// proves too large.
	resp     arrival
	length   int64          // Content-Length; negative: unknown
	entry    *Entry         // that will be stored
	updated  *Entry         // that was validated
	reason   Reason         // why nothing is stored
	offer    *http.Response // of a Transport
	direct   *http.Response
	err      error
	panicked any
	trailer  http.Header
}

// An interim is a 1xx response.
type interim struct {
	status int
	header http.Header
}

const maxInterims = 16

// newFill returns a fill for x, which is not run yet. The request gets a context that has the
// values of x's and not its end.
func (x *exchange) newFill(mark Mark) *fill {
	f := &fill{c: x.c, mark: mark, length: -1, readers: make(map[*reader]bool)}
	own := *x
	own.echo = slices.Clone(x.echo)
	own.w, own.next, own.sender, own.rep, own.forms, own.lease = nil, nil, nil, reply{}, forms{}, nil
	f.x = &own
	f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(x.r.Context()))
	f.requested = time.Now()
	return f
}

// fetch runs f, whose handler or RoundTripper is from.
func (f *fill) fetch(from origin) {
	f.c.counts.fetches.Add(1)
	f.c.counts.filling.Add(1)
	began := time.Now()
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				f.c.counts.panics.Add(1) // first: fail hands v to the leader
			}
			f.fail(nil, v)
		}
		f.fail(errExited, nil) // unless it has ended in another way
		f.endLease()
		f.c.fills.remove(f)
		f.c.work.remove(f)
		if f.direct == nil {
			f.cancel(nil)
		}
		f.c.counts.filling.Add(-1)
		f.report(time.Since(began))
	}()
	from.fetch(f)
}

// report tells of the end of a refresh.
func (f *fill) report(took time.Duration) {
	f.mu.Lock()
	err, panicked, status, refresh := f.err, f.panicked, f.resp.status, f.refresh
	f.mu.Unlock()
	if !refresh {
		return
	}
	outcome := Revalidated
	switch {
	case err != nil || panicked != nil || serverError(status):
		outcome = Error
		f.c.counts.failed.Add(1)
	case f.updated == nil:
		outcome = Miss
	}
	f.c.counts.refreshes.Add(1)
	e := Event{Kind: Refreshed, Outcome: outcome, Reason: f.reason, Status: status, Duration: took, Err: err}
	if !f.c.quiet {
		e.Key = f.url()
		f.observe(e)
	}
}

// observe calls Observe on the fill's goroutine, where its panic must not end the process.
func (f *fill) observe(e Event) {
	defer func() {
		if recover() != nil {
			f.c.counts.panics.Add(1)
		}
	}()
	f.c.observe(f.ctx, e)
}

func (f *fill) url() string {
	scheme, host := f.x.origin()
	return scheme + ":" + plainURL(scheme, host, f.x.r.URL.EscapedPath(), f.x.r.URL.RawQuery)
}

// read adds a reader. It reports false if there is nothing to read any more.
func (f *fill) read() (*reader, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done || f.stream.base > 0 || f.decided && !f.stream.kept && f.updated == nil {
		return nil, false
	}
	if !f.c.work.claim(f) {
		return nil, false
	}
	rd := &reader{f: f}
	f.readers[rd] = true
	return rd, true
}

// over reports whether f has ended.
func (f *fill) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

// close takes away a reader. A fill without readers goes on if its response may be stored.
func (rd *reader) close() {
	if rd.closed {
		return
	}
	rd.closed = true
	f := rd.f
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, rd)
	if f.stream.room != nil {
		close(f.stream.room)
		f.stream.room = nil
	}
	if rd == f.leader && f.direct != nil && !rd.taken {
		f.direct.Body.Close()
		f.cancel(errUnneeded)
	}
	if len(f.readers) == 0 && !f.done {
		// With the lock held, so that nobody begins to read what is given up here.
		f.c.work.adopt(f, !f.decided || f.stream.kept || f.updated != nil)
	}
}

// header waits until the response's header is there, and calls onInterim for each 1xx response
// before. It waits for limit at most, if that is not negative.
func (rd *reader) header(ctx context.Context, limit time.Duration, onInterim func(interim)) error {
	f := rd.f
	var timeout <-chan time.Time
	if limit >= 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for onInterim != nil && rd.interim < len(f.interims) {
			i := f.interims[rd.interim]
			rd.interim++
			rd.passOnLocked(i, onInterim)
		}
		if f.decided {
			return nil
		}
		if err := f.sleepLocked(ctx, timeout); err != nil {
			return err
		}
	}
}

// passOnLocked calls onInterim without the lock. If that panics, nobody reads on.
func (rd *reader) passOnLocked(i interim, onInterim func(interim)) {
	rd.f.mu.Unlock()
	defer rd.f.mu.Lock()
	done := false
	defer func() {
		if !done {
			rd.close()
		}
	}()
	onInterim(i)
	done = true
}

// inform passes on a 1xx response.
func (f *fill) inform(status int, h http.Header) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.decided && len(f.interims) < maxInterims {
		f.interims = append(f.interims, interim{status, h})
		f.wakeLocked()
	}
}

// fail ends f with an error or a panic. Nothing is stored.
func (f *fill) fail(err error, panicked any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return
	}
	f.err, f.panicked = err, panicked
	f.entry = nil
	f.unreserveLocked()
	f.stream.kept = false
	f.decided, f.done = true, true
	f.stream.ended = true
	f.stream.err = err
	if err == nil {
		f.stream.err = errPanicked
	}
	f.wakeLocked()
}

var (
	errPanicked = errors.New("cache: the handler panicked")
	errExited   = errors.New("cache: the handler ended its goroutine")
)

// tooLargeLocked gives up storing.
func (f *fill) tooLargeLocked() {
	f.entry = nil
	f.unreserveLocked()
	f.stream.expected = 0
	f.reason = ReasonTooLarge
	f.stream.kept = false
	f.stream.ours = f.stream.size
	f.passLocked()
	f.trimLocked()
}

// passLocked remembers that what f fetches cannot be shared, so that others do not wait for it
// (hit-for-miss).
func (f *fill) passLocked() {
	if f.remember {
		f.c.passes.Set(f.x.key, struct{}{})
	}
}
