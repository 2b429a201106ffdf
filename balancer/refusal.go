package balancer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/retryafter"
	"github.com/trivet-go/trivet/internal/unsent"
)

// ErrorStatus returns the status that answers a request which failed with err, an error that
// [HandlerConfig.ErrorHandler] gets: 413, 408 or 400 if the client's body was at fault, 431 if its
// header is larger than any server takes, 503 if the request was not sent, 504 after a timeout,
// else 502. With 503 it also returns the wait that err states, or one second if err states none,
// for Retry-After. A wait of 0 is none: no Retry-After is to be sent, since the refusal is final.
// With other statuses the wait is 0.
//
// It does not know the request's context. If that has expired, whatever err says may have come of
// it: a handler that sets deadlines answers 504 for 502 then.
func ErrorStatus(err error) (status int, retryAfter time.Duration) {
	var timeout net.Error
	timedOut := errors.As(err, &timeout) && timeout.Timeout()
	var tooLarge *http.MaxBytesError
	var body *bodyError
	var header *headerError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, 0
	case errors.As(err, &header):
		return http.StatusRequestHeaderFieldsTooLarge, 0
	case errors.As(err, &body) && timedOut:
		return http.StatusRequestTimeout, 0
	case errors.As(err, &body):
		return http.StatusBadRequest, 0
	case unsent.Is(err):
		return http.StatusServiceUnavailable, waitOf(err)
	case timedOut, errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, 0
	}
	return http.StatusBadGateway, 0
}

// A headerError says that the request's header is too large for the server, and for others.
type headerError struct{ error }

func (e *headerError) Unwrap() error { return e.error }

// titles are those of the problem documents with a status of ErrorStatus. They tell nothing of err.
var titles = map[int]string{
	http.StatusRequestEntityTooLarge:       "The request's body is too large",
	http.StatusRequestHeaderFieldsTooLarge: "The request's header is too large",
	http.StatusRequestTimeout:              "The request's body took too long",
	http.StatusBadRequest:                  "The request's body could not be read",
	http.StatusServiceUnavailable:          "No server is available for this request",
	http.StatusGatewayTimeout:              "The server behind this one took too long",
	http.StatusBadGateway:                  "The server behind this one could not be reached",
}

func writeProblem(w http.ResponseWriter, _ *http.Request, err error) {
	status, wait := ErrorStatus(err)
	retryafter.Set(w.Header(), wait)
	problem.Write(w, problem.Details{Status: status, Title: titles[status]})
}
