package breaker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/unsent"
)

// failureOf says what an error of req, an attempt, means: Neutral if what was called is not to
// blame.
func failureOf(req *http.Request, err error, up *upload) Outcome {
	ctx := req.Context()
	switch {
	case unsent.Is(err), // it did not leave: an inner breaker, pacer, throttle, or no endpoints
		left(ctx),
		canceled(req),
		errors.Is(err, context.Canceled) && ctx.Err() == nil, // by a wrapper below, for reasons of its own
		up.failed(),
		callersFault(err):
		return Neutral
	}
	return Failure
}

// left reports whether the caller has given up. A time that has run out is not that, in whatever
// way the context was told of it.
func left(ctx context.Context) bool {
	if !errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	var late interface{ Timeout() bool }
	return !errors.As(context.Cause(ctx), &late) || !late.Timeout()
}

// canceled reports whether the caller has closed req.Cancel. http.Client closes it too when its
// Timeout is over, which it has put into the context as a deadline before.
func canceled(req *http.Request) bool {
	select {
	//lint:ignore SA1019 who still uses it must not open the breaker by that
	case <-req.Cancel:
	default:
		return false
	}
	deadline, ok := req.Context().Deadline()
	return !ok || time.Now().Before(deadline)
}

// callersFault reports whether net/http refuses to send the request, for what strangers can write
// into it where requests are passed on. It has no types for these errors.
func callersFault(err error) bool {
	s := err.Error()
	return slices.ContainsFunc(requestErrors[:], func(p string) bool { return strings.HasPrefix(s, p) })
}

var requestErrors = [...]string{
	"net/http: invalid ", "http2: invalid ", // method, field name or value
	"net/http: HTTP/1.x transport connection broken: http: ContentLength=",
	"http: Request.ContentLength=",
	"http2: request body larger than ",
	"http2: request header list larger than ",
	"idna: ", "http2: idna: ", // a Host that is no name
	"net/http: can't write control character",
	"http: no Host in request URL", "unsupported protocol scheme",
}

// streams reports whether an answer is an event stream: it begins and ends when events do, so
// neither says anything about who sends it.
func streams(h http.Header) bool {
	const kind = "text/event-stream"
	ct := h["Content-Type"]
	return len(ct) > 0 && len(ct[0]) >= len(kind) && strings.EqualFold(ct[0][:len(kind)], kind)
}
