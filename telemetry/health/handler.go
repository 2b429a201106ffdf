package health

import (
	"encoding/json"
	"net/http"
)

// Live answers 200 as long as the process can answer at all. It runs no checks: restarting a
// process does not bring its database back.
func (h *Health) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, true, nil) })
}

// Ready answers 200 if the process should get requests: no check fails that is not optional, and
// [Health.Drain] was not called. Otherwise it answers 503.
func (h *Health) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ok, results := h.Check(r.Context())
		answer(w, ok && !h.draining.Load(), results)
	})
}

// Startup answers 503 until all checks that are not optional have passed together, and 200 from
// then on.
func (h *Health) Startup() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.started.Load() {
			answer(w, true, nil)
			return
		}
		ok, results := h.Check(r.Context())
		answer(w, ok, results)
	})
}

func answer(w http.ResponseWriter, ok bool, results []CheckResult) {
	status, word := http.StatusOK, "pass"
	if !ok {
		status, word = http.StatusServiceUnavailable, "fail"
	}
	body, _ := json.Marshal(struct {
		Status string        `json:"status"`
		Checks []CheckResult `json:"checks,omitempty"`
	}{word, results})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the prober is gone if this fails
}
