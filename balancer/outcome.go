package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/trivet-go/trivet/balancer/internal/wire"
	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/retryafter"
	"github.com/trivet-go/trivet/internal/unsent"
)

// outcomeOfResponse says what a response means for its endpoint. pause is what a busy one asks for.
func outcomeOfResponse(resp *http.Response) (out Outcome, pause time.Duration) {
	switch code := resp.StatusCode; {
	case code < 100:
		return Failure, 0 // RFC 9110, section 15: there is no such status
	case code < 429:
		return Success, 0
	case code == http.StatusTooManyRequests:
		return Rejected, 0
	case code == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		pause, ok := retryafter.Parse(resp.Header.Get("Retry-After"), time.Now())
		if !ok {
			pause = time.Second
		}
		return Busy, pause
	case failedStatus(code):
		return Failure, 0
	}
	return Success, 0
}

// failedStatus reports whether a response with that status is its server's fault, not its client's
// or its protocol's.
func failedStatus(code int) bool {
	return code >= 500 && code != http.StatusNotImplemented && code != http.StatusHTTPVersionNotSupported
}

// outcomeOfError says what an error means for its endpoint, and whether another endpoint may have
// the request. bodyErr is why the request's body could not be read, if that is to blame; late says
// that a reply commonly takes less time.
func outcomeOfError(err error, req *http.Request, bodyErr error, late bool) (out Outcome, elsewhere bool) {
	left := !neverSent(err)
	end := req.Context().Err()
	switch {
	case !left && end == nil:
		return Failure, true
	case left && unsent.Is(err):
		return NotSent, true
	case bodyErr != nil:
		return Canceled, false
	case errors.Is(end, context.DeadlineExceeded) && late:
		return Failure, false
	case end != nil: // a caller that leaves, or is in more of a hurry than most, blames nobody
		return Canceled, false
	case callersFault(req, err):
		return Rejected, false
	}
	return Failure, false
}

// neverSent reports whether err shows that the endpoint has not looked at the request, and that
// this is its fault.
func neverSent(err error) bool {
	var dial *dialError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	// Conn is set if the answer to our greeting was not TLS, and nil after the handshake.
	notTLS := errors.As(err, &record) && record.Conn != nil
	if errors.As(err, &dial) || errors.As(err, &verify) || notTLS {
		return true
	}
	for ; err != nil; err = errors.Unwrap(err) { // these have no exported type
		s := err.Error()
		if s == "net/http: TLS handshake timeout" ||
			// Closed before its first request, or by a GOAWAY to the first.
			s == "http2: client conn could not be established" ||
			strings.HasPrefix(s, "http2: Transport received GOAWAY from server ErrCode:") {
			return true
		}
	}
	return false
}

// callersFault reports whether err says that req cannot be sent to anybody, or not over this
// protocol: no endpoint is to blame, or callers could have them ejected.
func callersFault(req *http.Request, err error) bool {
	var bad *wire.RequestError
	if errors.Is(err, errCutOff) || errors.As(err, &bad) {
		return true
	}
	if errors.Is(err, net.ErrClosed) {
		// net/http closes the connection of a request that it cannot write, and may tell of that
		// alone. What an endpoint closes or breaks reads otherwise.
		return true
	}
	return blame.Request(req, err)
}
