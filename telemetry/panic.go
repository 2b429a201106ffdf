package telemetry

import (
	"net/http"
	"runtime/debug"

	"github.com/trivet-go/trivet/internal/problem"
)

// A PanicAction says what [Telemetry.Middleware] does with a handler's panic, beyond recording it.
type PanicAction int

const (
	// PassOn lets the panic go on, as if Middleware were not there.
	PassOn PanicAction = iota

	// Answer500 answers a 500 problem document (RFC 9457), and logs the stack. If part of a
	// response is out already, it aborts the connection, so that the client does not take the part
	// for the whole.
	Answer500
)

func (a PanicAction) String() string {
	switch a {
	case PassOn:
		return "pass_on"
	case Answer500:
		return "answer_500"
	}
	return "unknown"
}

// panicked handles the handler's panic in o. It returns the panic to go on with, if any.
func (ex *exchange) panicked(o *outcome) (again any) {
	ex.tel.panics.Add(1)
	answer := ex.tel.cfg.Panics == Answer500
	if answer || ex.span != nil && ex.span.IsRecording() {
		o.stack = debug.Stack()
	}
	if answer {
		return ex.answer500()
	}
	return o.panic
}

// staleFields belong to the response that the handler had in mind, beyond those that problem.Write
// removes: they would start a session or redirect.
var staleFields = [...]string{"Set-Cookie", "Location"}

// answer500 answers for a handler that panicked. It returns the panic to go on with, if any.
func (ex *exchange) answer500() any {
	if ex.writer.Hijacked {
		return nil // the connection is the handler's, there is nobody to answer
	}
	if ex.writer.Status != 0 {
		return http.ErrAbortHandler
	}
	ex.tel.guard(func() {
		h := ex.writer.Header()
		for _, name := range staleFields {
			h.Del(name)
		}
		problem.Write(&ex.writer, problem.Details{
			Status: http.StatusInternalServerError, Title: http.StatusText(http.StatusInternalServerError),
		})
	})
	return nil
}
