package retry

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// A race is an attempt and the hedge that may join it. The attempt runs on the caller's goroutine,
// the hedge on its timer's. The first answer that is no failure wins, and the other one is
// canceled.
type race struct {
	call   call               // as it was when the attempt left
	wait   time.Duration      // before the hedge
	cancel context.CancelFunc // of the attempt

	mu     sync.Mutex    // guards the fields below
	timer  *time.Timer   // calls join
	waited time.Duration // what timer was set to last
	over   bool          // there is a winner, or the attempt has ended without a hedge
	late   bool          // the attempt was overdue
	hedge  *hedge        // nil if none was sent
}

// A hedge is the second attempt of a race.
type hedge struct {
	cancel context.CancelFunc
	made   chan struct{} // closed when it does not need the caller's request any more
	done   chan struct{} // closed at its end

	// The race's mutex guards the fields below.
	won  bool
	sent bool
	resp *http.Response // if it has won
	f    finding        // what its answer means
}

// race makes an attempt, and a hedge if there is no answer after wait.
func (c *call) race(wait time.Duration) (*http.Response, finding, error) {
	cancelable, cancel := context.WithCancel(c.ctx)
	ctx, _ := c.limit(cancelable) // its end comes with cancel
	a := newAttempt(ctx, c.sent)
	out := a.request(c.req, c.body, c.getBody)
	a.tellDeadline(c.retrier.cfg.DeadlineField, out.Header)
	race := &race{call: *c, cancel: cancel, wait: wait}

	start := c.retrier.now()
	race.start()
	returned := false
	defer func() {
		if !returned { // next or a hook panicked
			race.abandon()
		}
	}()
	resp, err := c.next.RoundTrip(out)
	var f finding
	if !race.lost() {
		err = a.named(c.ctx, err)
		f = c.judge(a, c.req, resp, err)
	}
	h, won := race.finish(c.ctx, f)
	returned = true

	c.settle(!a.notSent(err))
	now := c.retrier.now()
	if took := now - start; f.reason == "" && err == nil || took > wait {
		// An attempt that was abandoned counts with what it had taken: without the slowest the
		// quantile would fall, and with it the delay after which the next ones are hedged.
		c.window.record(now, took, race.overdue())
	}
	if h != nil {
		c.hedged = true
		if h.sent {
			c.sent++
		}
		f = f.heed(h.f)
	}
	if !won {
		follow(resp, cancel)
		return resp, f, err
	}
	if resp != nil && resp.Body != nil {
		resp.Body.Close() // both have an answer
	}
	c.hedgeWon = true
	c.retrier.hedgesWon.Add(1)
	return h.resp, finding{}, nil
}

// heed returns f, which an attempt has failed with, and with it what the failed answer of the hedge
// has asked for: to wait, or not to try again.
func (f finding) heed(hedge finding) finding {
	switch {
	case f.reason == "": // no failure, or one that is final already
	case hedge.final == GaveUpHint:
		return finding{final: GaveUpHint}
	default:
		f.wait = max(f.wait, hedge.wait)
	}
	return f
}

func (r *race) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waited = r.wait
	r.timer = time.AfterFunc(r.wait, r.join)
}

// lost reports whether the hedge has won.
func (r *race) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hedge != nil && r.hedge.won
}

func (r *race) overdue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.late
}

// finish ends the race after the attempt's end, which f judges. If the attempt has failed it waits
// for the hedge; else only until the hedge has its copy of the request, which is the caller's again
// afterwards. It returns a copy of the hedge, or nil if there was none, and whether that has won.
func (r *race) finish(ctx context.Context, f finding) (h *hedge, won bool) {
	r.mu.Lock()
	h = r.hedge
	if h == nil {
		r.over = true
		r.timer.Stop()
		r.mu.Unlock()
		return nil, false
	}
	r.mu.Unlock()
	<-h.made
	r.mu.Lock()
	if failed := f.reason != "" || f.final != ""; failed && !h.won {
		r.mu.Unlock()
		select {
		case <-h.done:
		case <-ctx.Done():
		}
		r.mu.Lock()
	}
	r.over = true
	end := *h
	r.mu.Unlock()
	if !end.won {
		h.cancel()
	}
	return &end, end.won
}

// abandon ends the race without a winner.
func (r *race) abandon() {
	r.mu.Lock()
	r.over = true
	r.timer.Stop()
	var h hedge
	if r.hedge != nil {
		h = *r.hedge
	}
	r.mu.Unlock()
	r.cancel()
	if h.cancel != nil {
		<-h.made
		h.cancel()
	}
	if h.won && h.resp.Body != nil {
		h.resp.Body.Close()
	}
}

// join sends the hedge, if it helps and can be paid for. If not, it looks again, each time a little
// later: a few requests that are hardly late may have spent what one needs that is very late. It
// runs on a goroutine of its own.
func (r *race) join() {
	c := &r.call
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	if !r.late {
		r.late = true
		c.window.overdue()
	}
	if !c.window.helps() || c.spool != nil && !c.spool.whole() || !c.budget.drawHedge() {
		r.waited += r.wait
		r.timer.Reset(r.waited)
		r.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	h := &hedge{cancel: cancel, made: make(chan struct{}), done: make(chan struct{})}
	r.hedge = h
	r.mu.Unlock()
	c.retrier.hedges.Add(1)
	defer close(h.done)
	if !r.run(ctx, h) {
		cancel()
	}
}

// run sends the hedge. It reports whether the hedge has won.
func (r *race) run(ctx context.Context, h *hedge) (won bool) {
	c := &r.call
	var resp *http.Response
	defer func() {
		if recover() != nil { // a hook's, or a transport's: on this goroutine it would end the process
			c.retrier.panics.Add(1)
			if resp != nil && resp.Body != nil {
				resp.Body.Close()
			}
			won = false
		}
	}()
	a, out := r.make(ctx, h)
	if out == nil {
		c.budget.giveBackHedge()
		return false
	}
	resp, err := c.next.RoundTrip(out)
	err = a.named(c.ctx, err)
	sent := !a.notSent(err)
	if sent {
		c.retrier.attempts.Add(1)
	} else {
		c.budget.giveBackHedge()
	}
	f := finding{reason: ReasonError}
	if err == nil && resp != nil && a.Err() == nil { // with an end it has lost, and needs no judgement
		f = c.judge(a, out, resp, err)
	}
	if f == (finding{}) {
		resp.Body = onEnd(resp.Body, h.cancel)
	}
	r.mu.Lock()
	h.sent, h.f = sent, f
	if !r.over && f == (finding{}) {
		r.over, h.won, h.resp = true, true, resp
	}
	won = h.won
	r.mu.Unlock()
	if won {
		r.cancel()
		return true
	}
	discard(resp, drainTime)
	return false
}

// make returns the hedge's attempt and request; the request is nil if there is no body for it.
func (r *race) make(ctx context.Context, h *hedge) (*attempt, *http.Request) {
	defer close(h.made)
	c := &r.call
	body, err := c.hedgeBody()
	if err != nil {
		return nil, nil
	}
	ctx, _ = c.limit(ctx)
	a := newAttempt(ctx, c.sent+1)
	out := a.request(c.req, body, c.getBody)
	a.tellDeadline(c.retrier.cfg.DeadlineField, out.Header)
	return a, out
}

func (c *call) hedgeBody() (io.ReadCloser, error) {
	switch {
	case !c.sendsBody():
		return c.req.Body, nil
	case c.spool != nil:
		return c.spool.again()
	}
	return c.req.GetBody()
}
