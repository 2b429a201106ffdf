package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxRedials is how many further endpoints a request is taken to after its dial failed. Refusals by a
// wrapper, which cost nothing, have no limit but the number of endpoints.
const maxRedials = 3

// RoundTrip implements [http.RoundTripper]. It sends req to one of its target's endpoints; to another one if the request
// provably did not leave. It waits for the first resolution of a new target no longer than req's context.
func (b *Balancer) RoundTrip(req *http.Request) (*http.Response, error) {
	p, err := b.poolOf(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	ctx := req.Context()
	avoid := triedFrom(ctx)
	var been []*host
	if avoid != nil {
		been = avoid.list()
	}
	out, hold := req, (*guard)(nil)
	if req.Body != nil && req.Body != http.NoBody && (req.GetBody == nil || mayFail(req.Body)) {
		hold = &guard{rc: req.Body, released: req.GetBody != nil}
		out = shallow(req, hold)
		defer hold.release()
	}
	a := &attempt{pool: p, req: req, ctx: ctx}
	defer func() {
		if a.repicked {
			a.pool.waiting.Add(-1)
		}
	}()
	redials := 0
	var last error
	for try := 0; ; try++ {
		v := b.views.Get().(*View)
		picked, ok := p.g.pick(v, req, been, b.now())
		b.views.Put(v)
		if ok && try == 0 && p.over.Load() {
			picked.giveBack()
			if p, err = b.poolOf(req); err != nil {
				if out.Body != nil {
					out.Body.Close()
				}
				return nil, err
			}
			a.pool = p
			try--
			continue
		}
		if !ok || try > 0 && slices.Contains(been, picked.host) {
			if ok { // it has been there
				picked.giveBack()
			}
			if out.Body != nil {
				out.Body.Close()
			}
			return nil, p.noEndpoints(try, last)
		}
		a.picked, a.hold = picked, hold
		if avoid != nil {
			avoid.add(picked.host)
		}
		if pick, _ := ctx.Value(pickKey{}).(*Pick); pick != nil {
			*pick = Pick{Endpoint: picked.host.endpoint(), Reason: picked.reason, Among: picked.others, Repicked: try, Panic: picked.panic}
		}
		resp, unsentErr, err := a.do(out, try)
		if err == nil {
			return resp, nil
		}
		if !unsentErr || ctx.Err() != nil {
			return nil, err
		}
		if neverSent(err) {
			p.hint()
			if redials++; redials > maxRedials {
				return nil, p.noEndpoints(try+1, err)
			}
		}
		if out, hold, ok = again(req, out, hold); !ok {
			return nil, err
		}
		p.repicked.Add(1)
		been, last = append(been, picked.host), err
	}
}

func (b *Balancer) poolOf(req *http.Request) (*pool, error) {
	switch {
	case req.URL == nil || req.URL.Host == "":
		return nil, notSent("balancer: the request's URL has no host")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return nil, notSent("balancer: unsupported scheme " + strconv.Quote(req.URL.Scheme))
	case req.Method == http.MethodConnect:
		// A tunnel would tie the connection to this client, unseen by the pool.
		return nil, notSent("balancer: CONNECT is not supported")
	case b.ctx.Err() != nil:
		return nil, ErrClosed
	}
	return b.resolved(req.Context(), req.URL)
}

// shallow returns a copy of req with another body.
func shallow(req *http.Request, body io.ReadCloser) *http.Request {
	out := *req // not WithContext: that would keep the body, and not Clone: nothing else is changed
	out.Body = body
	return &out
}

// again returns the request for a further attempt, and its guard if it has one; false if its body is spent.
func again(req, out *http.Request, hold *guard) (*http.Request, *guard, bool) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return out, hold, true
	case req.GetBody == nil:
		return out, hold, hold.untouched()
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, hold, false
	}
	if hold != nil {
		hold = &guard{rc: body, released: true}
		body = hold
	}
	return shallow(req, body), hold, true
}

// An attempt is one request at one host, from pick to the end of its body.
type attempt struct {
	pool   *pool
	req    *http.Request   // as the caller gave it
	ctx    context.Context // of req
	picked picked
	hold   *guard // of the request's body, which may outlast the reply's header
	body   io.ReadCloser
	ended  atomic.Bool
	stream bool // upgraded: counted apart

	repicked bool // counted as waiting: between two endpoints a request is none's, and still running
}

// do sends out. unsent reports whether another endpoint may have the request.
func (a *attempt) do(out *http.Request, try int) (resp *http.Response, unsent bool, err error) {
	p := a.pool
	set := p.g.set.Load()
	start := a.picked.at
	replied, done := false, false
	defer func() {
		if done {
			return
		}
		// A wrapper or an observer panicked, or a wrapper returned nothing: the request must not count for ever.
		if !replied {
			p.g.reply(&a.picked, p.b.now(), p.b.now()-start, Failure, 0)
		}
		p.g.finish(&a.picked, 0, false)
		if resp != nil && resp.Body != nil { // nobody will get it
			resp.Body.Close()
		}
	}()
	resp, err = a.picked.host.wire.Load().transport().RoundTrip(out)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if err = checkUpgrade(out, resp); err != nil {
			resp.Body.Close()
		}
	}
	now := p.b.now()
	took := now - start
	var result Outcome
	var cool time.Duration
	if err != nil {
		result, unsent = a.classifyError(err, took)
	} else {
		result, cool = classify(resp)
	}
	p.g.reply(&a.picked, now, took, result, cool)
	replied = true
	if observe := set.cfg.Observe; observe != nil {
		observe(a.ctx, Event{
			Kind: Attempted, Target: p.name, Endpoint: a.picked.host.endpoint(), Err: err,
			Outcome: result, Reason: a.picked.reason, Repicked: try, Duration: time.Duration(took),
		})
	}
	if result == Failure {
		p.flush(a.ctx, set)
	}
	done = true
	if err != nil {
		if unsent && !a.repicked {
			a.repicked = true
			p.waiting.Add(1)
		}
		p.g.finish(&a.picked, now, false)
		if cause := a.hold.failure(); cause != nil && !unsent && a.ctx.Err() == nil {
			err = &bodyError{cause} // what the transport says of it is that its connection broke
		}
		return nil, unsent, err
	}
	resp.Request = a.req
	p.g.heard(a.picked.host, resp.Header, a.picked.inflight-1, now)
	if s, ok := set.cfg.Policy.(interface {
		replied(h *host, r *http.Request, resp *http.Response)
	}); ok {
		s.replied(a.picked.host, a.req, resp)
	}
	a.follow(resp)
	return resp, false, nil
}

// A bodyError says that the request's body could not be read: the fault is its sender's.
type bodyError struct{ error }

func (e *bodyError) Error() string { return "balancer: reading the request's body: " + e.error.Error() }
func (e *bodyError) Unwrap() error { return e.error }

// checkUpgrade returns an error if the server switches to a protocol that it was not asked for (RFC 9110, section
// 7.8): whoever gets the raw connection then would speak past what everybody else believes it carries.
func checkUpgrade(req *http.Request, resp *http.Response) error {
	to := resp.Header["Upgrade"]
	if len(to) == 1 && listHas(req.Header["Connection"], "upgrade") && listHas(req.Header["Upgrade"], to[0]) {
		return nil
	}
	return fmt.Errorf("balancer: the server switched to protocol %q when %q was asked for", to, req.Header["Upgrade"])
}

// listHas reports whether token is among the members of a field with a list, in whatever case.
func listHas(field []string, token string) bool {
	for _, line := range field {
		for member := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(member, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// flush sends what a failure may have caused.
func (p *pool) flush(ctx context.Context, set *groupConfig) {
	if set.cfg.Observe == nil || !p.g.pending.Load() {
		return
	}
	p.g.mu.Lock()
	events := p.g.takeEventsLocked()
	p.g.mu.Unlock()
	p.send(ctx, set.cfg.Observe, events)
}

// follow makes the attempt last until resp's body ends.
func (a *attempt) follow(resp *http.Response) {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		// It may be open for hours, and says nothing of the host's load meanwhile.
		a.stream = true
		a.pool.streams.Add(1)
		a.pool.g.finish(&a.picked, 0, false)
		a.body = resp.Body
		resp.Body = a
		if w, ok := a.body.(io.Writer); ok {
			resp.Body = tunnel{a, w}
		}
	case resp.Body == nil || resp.Body == http.NoBody:
		a.pool.g.finish(&a.picked, 0, false)
	default:
		a.body = resp.Body
		resp.Body = a
	}
}

// A tunnel is the body of a 101: the connection itself.
type tunnel struct {
	*attempt
	io.Writer
}

// CloseWrite lets httputil.ReverseProxy pass on that one side has finished, while the other still speaks.
func (t tunnel) CloseWrite() error {
	if c, ok := t.body.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

func (a *attempt) Read(b []byte) (int, error) {
	n, err := a.body.Read(b)
	if err != nil && !a.stream { // the other direction of a stream may go on: it ends when it is closed
		a.end(err != io.EOF && a.ctx.Err() == nil && a.hold.failure() == nil && !errors.Is(err, http.ErrBodyReadAfterClose))
	}
	return n, err
}

func (a *attempt) Close() error {
	a.end(false)
	return a.body.Close()
}

func (a *attempt) end(broken bool) {
	if a.ended.Swap(true) {
		return
	}
	if a.stream {
		a.pool.streams.Add(-1)
		return
	}
	now := int64(0)
	if broken {
		now = a.pool.b.now()
	}
	a.pool.g.finish(&a.picked, now, broken)
}

// classifyError says what an error means for the host, and whether another endpoint may have the request.
func (a *attempt) classifyError(err error, took int64) (result Outcome, unsent bool) {
	if neverSent(err) {
		if a.ctx.Err() != nil {
			return a.classifyEnd(took), false
		}
		return Failure, true
	}
	var refusal interface{ NotSent() bool }
	switch {
	case errors.As(err, &refusal) && refusal.NotSent():
		return Unsent, true
	case a.ctx.Err() != nil:
		return a.classifyEnd(took), false
	case a.hold.failure() != nil:
		return Canceled, false
	case callersFault(a.req, err):
		return Refused, false
	}
	return Failure, false
}

// classifyEnd says what the end of the request's context means for the host: a caller that leaves means
// nothing. An expired deadline is a failure, unless it was shorter than a reply commonly takes.
func (a *attempt) classifyEnd(took int64) Outcome {
	if errors.Is(a.ctx.Err(), context.DeadlineExceeded) && float64(took) > a.pool.g.typical.Load() {
		return Failure
	}
	return Canceled
}

// classify says what a response means for the host.
func classify(resp *http.Response) (result Outcome, cool time.Duration) {
	switch code := resp.StatusCode; {
	case code < 429:
		return Success, 0
	case code == http.StatusTooManyRequests:
		return Refused, 0
	case code == http.StatusServiceUnavailable:
		if after := resp.Header.Get("Retry-After"); after != "" {
			return Busy, retryAfter(after)
		}
		return Failure, 0
	case failedStatus(code):
		return Failure, 0
	}
	return Success, 0
}

// retryAfter returns what a Retry-After field asks for; a second if it cannot be read (RFC 9110, section 10.2.3).
func retryAfter(s string) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(time.Until(t), 0)
	}
	return time.Second
}
