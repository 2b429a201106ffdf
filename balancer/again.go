package balancer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// maxRepeats is how often a request is sent again because it was not processed. More would mean
// that its servers close every connection after a request or two.
const maxRepeats = 3

// An againError is how a request fails that may be sent again whatever its method, at nobody's
// fault: its server says that it has not processed it, or it is safe and net/http has cut it off.
type againError struct {
	err       error
	elsewhere bool // to another endpoint if there is one, since this one refuses requests
}

func (e *againError) Error() string             { return "balancer: not processed: " + e.err.Error() }
func (e *againError) Unwrap() error             { return e.err }
func (e *againError) NotSent() bool             { return true }
func (e *againError) RetryAfter() time.Duration { return time.Second }

func mayGoAgain(err error) bool {
	var again *againError
	return errors.As(err, &again)
}

// errCutOff is how a request fails that net/http has cut off for another one.
var errCutOff = errors.New("balancer: net/http has closed the connection because another request ended")

// classify returns an againError for the error err of net/http if r may be sent again, else err.
func classify(r *http.Request, err error) error {
	switch {
	case cutOff(r, err) && repeatable(r):
		return &againError{err: errCutOff}
	case cutOff(r, err):
		return errCutOff
	case beyondGoAway(err):
		return &againError{err: err}
	case refusedStream(err):
		return &againError{err: err, elsewhere: true}
	}
	return err
}

// cutOff reports whether err is the end of another request's context. net/http gives the connection
// of an answer without a body back before it has delivered the answer. If the context of that
// request ends in between, net/http closes the connection under the request that has it by then,
// and tells that one the other's error. The comparison is exact, since net/http's own timeouts
// match context.DeadlineExceeded.
func cutOff(r *http.Request, err error) bool {
	return (err == context.Canceled || err == context.DeadlineExceeded) && r.Context().Err() == nil
}

// repeatable reports whether net/http itself would send r again if a connection that it uses for
// the second time turned out to be dead.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return r.Body == nil || r.Body == http.NoBody
	}
	return false
}

// cannotRetry begins what net/http says of a request that it would have sent again if it could have
// had the body once more. The error that it would have done so for follows.
const cannotRetry = "http2: Transport: cannot retry err ["

// beyondGoAway reports whether err says that the request's stream is beyond the last one that its
// server would process on that connection (RFC 9113, section 6.8), or that it got no stream there.
// net/http sends a request without a body again itself. It has no types for these errors.
func beyondGoAway(err error) bool {
	s := strings.TrimPrefix(err.Error(), cannotRetry)
	return strings.HasPrefix(s, "http2: Transport received Server's graceful shutdown GOAWAY") ||
		strings.HasPrefix(s, "http2: client conn not usable") ||
		// of a body that nobody has read: what has been read is in cannotRetry's case
		s == "net/http: cannot rewind body after connection loss"
}

// refusedStream reports whether err says that the server has refused the request's stream before
// any processing (RFC 9113, section 8.7).
func refusedStream(err error) bool {
	var reset streamError
	if errors.As(err, &reset) {
		return reset.Code == errCodeRefusedStream
	}
	s, ok := strings.CutPrefix(err.Error(), cannotRetry+"stream error: stream ID ")
	return ok && strings.Contains(s, "; REFUSED_STREAM")
}

// A streamError has the form of net/http's own, which lets errors.As fill it.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "http2: stream error" }

const errCodeRefusedStream = 0x7 // RFC 9113, section 7

// mayUseHTTP2 reports whether a transport made of template may speak HTTP/2 to targets with scheme.
func mayUseHTTP2(template *http.Transport, scheme string) bool {
	switch p := template.Protocols; {
	case p == nil:
		return scheme == "https" // if the server offers it: see pinned
	case scheme == "https":
		return p.HTTP2()
	default:
		return p.UnencryptedHTTP2()
	}
}
