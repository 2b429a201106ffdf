package retry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// traceKey is the key under which a context holds its httptrace.ClientTrace. httptrace does not
// export it, but asks for it. An attempt that answers for itself saves a context around it.
var traceKey = func() any {
	var asked keyProbe
	httptrace.ContextClientTrace(&asked)
	return asked.key
}()

type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	p.key = key
	return nil
}

type attemptKey struct{}

// Attempts returns how many attempts of the request that carries ctx were sent before this one: 0
// at the first. Attempts that were provably not sent are not counted. It is for transports below a
// [Retrier], such as telemetry's (Config.ResendCount).
func Attempts(ctx context.Context) int {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a.before
	}
	return 0
}

// An attempt is one sending of a request, and the context that it has.
type attempt struct {
	context.Context

	before int // attempts that were sent before
	trace  httptrace.ClientTrace
	url    url.URL
	own    bool // Value returns trace; otherwise the Context does, together with the caller's

	asked atomic.Bool // net/http has looked for a connection,
	got   atomic.Bool // and found one
}

// newAttempt returns an attempt within ctx. It watches whether the request gets as far as a
// connection.
func newAttempt(ctx context.Context, before int) *attempt {
	a := &attempt{Context: ctx, before: before}
	a.trace.GetConn = func(string) { a.asked.Store(true) }
	a.trace.GotConn = func(httptrace.GotConnInfo) { a.got.Store(true) }
	if a.own = httptrace.ContextClientTrace(ctx) == nil; !a.own {
		a.Context = httptrace.WithClientTrace(ctx, &a.trace)
	}
	return a
}

func (a *attempt) Value(key any) any {
	if key == any(attemptKey{}) {
		return a
	}
	if a.own && key == traceKey {
		return &a.trace
	}
	return a.Context.Value(key)
}

// request returns a copy of req for this attempt alone: transports below may not change what they
// get, but do. The trailers stay shared: the caller sets them while the body is read.
func (a *attempt) request(
	req *http.Request, body io.ReadCloser, getBody func() (io.ReadCloser, error),
) *http.Request {
	out := req.WithContext(a)
	a.url = *req.URL
	out.URL = &a.url
	out.Header = req.Header.Clone()
	out.Body = body
	out.GetBody = getBody
	return out
}

// tellDeadline sets the field that says how many milliseconds the attempt has. Without a deadline
// there is none: one that the caller got from its own caller would be out of date.
func (a *attempt) tellDeadline(field string, h http.Header) {
	if field == "" {
		return
	}
	delete(h, field)
	if deadline, ok := a.Deadline(); ok {
		left := max(time.Until(deadline), 0)
		h[field] = []string{strconv.FormatInt(int64(left/time.Millisecond), 10)}
	}
}

// onEnd returns body with end called once: when it is read to its end or error, or closed. It keeps
// io.Writer if body has it: the body of a 101 response is the raw connection.
func onEnd(body io.ReadCloser, end context.CancelFunc) io.ReadCloser {
	if body == nil || body == http.NoBody {
		end()
		return body
	}
	b := &endingBody{ReadCloser: body, end: end}
	if w, ok := body.(io.Writer); ok {
		return &tunnel{endingBody: b, Writer: w}
	}
	return b
}

type endingBody struct {
	io.ReadCloser
	end context.CancelFunc // may be called often
}

func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

func (b *endingBody) Close() error {
	defer b.end() // after the close, or what was read to its end would look like what was abandoned
	return b.ReadCloser.Close()
}

// A tunnel is the body of a 101: the connection itself.
type tunnel struct {
	*endingBody
	io.Writer
}

// Read does not end the attempt: the other direction may go on. It ends when it is closed.
func (t *tunnel) Read(p []byte) (int, error) { return t.ReadCloser.Read(p) }

// CloseWrite lets httputil.ReverseProxy pass on that one side has finished, while the other still
// speaks.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.ReadCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

const (
	drainBytes = 4 << 10
	drainTime  = 100 * time.Millisecond
	drainLeast = 5 * time.Millisecond // also before a retry at once: what is there is read in no time
)

// discard closes the body of an answer that nobody gets, and returns how long that took. It reads a
// little of the body first, so that the connection can be used again, but for no longer than most,
// or a moment.
func discard(resp *http.Response, most time.Duration) (took time.Duration) {
	if resp == nil || resp.Body == nil {
		return 0
	}
	start := time.Now()
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.ContentLength <= drainBytes {
		limit := min(max(most, drainLeast), drainTime)
		hurry := time.AfterFunc(limit, func() { resp.Body.Close() }) // ends Reads
		_, _ = io.CopyN(io.Discard, resp.Body, drainBytes+1)         // and finds the end
		hurry.Stop()
	}
	resp.Body.Close()
	return time.Since(start)
}
