package versioning

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/blame"
)

// Handler returns a handler that passes each request to stable or to canary. It panics if one of
// them is nil.
//
// Errors are the statuses that [RolloutConfig].Failed names, panics, aborted answers, and deadlines
// that have passed before the answer began. Latency is the time until the answer begins. A request
// whose client has left before it was answered is no error; if it was slow by then, it counts as
// slow. A request that was shed counts for nothing, unless canary sheds nearly all of its requests
// and stable does not.
//
// The handlers belong to the Release that is configured when Handler is called: after a
// [Rollout.Reload] with another one, stable answers whatever comes through this handler.
func (r *Rollout) Handler(stable, canary http.Handler) http.Handler {
	if stable == nil || canary == nil {
		panic("versioning: nil handler")
	}
	release := r.current.Load().cfg.Release
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p, d, cookie := r.enter(req, release)
		next := stable
		if d.canary {
			next = canary
		}
		if d.untouched() || !d.counts && cookie == "" && p.cfg.TagField == "" && !d.moved {
			defer r.counts.arms[d.arm()].ended.Add(1)
			next.ServeHTTP(w, req)
			return
		}
		a := &rolloutAnswer{
			rollout: r, plan: p, draw: d, cookie: cookie, ctx: req.Context(), begun: r.now(), took: -1,
		}
		record(&a.Recorder, w, req) // its Bytes are not used
		a.owner = a
		returned := false
		defer func() { a.end(returned) }() // also on panic, which passes
		next.ServeHTTP(a, req)
		a.finish()
		returned = true
	})
}

// now is the monotonic time since the rollout was made, in nanoseconds.
func (r *Rollout) now() int64 { return int64(time.Since(r.base)) }

// A rolloutAnswer watches how an arm answers, and tags the answer.
type rolloutAnswer struct {
	writer
	rollout *Rollout
	plan    *plan
	draw    draw
	cookie  string // to set
	ctx     context.Context
	begun   int64
	took    int64 // until the answer began; -1 before
	gone    bool  // the client had left then
	late    bool  // its time was over then
	shed    bool
	tagged  bool
	field   [1]string // room for TagField
}

// complete implements completer: the answer begins.
func (a *rolloutAnswer) complete(h http.Header) {
	a.answers()
	if a.tagged {
		return
	}
	a.tagged = true
	if a.cookie != "" {
		h.Add("Set-Cookie", a.plan.cfg.Cookie.line(a.cookie))
	}
	if a.draw.moved {
		h.Set("Cache-Control", "no-store")
	}
	if field := a.plan.cfg.TagField; field != "" {
		a.field[0] = withTag(field, h[field], a.plan.tags[a.draw.arm()])
		h[field] = a.field[:]
	}
}

// withTag returns the value of a field of tags with one more. Surrogate-Key separates them by
// spaces, others by commas.
func withTag(field string, values []string, tag string) string {
	if len(values) == 0 {
		return tag
	}
	separator := ", "
	if field == "Surrogate-Key" {
		separator = " "
	}
	return strings.Join(values, separator) + separator + tag
}

// answers notes the time at which the answer began.
func (a *rolloutAnswer) answers() {
	if a.took < 0 {
		a.took = a.rollout.now() - a.begun
		a.gone = blame.Left(a.ctx)
		a.late = !a.gone && a.ctx.Err() != nil
	}
}

// WriteHeader sends the header. Only now it is known whether a limiter sends it.
func (a *rolloutAnswer) WriteHeader(code int) {
	if a.Status == 0 && code >= 200 {
		a.shed = a.plan.cfg.Shed(code, a.Header())
	}
	a.writer.WriteHeader(code)
}

// Hijack ends what can be seen of the answer.
func (a *rolloutAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := a.writer.Hijack()
	if err == nil {
		a.answers()
	}
	return conn, rw, err
}

// finish completes the header of a handler that wrote nothing.
func (a *rolloutAnswer) finish() {
	if a.Status == 0 {
		a.writer.finish()
	}
}

// end counts how the handler has ended.
func (a *rolloutAnswer) end(returned bool) {
	gone := blame.Left(a.ctx)
	a.answers()
	o := success
	switch {
	case a.gone, gone && !returned:
		o = canceled
	case !returned, a.late:
		o = failure
	case a.shed:
		o = shed
	case a.Status != 0 && a.Status != http.StatusSwitchingProtocols && a.plan.cfg.Failed(a.Status):
		o = failure
	case gone: // in the middle of the answer
		o = canceled
	}
	a.rollout.leave(a.plan, a.draw, o, a.took)
}
