package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/trivet-go/trivet/versioning"
)

// rolloutStatus is what GET /rollouts shows of a rollout.
type rolloutStatus struct {
	State   versioning.RolloutState `json:"state"`
	Verdict versioning.Verdict      `json:"verdict"`
	Stats   versioning.RolloutStats `json:"stats"`
}

// shadowStatus is what GET /rollouts shows of a shadow.
type shadowStatus struct {
	Report versioning.ShadowReport `json:"report"`
	Stats  versioning.ShadowStats  `json:"stats"`
}

// showRollouts answers GET /rollouts.
func (g *gateway) showRollouts(w http.ResponseWriter, _ *http.Request) {
	type trial struct {
		Rollout *rolloutStatus `json:"rollout,omitempty"`
		Shadow  *shadowStatus  `json:"shadow,omitempty"`
	}
	routes := map[string]trial{}
	for label, parts := range g.current.Load().parts {
		var t trial
		if parts.split != nil && parts.split.rollout != nil {
			r := parts.split.rollout
			t.Rollout = &rolloutStatus{r.State(), r.Verdict(), r.Stats()}
		}
		if parts.shadow != nil {
			t.Shadow = &shadowStatus{parts.shadow.shadow.Report(), parts.shadow.shadow.Stats()}
		}
		if t != (trial{}) {
			routes[label] = t
		}
	}
	writeJSON(w, routes)
}

// An action is what a person does to the rollout of a route.
type action struct {
	Route  string `json:"route"`  // as GET /rollouts calls it
	Action string `json:"action"` // one of rolloutActions
	Text   string `json:"text"`   // why; for rollback only
}

var rolloutActions = map[string]func(ctx context.Context, r *versioning.Rollout, text string) error{
	"promote": func(ctx context.Context, r *versioning.Rollout, _ string) error { return r.Promote(ctx) },
	"switch":  func(ctx context.Context, r *versioning.Rollout, _ string) error { return r.Switch(ctx) },
	"pause":   func(ctx context.Context, r *versioning.Rollout, _ string) error { return r.Pause(ctx) },
	"resume":  func(ctx context.Context, r *versioning.Rollout, _ string) error { return r.Resume(ctx) },
	"retry":   func(ctx context.Context, r *versioning.Rollout, _ string) error { return r.Retry(ctx) },
	"rollback": func(ctx context.Context, r *versioning.Rollout, text string) error {
		return r.Rollback(ctx, text)
	},
}

// actOnRollout answers POST /rollouts.
func (g *gateway) actOnRollout(w http.ResponseWriter, r *http.Request) {
	var a action
	if err := readAction(w, r, &a); err != nil {
		writeProblem(w, http.StatusBadRequest,
			"the body must be one JSON object with route and action: "+err.Error())
		return
	}
	parts := g.current.Load().parts[a.Route]
	do := rolloutActions[a.Action]
	switch {
	case parts == nil || parts.split == nil || parts.split.rollout == nil:
		writeProblem(w, http.StatusBadRequest, "route: none with this name has a rollout")
		return
	case do == nil:
		writeProblem(w, http.StatusBadRequest, "action: is not one of: "+names(rolloutActions))
		return
	case a.Text != "" && a.Action != "rollback":
		writeProblem(w, http.StatusBadRequest, "text: has a meaning only with rollback")
		return
	}
	if a.Text == "" {
		a.Text = "rolled back by a person"
	}
	switch err := do(r.Context(), parts.split.rollout, a.Text); {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, versioning.ErrPhase):
		writeProblem(w, http.StatusConflict, "action: the release is "+
			string(parts.split.rollout.State().Phase)+", in which this cannot be done")
	default:
		writeProblem(w, http.StatusServiceUnavailable, "the rollout's store did not answer")
	}
}
