package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
)

// Middleware returns a handler that answers from the cache, and from next what the cache cannot.
//
// For what may be stored, next runs on a goroutine of the cache's own: its request's context has
// the values of the client's and ends when the response is of no use to anybody, or at
// [Config.FetchTimeout] after the last client has left. What next writes is streamed to all clients
// that wait for it. Its ResponseWriter can flush; it can neither be hijacked nor take deadlines.
//
// A Cache tells resources apart by the URL that it sees. If it is around several handlers for which
// http.StripPrefix makes URLs alike, each needs a Cache of its own, or [Config.KeyExtra].
//
// It panics if next is nil.
func (c *Cache) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("cache: nil handler")
	}
	return &middleware{cache: c, next: next}
}

type middleware struct {
	cache *Cache
	next  http.Handler
}

func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := m.cache
	if c.cfg.Skip != nil && c.cfg.Skip(r) {
		c.skipped(r)
		m.next.ServeHTTP(w, r)
		return
	}
	x := exchanges.Get().(*exchange)
	why := x.begin(c, r, true)
	x.w, x.next = w, m.next
	if why == ReasonNone && r.Method == methodQuery {
		if ok, err := x.readBody(); err != nil {
			x.refuse(http.StatusBadRequest)
			return
		} else if !ok {
			why = ReasonTooLarge
		}
	}
	if why == ReasonNone {
		x.setKey()
		if x.answer(r.Context()) {
			x.write(r.Context())
			x.release()
			return
		}
		why = x.rep.reason
	}
	x.pass(why)
	r.Pattern = x.r.Pattern
	x.release()
}

// skipped accounts for a request that Config.Skip names.
func (c *Cache) skipped(r *http.Request) {
	c.count(Skip)
	if !c.quiet {
		c.observe(r.Context(), Event{Kind: Requested, Outcome: Skip, Reason: ReasonSkip, Key: keyText(r)})
	}
}

// keyText returns the URL for events.
func keyText(r *http.Request) string {
	if r.URL.Host != "" {
		return r.URL.Redacted()
	}
	return r.Host + r.URL.RequestURI()
}

// settle counts the answer, and tells of it.
func (x *exchange) settle(ctx context.Context, status int) {
	rep := &x.rep
	x.c.count(rep.outcome)
	if x.c.quiet {
		return
	}
	told := false
	defer func() {
		if !told {
			rep.abandon()
		}
	}()
	x.c.observe(ctx, Event{
		Kind: Requested, Outcome: rep.outcome, Reason: rep.reason, Status: status, Age: rep.age,
		Duration: time.Since(x.began), Key: keyText(x.r), Err: rep.err,
	})
	told = true
}

// write writes the reply.
func (x *exchange) write(ctx context.Context) {
	rep, w := &x.rep, x.w
	if rep.pattern != "" {
		x.r.Pattern = rep.pattern
	}
	switch {
	case rep.panicked != nil:
		x.settle(ctx, 0)
		panic(rep.panicked)
	case rep.status == 0:
		x.settle(ctx, 0)
		x.fail(ctx)
		return
	case rep.reason == ReasonIfCached:
		x.settle(ctx, rep.status)
		x.refuse(rep.status)
		return
	}
	if rep.entry == nil {
		x.settle(ctx, rep.status)
		x.stream(ctx)
		return
	}
	h := w.Header()
	rep.fields(h)
	if len(rep.trailer) > 0 {
		announce(h, rep.trailer)
	}
	x.settle(ctx, rep.status)
	w.WriteHeader(rep.status)
	if x.head() || rep.bare {
		return
	}
	if len(rep.body) > 0 {
		_, _ = w.Write(rep.body) // an error means that the client has left
	}
	for _, part := range rep.parts {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
	for name, values := range rep.trailer {
		h[name] = slices.Clone(values)
	}
}

// announce sets the field Trailer.
func announce(h, trailer http.Header) {
	names := make([]string, 0, len(trailer))
	for name := range trailer {
		names = append(names, name)
	}
	slices.Sort(names)
	h["Trailer"] = names
}

// refuse answers with a problem document.
func (x *exchange) refuse(status int) {
	if x.rep.state != "" {
		h := x.w.Header()
		h["Cache-Status"] = append(h["Cache-Status"], x.rep.state)
	}
	problem.Write(x.w, problem.Details{Status: status, Title: http.StatusText(status)})
}

// fail answers a request whose fetch has failed, also one whose deadline has passed. A client that
// has left gets nothing: what is sent then must not look like an answer.
func (x *exchange) fail(ctx context.Context) {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		panic(http.ErrAbortHandler)
	}
	x.refuse(http.StatusGatewayTimeout)
}

// stream writes a response while it is fetched.
func (x *exchange) stream(ctx context.Context) {
	rep, w, rd := &x.rep, x.w, x.rep.rd
	defer rd.close()
	h := w.Header()
	layOver(h, rep.header, rep.bare)
	rep.sendAge(h)
	h["Cache-Status"] = append(h["Cache-Status"][:len(h["Cache-Status"]):len(h["Cache-Status"])], rep.state)
	if rep.length >= 0 {
		setLength(h, rep.length)
	}
	w.WriteHeader(rep.status)
	if rep.bare {
		return
	}
	flusher := http.NewResponseController(w)
	for last := 0; ; {
		p, flush, err := rd.next(ctx, last)
		last = len(p)
		switch {
		case err == io.EOF:
			sendTrailer(h, rep.header, rd.f.trailerFields())
			return
		case errors.Is(err, errTruncated):
			return // net/http sees that the body is too short, and tells the client
		case err != nil:
			x.abort(rd)
		case flush:
			_ = flusher.Flush() // the writer below may not be able to
		default:
			if _, err := w.Write(p); err != nil {
				return // the client has left
			}
		}
	}
}

// abort ends a response whose body is not whole, so that the client cannot take it for whole. A
// panic of the handler goes on in the client's goroutine that began the fetch.
func (x *exchange) abort(rd *reader) {
	f := rd.f
	f.mu.Lock()
	panicked := f.panicked
	f.mu.Unlock()
	if panicked != nil && rd == f.leader {
		panic(panicked)
	}
	panic(http.ErrAbortHandler)
}

// layOver sets the fields of own in h, over those that are there; Vary, Link and Set-Cookie are
// added to them.
func layOver(h, own http.Header, bare bool) {
	for name, values := range own {
		switch {
		case bare && describesBody(name):
		case values == nil:
			h[name] = nil
		case appended(name) && len(h[name]) > 0:
			before := h[name]
			h[name] = append(before[:len(before):len(before)], values...)
		default:
			h[name] = slices.Clone(values)
		}
	}
}

// trailerFields returns what came behind the body.
func (f *fill) trailerFields() http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trailer
}

// sendTrailer sets the trailer as net/http wants it.
func sendTrailer(h, own, trailer http.Header) {
	if len(trailer) == 0 {
		return
	}
	announced := make(map[string]bool)
	for _, v := range own["Trailer"] {
		for _, name := range splitList(v, ',') {
			announced[http.CanonicalHeaderKey(name)] = true
		}
	}
	for name, values := range trailer {
		if !announced[name] {
			name = http.TrailerPrefix + name
		}
		h[name] = slices.Clone(values)
	}
}

// onInterim returns what passes on 1xx responses.
func (x *exchange) onInterim() func(interim) {
	if !x.server {
		return nil // net/http's client has told its own caller
	}
	return func(i interim) {
		h := x.w.Header()
		before := make(http.Header, len(i.header))
		for name, values := range i.header {
			before[name] = h[name]
			if appended(name) {
				h[name] = append(slices.Clone(h[name]), values...)
			} else {
				h[name] = values
			}
		}
		response.Inform(x.w, i.status)
		for name, values := range before {
			if values == nil {
				delete(h, name)
			} else {
				h[name] = values
			}
		}
	}
}

// pass runs the handler for a request that the cache cannot answer, on the client's goroutine.
func (x *exchange) pass(why Reason) {
	r, method := x.r, x.r.Method
	if x.c.cfg.Unkeyed == UnkeyedDrop && x.fields&(hasUnkeyed|hasOddName) != 0 {
		r = r.Clone(r.Context())
		x.c.unkeyed(r, x.fields)
	}
	began := time.Now()
	x.rep = reply{outcome: Pass, reason: why, length: -1}
	w := &watcher{Recorder: *response.NewRecorder(x.w, r), x: x, began: began,
		state: x.c.fetchedState(why, 0, false, false, why)}
	if method == http.MethodPost || x.head() && x.echo != nil {
		w.outer, w.vary = cloneHeader(x.w.Header()), unshared(x.w.Header())
	}
	if method == http.MethodPost {
		w.before = x.c.changes.concerning(x.target())
	}
	defer func() {
		if x.r != r {
			x.r.Pattern = r.Pattern
		}
		x.began = began
		x.settle(r.Context(), w.Status)
	}()
	x.next.ServeHTTP(w, r)
	w.finish()
}
