package versioning

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/unsent"
)

// Transport returns a RoundTripper that sends each request through stable or through canary. One
// that is nil is [http.DefaultTransport].
//
// Errors are the statuses that [RolloutConfig].Failed names, errors, and bodies that break off. A
// request that the caller has canceled is no error; if it was slow by then, it counts as slow. Nor
// is one whose body cannot be read, or that net/http refuses to send. An error that says that the
// request was not sent and when it can be (NotSent, RetryAfter) counts as an answer that
// [RolloutConfig].Shed names. A request is in flight until its answer's body is closed. As with
// [Rollout.Handler], the transports belong to the present Release.
func (r *Rollout) Transport(stable, canary http.RoundTripper) http.RoundTripper {
	t := &rolloutTransport{rollout: r, release: r.current.Load().cfg.Release}
	for i, next := range [...]http.RoundTripper{stable, canary} {
		if next == nil {
			next = http.DefaultTransport
		}
		t.arms[i] = next
	}
	return t
}

type rolloutTransport struct {
	rollout *Rollout
	release string
	arms    [2]http.RoundTripper
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach both arms.
func (t *rolloutTransport) CloseIdleConnections() {
	for _, next := range t.arms {
		if c, ok := next.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}

func (t *rolloutTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	r := t.rollout
	passed := false
	defer func() {
		if !passed && req.Body != nil { // Skip, Force or Key has panicked: no arm gets the request
			_ = req.Body.Close()
		}
	}()
	p, d, cookie := r.enter(req, t.release)
	passed = true
	out, upload := blame.Watch(req)
	x := &rolloutExchange{rollout: r, plan: p, draw: d, req: req, upload: upload, begun: r.now()}
	answered := false
	defer func() {
		if !answered { // next has panicked
			x.end(failure)
		}
	}()
	resp, err := t.arms[d.arm()].RoundTrip(out)
	answered = true
	x.took = r.now() - x.begun
	if err != nil || resp == nil { // both nil is next's bug; http.Client complains of it
		x.end(x.outcomeOf(err))
		return resp, err
	}
	if out != req {
		resp.Request = req
	}
	if !d.untouched() {
		x.mark(resp, cookie)
	}
	x.follow(resp)
	return resp, nil
}

// mark tags an answer and sets its cookie.
func (x *rolloutExchange) mark(resp *http.Response, cookie string) {
	field := x.plan.cfg.TagField
	if field == "" && cookie == "" && !x.draw.moved {
		return
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	if x.draw.moved {
		resp.Header.Set("Cache-Control", "no-store")
	}
	if cookie != "" {
		resp.Header.Add("Set-Cookie", x.plan.cfg.Cookie.line(cookie))
	}
	if field != "" {
		resp.Header[field] = []string{withTag(field, resp.Header[field], x.plan.tags[x.draw.arm()])}
	}
}

// A rolloutExchange is a request until its answer's body has ended: it is that body.
type rolloutExchange struct {
	rollout *Rollout
	plan    *plan
	draw    draw
	req     *http.Request
	upload  *blame.Upload
	begun   int64
	took    int64
	outcome outcome // by the header
	body    io.ReadCloser
	ended   atomic.Bool
}

// outcomeOf says what an error means.
func (x *rolloutExchange) outcomeOf(err error) outcome {
	switch {
	case blame.Left(x.req.Context()), x.upload.Failed(), err != nil && blame.Request(x.req, err):
		return canceled
	case err != nil && unsent.Is(err) && unsent.RetryAfter(err) > 0:
		return shed
	}
	return failure
}

// follow counts what resp says, and what its body will.
func (x *rolloutExchange) follow(resp *http.Response) {
	x.outcome = success
	switch status := resp.StatusCode; {
	case x.plan.cfg.Shed(status, resp.Header):
		x.outcome = shed
	case status != http.StatusSwitchingProtocols && x.plan.cfg.Failed(status):
		x.outcome = failure
	}
	if resp.Body == nil || resp.Body == http.NoBody {
		x.end(x.outcome)
		return
	}
	x.body = resp.Body
	resp.Body = x
	if w, ok := x.body.(io.Writer); ok { // a connection that was upgraded
		resp.Body = struct {
			*rolloutExchange
			io.Writer
		}{x, w}
	}
}

func (x *rolloutExchange) Read(p []byte) (int, error) {
	n, err := x.body.Read(p)
	switch {
	case err == nil, errors.Is(err, http.ErrBodyReadAfterClose):
	case err == io.EOF, x.outcome != success:
		x.end(x.outcome)
	default:
		x.end(x.outcomeOf(err))
	}
	return n, err
}

// Close ends the exchange. Who does not want the rest of an answer has got one.
func (x *rolloutExchange) Close() error {
	err := x.body.Close()
	x.end(x.outcome)
	return err
}

func (x *rolloutExchange) end(o outcome) {
	if !x.ended.Swap(true) {
		x.rollout.leave(x.plan, x.draw, o, x.took)
	}
}
