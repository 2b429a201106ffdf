package breaker

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/unsent"
)

// failureOf says what an error of req, an attempt, means: Neutral if what was called is not to
// blame.
func failureOf(req *http.Request, err error, up *blame.Upload) Outcome {
	ctx := req.Context()
	switch {
	case unsent.Is(err), // it did not leave: an inner breaker, pacer, throttle, or no endpoints
		blame.Left(ctx),
		canceled(req),
		errors.Is(err, context.Canceled) && ctx.Err() == nil, // by a wrapper below, for reasons of its own
		up.Failed(),
		blame.Request(req, err):
		return Neutral
	}
	return Failure
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

// streams reports whether an answer is an event stream: it begins and ends when events do, so
// neither says anything about who sends it.
func streams(h http.Header) bool { return grammar.MediaType(h) == "text/event-stream" }
