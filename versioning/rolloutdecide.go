package versioning

import (
	"context"
	"net/http"
)

// Decide returns a handler that decides the arm of each request before next, so that what stands
// between it and [Rollout.Handler] knows the arm: see [ArmOf]. It is for caches in front of arms
// that differ on purpose, whose keys must have the arm in them:
//
//	handler = rollout.Decide(cache.Middleware(rollout.Handler(blue, green)))
//
// A request keeps its arm although the weight changes meanwhile, unless that arm gets none any
// more: then the other one answers, with Cache-Control: no-store. Cookies of [MissingCookie] are
// set here. It panics if next is nil.
func (r *Rollout) Decide(next http.Handler) http.Handler {
	if next == nil {
		panic("versioning: nil handler")
	}
	r.decides.Store(true)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p := r.current.Load()
		d, cookie := r.drawn(p, req, true)
		if cookie != "" {
			w.Header().Add("Set-Cookie", p.cfg.Cookie.line(cookie))
		}
		ctx := context.WithValue(req.Context(), decisionKey{}, &armDecision{r, p, d})
		out := req.WithContext(ctx)
		defer func() { req.Pattern = out.Pattern }()
		next.ServeHTTP(w, out)
	})
}

// ArmOf returns the arm that [Rollout.Decide] has decided on for r; false if it has not. With
// several rollouts it is the innermost one's.
func ArmOf(r *http.Request) (arm Arm, ok bool) {
	d, ok := r.Context().Value(decisionKey{}).(*armDecision)
	if !ok {
		return "", false
	}
	return [...]Arm{Stable, Canary}[d.draw.arm()], true
}

type decisionKey struct{}

// An armDecision is the arm of a request that is on its way to Handler or Transport.
type armDecision struct {
	rollout *Rollout
	plan    *plan
	draw    draw
}

// decided returns the decision on req, or nil.
func (r *Rollout) decided(req *http.Request) *armDecision {
	if !r.decides.Load() {
		return nil
	}
	if d, ok := req.Context().Value(decisionKey{}).(*armDecision); ok && d.rollout == r {
		return d
	}
	return nil
}

// under returns the draw when p is in force. ours says that the handlers are of p's release.
func (d *armDecision) under(p *plan, ours bool) draw {
	now, same := d.draw, p.cfg.Release == d.plan.cfg.Release
	if ours && same && p.weight == d.plan.weight {
		return now
	}
	now.counts = false // it was drawn at another weight
	noCanary := !ours || !same || p.weight == 0 && !now.forced
	noStable := ours && p.weight == fullWeight && !now.forced
	if now.canary && noCanary || !now.canary && noStable {
		now.canary, now.moved = !now.canary, true
	}
	return now
}
