package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
)

// Middleware returns a handler that admits requests to next while they are within l's policies, and
// answers the others with [Config.ErrorHandler]. It sets the RateLimit fields of both; they tell
// what is left before a policy's CountIf gives anything back. It reads no body, except that after a
// refusal of a large upload it reads on for a while, so that the answer is not lost, and closes the
// connection. It wraps the ResponseWriter only if a policy has a CountIf. It panics if next is nil.
func (l *Limiter) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("ratelimit: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var d Decision
		if err := l.take(r.Context(), r, &d); err != nil {
			l.refuse(w, r, err)
			return
		}
		h := w.Header()
		empty := len(h) == 0
		spare := d.setHeaders(h)
		if !d.Allowed {
			if l.cfg.ErrorHandler != nil || d.Outcome != Limited {
				l.refuse(w, r, &RefusedError{Decision: d})
				return
			}
			if !empty {
				problem.DropBodyFields(h)
			}
			if !linger.Needed(r) {
				l.writeLimited(w, d.violated, spare)
				return
			}
			violated := d.violated // d itself stays off the heap
			linger.Answer(w, r, func(w http.ResponseWriter) { l.writeLimited(w, violated, spare) })
			return
		}
		if l.cfg.PassDecision {
			passed := d // d itself stays off the heap
			r = r.WithContext(context.WithValue(r.Context(), contextKey{}, &passed))
		}
		if !l.conditional {
			next.ServeHTTP(w, r)
			return
		}
		recorder := response.NewRecorder(w, r)
		next.ServeHTTP(recorder, r)
		_ = d.settle(r.Context(), cmp.Or(recorder.Status, http.StatusOK)) // Stats count the error
	})
}

func (l *Limiter) refuse(w http.ResponseWriter, r *http.Request, err error) {
	linger.Answer(w, r, func(w http.ResponseWriter) { l.writeRefusal(w, r, err) })
}

func (l *Limiter) writeRefusal(w http.ResponseWriter, r *http.Request, err error) {
	if l.cfg.ErrorHandler != nil {
		l.cfg.ErrorHandler(w, r, err)
		return
	}
	details := problem.Details{
		Title: http.StatusText(http.StatusInternalServerError), Status: http.StatusInternalServerError,
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		switch refused.Decision.Outcome {
		case NoKey:
			details.Title, details.Status = http.StatusText(http.StatusBadRequest), http.StatusBadRequest
		case Unavailable:
			details.Type = typeReducedCapacity
			details.Title, details.Status = "Temporarily reduced capacity", http.StatusServiceUnavailable
			details.Extensions = map[string]any{"violated-policies": refused.Decision.shown()}
		}
	}
	problem.Write(w, details)
}

// shown returns the violated policies that are not hidden.
func (d *Decision) shown() []string {
	names := []string{}
	for i := range d.limiter.policies {
		if p := &d.limiter.policies[i]; d.violated&(1<<i) != 0 && !p.Hidden {
			names = append(names, p.Name)
		}
	}
	return names
}

// writeLimited is problem.Write for the document of 429, but from prepared bytes and with the
// fields' values in places that are allocated already: a refusal must be cheap.
func (l *Limiter) writeLimited(w http.ResponseWriter, violated uint8, spare []string) {
	h := w.Header()
	for _, field := range [...][2]string{
		{"Content-Type", "application/problem+json"},
		{"Cache-Control", "no-store"}, // RFC 6585, section 4: must not be stored by a cache
		{"X-Content-Type-Options", "nosniff"},
	} {
		spare[0] = field[1]
		h[field[0]] = spare[:1:1]
		spare = spare[1:]
	}
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = w.Write(l.bodies[violated]) // the client is gone if this fails
}
