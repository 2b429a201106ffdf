package breaker

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"

	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/response"
)

// Middleware passes requests to next while the breaker of their key admits them, and answers the
// others with [Config.ErrorHandler]. It panics if next is nil.
//
// Failures are the statuses that [Config.Failed] names, panics, aborted answers, and deadlines that
// have passed before next returns. A request whose client has left before that counts for nothing,
// nor does one whose deadline has passed while next was writing: it may have waited for its client.
// The breaker does not see what a limiter around it refuses.
func (b *Breaker) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("breaker: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.cfg.Skip != nil && b.cfg.Skip(r) {
			next.ServeHTTP(w, r)
			return
		}
		key, ok := b.serverKey(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		ctx := r.Context()
		var k call
		if refusal := b.enter(ctx, key, &k); refusal != nil {
			linger.Answer(w, r, func(w http.ResponseWriter) { b.cfg.ErrorHandler(w, r, refusal) })
			return
		}
		if k.circuit == nil { // a dry run
			next.ServeHTTP(w, r)
			return
		}
		a := &answer{Recorder: response.NewRecorder(w, r), breaker: b, call: k, ctx: ctx}
		returned := false
		defer func() { a.finish(returned) }() // also on panic, which passes
		next.ServeHTTP(a, r)
		returned = true
	})
}

func (b *Breaker) serverKey(r *http.Request) (key string, ok bool) {
	if b.cfg.Key != nil {
		return b.cfg.Key(r)
	}
	return r.Pattern, true
}

// An answer watches how a handler answers. It notes the time before it passes the first byte on:
// a client that reads slowly holds up the handler's writes, and is not a slow handler.
type answer struct {
	*response.Recorder
	call
	breaker *Breaker
	ctx     context.Context
	begun   bool // the handler has begun to answer
	sent    bool // the header is out
	slow    bool
	over    bool // the time was over before the write that goes on, or has been last
	held    bool // it ended in a write
	ended   bool
}

// begin notes that the handler begins to answer.
func (a *answer) begin() {
	if !a.begun {
		a.begun = true
		a.slow = a.breaker.tooSlow(&a.call)
	}
	a.over = a.ctx.Err() != nil
}

// wrote follows a write, which may have waited for the client.
func (a *answer) wrote() {
	if !a.over && a.ctx.Err() != nil {
		a.held = true
	}
	a.began()
}

// began judges the header, if it is out.
func (a *answer) began() {
	if a.sent || a.Status == 0 {
		return
	}
	a.sent = true
	switch {
	case a.breaker.cfg.Failed(a.Status):
		if !blame.Left(a.ctx) {
			a.end(Failure) // at once: a client that has got it may leave before the handler returns
		}
	case a.Status == http.StatusSwitchingProtocols, streams(a.Header()): // a hijack counts as 101
		a.slow = false
		a.end(Success)
	case a.ticket != 0:
		a.circuit.answered(&a.call)
	}
}

// finish counts how the handler has ended.
func (a *answer) finish(returned bool) {
	switch {
	case blame.Left(a.ctx):
		a.end(Neutral)
	case !returned:
		a.end(Failure)
	case a.held: // by its client, or by what ReadFrom has read from: nobody knows
		a.end(Neutral)
	case a.ctx.Err() != nil: // its time is over
		a.end(Failure) // somebody further out answers that it came to nothing, or cuts it off
	default:
		a.begin()
		a.end(Success)
	}
}

func (a *answer) end(o Outcome) {
	if !a.ended {
		a.ended = true
		a.leave(a.ctx, o, a.slow && o == Success)
	}
}

// WriteHeader notes the status. A 1xx is not yet the answer.
func (a *answer) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		a.begin()
	}
	a.Recorder.WriteHeader(code)
	a.began()
}

func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	n, err := a.Recorder.Write(p)
	a.wrote()
	return n, err
}

// WriteString spares io.WriteString the copy into a byte slice.
func (a *answer) WriteString(s string) (int, error) {
	a.begin()
	n, err := a.Recorder.WriteString(s)
	a.wrote()
	return n, err
}

// ReadFrom keeps the sendfile path.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	a.begin()
	n, err := a.Recorder.ReadFrom(src)
	a.wrote()
	return n, err
}

// FlushError is here because a flush sends the header.
func (a *answer) FlushError() error {
	a.begin()
	err := a.Recorder.FlushError()
	a.wrote()
	return err
}

// Flush serves callers that assert [http.Flusher].
func (a *answer) Flush() { _ = a.FlushError() }

// Hijack ends what the breaker can see.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := a.Recorder.Hijack()
	a.began()
	return conn, rw, err
}
