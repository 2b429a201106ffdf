package retry

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/unsent"
)

// Transport returns a RoundTripper that sends requests through next, and again if they fail in a
// way that another attempt may cure and r's budget allows. It returns the last attempt's response
// or error as it is. If next is nil, [http.DefaultTransport] is used. next must return soon after a
// request's context ends, as net/http's transports do.
func (r *Retrier) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{retrier: r, next: next}
}

type transport struct {
	retrier *Retrier
	next    http.RoundTripper
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach next.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		return t.next.RoundTrip(req) // which says what is wrong
	}
	r := t.retrier
	c := call{retrier: r, next: t.next, req: req, ctx: req.Context(), began: r.now()}
	c.budget, c.key = r.budget(req)
	if c.budget != nil {
		c.budget.request(c.began)
	}
	r.requests.Add(1)
	if r.cfg.Scope != nil {
		c.ctx = r.cfg.Scope(c.ctx)
	}
	c.body, c.getBody = req.Body, req.GetBody
	if c.sendsBody() && req.GetBody == nil && (r.cfg.MaxAttempts > 1 || r.cfg.Hedge) {
		limit := r.cfg.MaxBody
		if req.ContentLength > limit {
			limit = -1 // a body too long is not worth the memory
		}
		c.spool = newSpool(req.Body, limit)
		defer c.spool.finish()
		c.body, _ = c.spool.next()
		c.getBody = c.spool.again
	}
	if r.cfg.Hedge && c.budget != nil && hedgeable(req) {
		c.window = r.window(req)
	}
	resp, err := c.run()
	if resp != nil {
		resp.Request = req // as if there were no copies
	}
	return resp, err
}

// A call is one request, from the caller's RoundTrip to its return.
type call struct {
	retrier *Retrier
	next    http.RoundTripper
	req     *http.Request   // as the caller gave it
	ctx     context.Context // of all attempts
	began   time.Duration
	key     string
	budget  *budget // nil if nothing pays for another attempt
	window  *window // nil if the request is not hedged
	spool   *spool  // of the request's body; nil if that needs none

	body    io.ReadCloser // of the next attempt
	getBody func() (io.ReadCloser, error)

	retries  int
	sent     int  // attempts that may have reached a server
	drawn    bool // a token pays for the next attempt
	hedged   bool
	hedgeWon bool
}

// sendsBody reports whether the request may have a body. A ContentLength of 0 with a Body does not
// say that there is none: it is unknown then (net/http).
func (c *call) sendsBody() bool { return c.req.Body != nil && c.req.Body != http.NoBody }

// run sends the request until it is done or given up.
func (c *call) run() (*http.Response, error) {
	for {
		resp, f, err := c.send()
		if f.reason == "" {
			return c.end(resp, err, f.final)
		}
		wait, body, giveUp := c.again(f)
		if giveUp != "" {
			c.hint(resp, giveUp)
			return c.end(resp, err, giveUp)
		}
		c.body = body
		if err := c.sleep(wait - discard(resp, wait)); err != nil {
			c.refund()
			if c.body != nil {
				c.body.Close()
			}
			return c.end(nil, err, gone(c.ctx))
		}
		c.retries++
		c.retrier.retries.add(f.reason)
	}
}

// again decides whether the request is sent again after what f says. It returns the wait until then
// and the body, or the reason not to. A token is drawn before the wait, or the requests that wait
// would be more than the budget can pay for.
func (c *call) again(f finding) (wait time.Duration, body io.ReadCloser, giveUp Reason) {
	r := c.retrier
	switch {
	case c.retries+1 >= r.cfg.MaxAttempts:
		return 0, nil, GaveUpAttempts
	case !f.unsent && !replayable(c.req):
		return 0, nil, GaveUpMethod
	case c.sendsBody() && c.req.GetBody == nil && !c.spool.fresh():
		return 0, nil, GaveUpBody
	case f.wait > r.cfg.MaxRetryAfter:
		return 0, nil, GaveUpRetryAfter
	}
	wait = max(r.backoff(c.retries), f.wait)
	if deadline, ok := c.ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return 0, nil, GaveUpDeadline
	}
	if wait == f.wait && f.wait > 0 && !f.free {
		wait = c.spread(wait)
	}
	// After an attempt that was refused unsent the next one costs nothing, but only if no attempt
	// of the request was sent before.
	if !f.free || c.sent > 0 {
		if c.budget == nil || !c.budget.draw() {
			return 0, nil, GaveUpBudget
		}
		c.drawn = true
	}
	body, err := c.nextBody()
	if err != nil {
		c.refund()
		return 0, nil, GaveUpBody
	}
	return wait, body, ""
}

// spread makes a wait that many clients were told of up to a tenth longer, but not beyond the
// deadline.
func (c *call) spread(wait time.Duration) time.Duration {
	longer := wait + time.Duration(c.retrier.random(int64(wait/10)+1))
	deadline, ok := c.ctx.Deadline()
	if longer < wait || ok && time.Until(deadline) <= longer { // less than wait: the sum overflowed
		return wait
	}
	return longer
}

func (c *call) nextBody() (io.ReadCloser, error) {
	switch {
	case !c.sendsBody():
		return c.req.Body, nil
	case c.spool != nil:
		return c.spool.next()
	}
	return c.req.GetBody()
}

// refund gives back a token that paid for nothing.
func (c *call) refund() {
	if c.drawn {
		c.drawn = false
		c.budget.giveBack()
	}
}

// sleep waits, unless the caller leaves.
func (c *call) sleep(wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		if c.ctx.Err() == nil {
			return nil
		}
	case <-c.ctx.Done():
	}
	return context.Cause(c.ctx)
}

// hint tells the tiers above not to retry an answer that this one has given up on. What this tier
// has sent once, and could not send again, is left to them.
func (c *call) hint(resp *http.Response, giveUp Reason) {
	switch {
	case resp == nil || c.retrier.cfg.Hint == "" || c.retrier.cfg.MaxAttempts == 1:
		return
	case c.sent < 2 && (giveUp == GaveUpMethod || giveUp == GaveUpBody):
		return
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	resp.Header[c.retrier.cfg.Hint] = []string{"false"}
}

// end counts and observes the request and returns what its caller gets.
func (c *call) end(resp *http.Response, err error, giveUp Reason) (*http.Response, error) {
	r := c.retrier
	if c.budget != nil && succeeded(resp) {
		c.budget.success()
	}
	if giveUp != "" {
		r.gaveUp.add(giveUp)
	}
	if r.cfg.Observe != nil {
		e := Event{
			Outcome: Success, Duration: r.now() - c.began, Retries: c.retries, Hedged: c.hedged,
			HedgeWon: c.hedgeWon, GaveUp: giveUp, Key: c.key, Err: err,
		}
		switch {
		case giveUp == GaveUpCanceled:
			e.Outcome = Canceled
		case giveUp != "" || err != nil:
			e.Outcome = Failure
		}
		ctx := c.req.Context()
		if ctx.Err() != nil { // the caller gave up: that does not end what Observe does with it
			ctx = context.WithoutCancel(ctx)
		}
		told := false
		defer func() {
			if !told && resp != nil && resp.Body != nil { // Observe has panicked: nobody gets the answer
				resp.Body.Close() // which ends its attempt
			}
		}()
		r.cfg.Observe(ctx, e)
		told = true
	}
	return resp, err
}

// send makes one attempt, or two if a hedge joins it, and says what its end means.
func (c *call) send() (*http.Response, finding, error) {
	if c.window != nil && !c.hedged {
		if wait, ok := c.window.delay(); ok {
			return c.race(max(wait, c.retrier.cfg.MinHedgeDelay))
		}
	}
	start := c.retrier.now()
	resp, f, err := c.attempt()
	if c.window != nil && err == nil && f.reason == "" {
		now := c.retrier.now()
		c.window.record(now, now-start, false)
	}
	return resp, f, err
}

// attempt sends the request once.
func (c *call) attempt() (*http.Response, finding, error) {
	ctx, cancel := c.limit(c.ctx)
	a := newAttempt(ctx, c.sent)
	out := a.request(c.req, c.body, c.getBody)
	a.tellDeadline(c.retrier.cfg.DeadlineField, out.Header)
	var resp *http.Response
	returned := false
	defer func() {
		if returned {
			return
		}
		// next or a hook has panicked: nobody gets the answer.
		if cancel != nil {
			cancel()
		}
		if resp != nil && resp.Body != nil {
			resp.Body.Close()
		}
	}()
	resp, err := c.next.RoundTrip(out)
	err = a.named(c.ctx, err)
	f := c.judge(a, c.req, resp, err)
	c.settle(!a.notSent(err))
	returned = true
	if cancel != nil {
		follow(resp, cancel)
	}
	return resp, f, err
}

// settle counts an attempt. What was not sent costs nothing, and neither does a request's first
// attempt that was, after others that were not.
func (c *call) settle(sent bool) {
	if sent {
		c.sent++
		c.retrier.attempts.Add(1)
	}
	if !sent || c.sent == 1 {
		c.refund()
	}
	c.drawn = false
}

// limit returns ctx with the end of one attempt. cancel is nil if there is none.
func (c *call) limit(ctx context.Context) (_ context.Context, cancel context.CancelFunc) {
	if c.retrier.cfg.PerTry <= 0 {
		return ctx, nil
	}
	return context.WithTimeoutCause(ctx, c.retrier.cfg.PerTry, ErrPerTry)
}

// follow calls cancel when resp's body ends; at once if there is no response.
func follow(resp *http.Response, cancel context.CancelFunc) {
	if resp == nil {
		cancel()
		return
	}
	resp.Body = onEnd(resp.Body, cancel)
}

// ErrPerTry is how an attempt ends that takes longer than [Config.PerTry]. It matches
// [context.DeadlineExceeded] and is a timeout as [net.Error] has it.
var ErrPerTry error = perTryError{}

type perTryError struct{}

func (perTryError) Error() string        { return "retry: the attempt took longer than PerTry" }
func (perTryError) Timeout() bool        { return true }
func (perTryError) Temporary() bool      { return true }
func (perTryError) Is(target error) bool { return target == context.DeadlineExceeded }

// named returns err, or ErrPerTry if that is why the attempt ended: not every transport says so.
func (a *attempt) named(caller context.Context, err error) error {
	if err != nil && caller.Err() == nil && context.Cause(a) == ErrPerTry && !unsent.Is(err) {
		return ErrPerTry
	}
	return err
}
