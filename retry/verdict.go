package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/retryafter"
	"github.com/trivet-go/trivet/internal/unsent"
)

// A Verdict is what [Config.When] says of an attempt.
type Verdict int

const (
	// Default leaves the attempt to the built-in rules.
	Default Verdict = iota

	// Stop returns the response or error as it is.
	Stop

	// Retry sends the request again, if it is one that may be repeated.
	Retry

	// Unprocessed sends the request again whatever its method: the server is known not to have
	// acted on it. It costs budget, since the server has had the work.
	Unprocessed
)

// A Reason says why a request was retried, or why it was not retried any more.
type Reason string

// Why a request was retried. An answer's reason is its status, such as "503".
const (
	ReasonNotSent     Reason = "not_sent"    // an error says NotSent and after what time to come again
	ReasonUnprocessed Reason = "unprocessed" // no connection, or a server let it go unserved
	ReasonTimeout     Reason = "timeout"     // PerTry, or a limit of the transport below
	ReasonError       Reason = "error"       // the connection broke
	ReasonWhen        Reason = "when"        // Config.When
)

// Why a request that had failed was not retried.
const (
	GaveUpAttempts   Reason = "attempts"    // MaxAttempts
	GaveUpBudget     Reason = "budget"      // none left
	GaveUpDeadline   Reason = "deadline"    // it has passed, or would before the next attempt
	GaveUpCanceled   Reason = "canceled"    // the caller left
	GaveUpRetryAfter Reason = "retry_after" // the wait asked for is more than MaxRetryAfter
	GaveUpMethod     Reason = "method"      // it may not be repeated (RFC 9110, section 9.2.2)
	GaveUpBody       Reason = "body"        // its body cannot be sent again
	GaveUpHint       Reason = "hint"        // a tier below has given up already
	GaveUpFinal      Reason = "final"       // another attempt cannot help
)

// replayable reports whether req may be sent again after a server may have acted on it.
func replayable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, // RFC 9110, section 9.2.2
		http.MethodPut, http.MethodDelete, "QUERY": // RFC 10008
		return true
	}
	return keyed(req)
}

// hedgeable reports whether req may be with two servers at a time.
func hedgeable(req *http.Request) bool {
	if len(req.Header["Upgrade"]) > 0 {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "QUERY":
		return true
	}
	return keyed(req)
}

// keyed reports whether the server is told how to know a repeated request.
func keyed(req *http.Request) bool { return req.Header.Get("Idempotency-Key") != "" }

// A finding is what an attempt's end means.
type finding struct {
	reason Reason        // to try again; empty if the request is done
	final  Reason        // not to try again although it failed
	wait   time.Duration // that the server or the error asks for
	unsent bool          // no server has acted on it: any method may be repeated
	free   bool          // it costs no budget
}

// judge says what the end of an attempt means. req is for When: the caller's request, which a hedge
// has only a copy of, since the caller may have it back.
func (c *call) judge(a *attempt, req *http.Request, resp *http.Response, err error) finding {
	cfg := &c.retrier.cfg
	verdict := Default
	if cfg.When != nil {
		verdict = cfg.When(req, resp, err)
	}
	var f finding
	switch {
	case err != nil:
		f = c.judgeError(a, err)
	case resp != nil:
		f = judgeStatus(resp)
		if verdict == Retry || verdict == Unprocessed || f.reason != "" {
			f.wait = askedWait(resp.Header)
		}
	}
	switch verdict {
	case Stop:
		return finding{}
	case Retry:
		f.reason, f.final = ReasonWhen, ""
	case Unprocessed:
		f.reason, f.final, f.unsent = ReasonWhen, "", true
	}
	switch {
	case f.reason == "":
	case c.ctx.Err() != nil:
		f = finding{final: gone(c.ctx)}
	case resp != nil && cfg.hinted(resp.Header):
		f = finding{final: GaveUpHint}
	}
	return f
}

// hinted reports whether a tier below says by the field Hint that it has given up.
func (c *Config) hinted(h http.Header) bool {
	return c.Hint != "" && strings.EqualFold(strings.TrimSpace(h.Get(c.Hint)), "false")
}

// judgeStatus says which statuses another attempt may cure. 500 is not among them: it commonly says
// that this request makes this server fail.
func judgeStatus(resp *http.Response) (f finding) {
	switch resp.StatusCode {
	case http.StatusRequestTimeout:
		f.reason = "408"
	case http.StatusTooEarly:
		f.reason = "425"
	case http.StatusTooManyRequests:
		f.reason = "429"
	case http.StatusBadGateway:
		f.reason = "502"
	case http.StatusServiceUnavailable:
		f.reason = "503"
	case http.StatusGatewayTimeout:
		f.reason = "504"
	}
	return f
}

// succeeded reports whether an answer earns budget.
func succeeded(resp *http.Response) bool {
	return resp != nil && resp.StatusCode < 500 && judgeStatus(resp).reason == ""
}

// askedWait returns the wait that Retry-After asks for, the longest if there are several.
func askedWait(h http.Header) (wait time.Duration) {
	for _, v := range h["Retry-After"] {
		if d, ok := retryafter.Parse(v, time.Now()); ok {
			wait = max(wait, d)
		}
	}
	return wait
}

func (c *call) judgeError(a *attempt, err error) finding {
	switch {
	case c.ctx.Err() != nil:
		return finding{final: gone(c.ctx)}
	case unsent.Is(err):
		if wait := unsent.RetryAfter(err); wait > 0 {
			return finding{reason: ReasonNotSent, wait: wait, unsent: true, free: true}
		}
		return finding{final: GaveUpFinal, unsent: true, free: true}
	case a.Err() != nil: // PerTry's end, since the request's context goes on
		return finding{reason: ReasonTimeout, unsent: a.notSent(err)}
	case errors.Is(err, context.Canceled), hopeless(c.req, err):
		return finding{final: GaveUpFinal}
	case a.notSent(err):
		return finding{reason: ReasonUnprocessed, unsent: true}
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return finding{reason: ReasonTimeout}
	}
	return finding{reason: ReasonError}
}

// gone says how ctx has ended.
func gone(ctx context.Context) Reason {
	if errors.Is(ctx.Err(), context.Canceled) {
		return GaveUpCanceled
	}
	return GaveUpDeadline
}

// notSent reports whether the attempt that ended with err has provably reached no server. There are
// two proofs. A request that never got a connection was not sent: net/http says that it looks for
// one and that it has one, and an error of a dial speaks for itself. And HTTP/2 servers say which
// streams they have not served (RFC 9113, section 8.7).
func (a *attempt) notSent(err error) bool {
	if err == nil {
		return false
	}
	if unsent.Is(err) || unserved(err) {
		return true
	}
	if a.got.Load() {
		return false // net/http may have sent it, and failed to dial for its own replay
	}
	var op *net.OpError
	return a.asked.Load() || errors.As(err, &op) && op.Op == "dial"
}

// A streamError has the shape of net/http's, which lets itself be converted.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream error" }

const refusedStream = 0x7 // RFC 9113, section 7

// unserved reports whether err says that an HTTP/2 server has refused the stream or, going away,
// has not served it. A connection that breaks after a GOAWAY is another matter: what streams were
// left on it are those that the server may have served.
func unserved(err error) bool {
	var stream streamError
	if errors.As(err, &stream) && stream.Code == refusedStream {
		return true
	}
	for ; err != nil; err = errors.Unwrap(err) {
		// net/http has no type for it. The text is all of the error: no server can write it.
		if err.Error() == "http2: Transport received Server's graceful shutdown GOAWAY" {
			return true
		}
	}
	return false
}

// hopeless reports whether the next attempt would fail like the one that ended with err: the
// server's certificate is not trusted, or the request is one that cannot be sent.
func hopeless(req *http.Request, err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		name        x509.HostnameError
		invalid     x509.CertificateInvalidError
	)
	if errors.As(err, &certificate) || errors.As(err, &authority) || errors.As(err, &name) ||
		errors.As(err, &invalid) {
		return true
	}
	return blame.Request(req, err)
}
