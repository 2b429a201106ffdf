package balancer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// maxRedials is how many further endpoints a request is taken to after its dial failed. Refusals by
// a wrapper, which cost nothing, have no limit but the number of endpoints.
const maxRedials = 3

// RoundTrip implements [http.RoundTripper]. It sends req to one of its target's endpoints, and to
// another one if the request provably did not leave. A request that left and was not processed, as
// servers of HTTP/2 can say, is sent again, whatever its method: to the same endpoint if that has
// only closed the connection. Of a body that cannot be had again by GetBody, 64 KiB are kept for
// this where HTTP/2 may be spoken. RoundTrip waits for the first resolution of a new target no
// longer than req's context.
func (b *Balancer) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	a := &attempt{balancer: b, req: req, ctx: req.Context()}
	if err := a.findPool(); err != nil {
		closeBody(req)
		return nil, err
	}
	defer a.leavePool()
	var tried []*endpoint
	visited := visitedFrom(a.ctx)
	if visited != nil {
		tried = visited.list()
	}
	out := req
	if req.Body != nil && req.Body != http.NoBody {
		copies := mayUseHTTP2(a.config.Transport, req.URL.Scheme)
		if out, a.reqBody = protectBody(req, copies); a.reqBody != nil {
			defer func() { a.reqBody.release(resp != nil) }()
		}
	}
	redials, repeats := 0, 0
	var last error
	for try := 0; ; try++ {
		if err := a.pick(tried, try, last); err != nil {
			closeBody(out)
			return nil, err
		}
		if visited != nil {
			visited.add(a.choice.endpoint)
		}
		elsewhere := false
		if resp, elsewhere, err = a.send(out, try); err == nil {
			return resp, nil
		}
		if !elsewhere || a.ctx.Err() != nil {
			return nil, err
		}
		var again *againError
		switch {
		case errors.As(err, &again):
			if repeats++; repeats > maxRepeats {
				return nil, err
			}
		case neverSent(err):
			a.pool.hint()
			if redials++; redials > maxRedials {
				return nil, a.pool.noEndpoints(try+1, err)
			}
		}
		ok := false
		if out, a.reqBody, ok = replay(req, out, a.reqBody); !ok {
			return nil, err
		}
		a.pool.repicked.Add(1)
		if last = err; again == nil || again.elsewhere {
			tried = append(tried, a.choice.endpoint)
		}
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// An attempt is one request at one endpoint, from the pick to the end of the response's body. It is
// used again for a further endpoint if the request did not leave.
type attempt struct {
	balancer *Balancer
	req      *http.Request   // as the caller gave it
	ctx      context.Context // of req
	reqBody  *requestBody    // nil if req's body needs no protection

	pool    *pool
	config  *groupConfig
	choice  choice
	waiting bool // counted in pool.waiting: between endpoints it belongs to none, but is in flight

	body    io.ReadCloser // of the response
	ended   atomic.Bool
	upgrade bool // body is an upgraded connection, which is counted in pool.streams too
}

// now is the time as groups count it: monotonic nanoseconds.
func (a *attempt) now() int64 { return int64(time.Since(a.balancer.origin)) }

// findPool finds the pool of the request's target, and the configuration that the request goes by.
func (a *attempt) findPool() (err error) {
	switch u := a.req.URL; {
	case u == nil || u.Host == "":
		return notSent("balancer: the request's URL has no host")
	case u.Scheme != "http" && u.Scheme != "https":
		return notSent("balancer: unsupported scheme " + strconv.Quote(u.Scheme))
	case a.req.Method == http.MethodConnect:
		// A tunnel would tie the connection to this client, unseen by the pool.
		return notSent("balancer: CONNECT is not supported")
	case a.balancer.ctx.Err() != nil:
		return ErrClosed
	}
	if err := a.balancer.cfg.Load().serves(a.req); err != nil {
		return err
	}
	if a.pool, err = a.balancer.resolved(a.ctx, a.req.URL); err != nil {
		return err
	}
	a.config = a.pool.group.config.Load()
	return nil
}

func (a *attempt) leavePool() {
	if a.waiting {
		a.pool.waiting.Add(-1)
	}
}

// pick chooses an endpoint. At the first try, if the pool has been dropped meanwhile, it does so in
// the pool that follows. At later ones, it must be an endpoint that has not been tried, unless all
// have been and the request may be sent again; last is the error of the one before. It passes over
// endpoints that are full, and waits for the one that it would rather have if all are.
func (a *attempt) pick(tried []*endpoint, try int, last error) error {
	var full []*endpoint
	for {
		var ok bool
		v := a.balancer.views.Get().(*View)
		a.choice, ok = a.pool.group.pick(v, a.config, a.req, among(tried, full), a.now())
		a.balancer.views.Put(v)
		e := a.choice.endpoint
		switch {
		case !ok:
			return a.pool.noEndpoints(try, last)
		case len(full) > 0 && (slices.Contains(full, e) || slices.Contains(tried, e)):
			a.choice.undo()
			if err := a.awaitRoom(full[0], try); err != errDropped {
				return err
			}
			full = nil
			if err := a.findPool(); err != nil {
				return err
			}
			continue
		case try > 0 && slices.Contains(tried, e) && !mayGoAgain(last):
			a.choice.undo()
			return a.pool.noEndpoints(try, last)
		case try > 0 || !a.pool.dropped.Load():
			if g := e.gate.Load(); g.enter() {
				a.choice.gate = g
				return nil
			}
			a.choice.undo()
			full = append(full, e)
			continue
		}
		a.choice.undo()
		full = nil
		if err := a.findPool(); err != nil {
			return err
		}
	}
}

// send sends out to the chosen endpoint. elsewhere reports whether another endpoint may have the
// request.
func (a *attempt) send(out *http.Request, try int) (resp *http.Response, elsewhere bool, err error) {
	group, c := a.pool.group, &a.choice
	replied, done := false, false
	defer func() {
		if done {
			return
		}
		// A wrapper or an observer panicked, or a wrapper returned nothing. The request must not
		// count for ever.
		if !replied {
			now := a.now()
			group.reply(c, now, now-c.at, Failure, 0)
		}
		group.finish(c, 0, false)
		if resp != nil && resp.Body != nil { // nobody will get it
			resp.Body.Close()
		}
	}()
	resp, err = c.endpoint.transport.Load().wrapped().RoundTrip(out)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if err = checkUpgrade(out, resp); err != nil {
			resp.Body.Close()
		}
	}
	now := a.now()
	took := now - c.at
	var outcome Outcome
	var pause time.Duration
	var bodyErr error
	if err != nil {
		late := float64(took) > group.typical.Load() && a.inTime()
		bodyErr = a.bodyFault(err)
		outcome, elsewhere = outcomeOfError(err, a.req, bodyErr, late)
		if outcome == Failure {
			c.endpoint.noteError(err)
		}
	} else {
		outcome, pause = outcomeOfResponse(resp)
	}
	group.reply(c, now, took, outcome, pause)
	replied = true
	if observe := a.config.Observe; observe != nil {
		observe(a.ctx, Event{
			Kind: Attempted, Target: a.pool.name, Endpoint: c.endpoint.public(), Err: err,
			Outcome: outcome, Reason: c.reason, Repicked: try, Duration: time.Duration(took),
		})
	}
	if outcome == Failure {
		a.pool.tell(a.ctx, group.config.Load().Observe) // what the failure has caused
	}
	if err != nil {
		done = true
		if elsewhere && !a.waiting {
			a.waiting = true
			a.pool.waiting.Add(1)
		}
		group.finish(c, now, false)
		if bodyErr != nil && !elsewhere {
			err = &bodyError{bodyErr} // the transport may say of it that its connection broke
		}
		return nil, elsewhere, err
	}
	resp.Request = a.req
	if resp.Header == nil { // a wrapper may have made it
		resp.Header = http.Header{}
	}
	if resp.Header[LoadHeader] != nil {
		group.config.Load().noteLoad(c.endpoint, resp.Header, c.inFlight-1, now)
	}
	if a.config.sticky != nil {
		a.config.sticky.setCookie(c.endpoint, a.req, resp)
	}
	done = true
	a.follow(resp)
	return resp, false, nil
}

// inTime reports whether the request's deadline had not passed when the endpoint was chosen: for
// one that comes too late, because it has waited for something else, no endpoint is to blame.
func (a *attempt) inTime() bool {
	deadline, ok := a.ctx.Deadline()
	return !ok || int64(deadline.Sub(a.balancer.origin)) > a.choice.at
}

// bodyFault returns why the request's body could not be read, if it is to blame for err; else nil.
func (a *attempt) bodyFault(err error) error {
	cause, end := a.reqBody.failure(), a.ctx.Err()
	if cause == nil || end == nil {
		return cause
	}
	// The end of the context may have come first, and its reader may have failed for that. A body
	// that stood still or broke off as a deadline passed is to blame if the transport names it.
	if !errors.Is(err, cause) || errors.Is(cause, end) || errors.Is(cause, context.Cause(a.ctx)) {
		return nil
	}
	return cause
}

// follow makes the attempt last until resp's body ends.
func (a *attempt) follow(resp *http.Response) {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		// The connection may be open for hours. It counts as a request in flight until it ends: an
		// endpoint that has many open has less room for new ones.
		a.upgrade = true
		a.pool.streams.Add(1)
		a.body = resp.Body
		resp.Body = a
		if w, ok := a.body.(io.Writer); ok {
			resp.Body = tunnel{a, w, a.body}
		}
	case resp.Body == nil || resp.Body == http.NoBody:
		a.reqBody.finish()
		a.pool.group.finish(&a.choice, 0, false)
	default:
		a.body = resp.Body
		resp.Body = a
	}
}

// Read implements [io.Reader] for the response's body.
func (a *attempt) Read(b []byte) (int, error) {
	n, err := a.body.Read(b)
	if err != nil && !a.upgrade { // the other direction of an upgrade may go on: it ends with Close
		a.end(err != io.EOF && a.ctx.Err() == nil && a.reqBody.failure() == nil &&
			!errors.Is(err, http.ErrBodyReadAfterClose))
	}
	return n, err
}

// Close implements [io.Closer] for the response's body.
func (a *attempt) Close() error {
	a.end(false)
	return a.body.Close()
}

// end ends the attempt. broken says that the body broke off and that the endpoint is to blame.
func (a *attempt) end(broken bool) {
	if a.ended.Swap(true) {
		return
	}
	a.reqBody.finish()
	if a.upgrade {
		a.pool.streams.Add(-1)
	}
	now := int64(0)
	if broken {
		now = a.now()
	}
	a.pool.group.finish(&a.choice, now, broken)
}
