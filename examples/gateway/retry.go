package main

import (
	"net/http"
	"reflect"
	"time"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
)

// A Retry makes the gateway repeat requests that have failed, each at another host, as far as the
// budget allows.
type Retry struct {
	Attempts      int      `yaml:"attempts"`        // of a request at most, the first included; 3
	Backoff       Duration `yaml:"backoff"`         // the wait before the first retry, at most; 50ms
	MaxBackoff    Duration `yaml:"max_backoff"`     // backoff doubles up to this; 5s
	PerTry        Duration `yaml:"per_try"`         // of one attempt, its answer's body included; no limit
	MaxRetryAfter Duration `yaml:"max_retry_after"` // a longer Retry-After is passed on at once; 30s
	Ratio         Share    `yaml:"ratio"`           // what each success adds to the budget, in retries; 0.1
	Reserve       int      `yaml:"reserve"`         // retries that the budget begins with; 10
	MaxBody       Size     `yaml:"max_body"`        // a longer body is sent once; 64KiB
}

// A Hedge makes the gateway send a safe request a second time if it takes longer than most.
type Hedge struct {
	Ratio    Share    `yaml:"ratio"`     // of the requests that are sent twice, at most; 0.05
	MinDelay Duration `yaml:"min_delay"` // the least wait before that; 1ms
}

// checkRetries adds to f the faults of the keys retry and hedge.
func (u *Upstream) checkRetries(f *faults, path ...any) {
	at := func(keys ...any) []any { return append(path[:len(path):len(path)], keys...) }
	before := len(*f)
	if r := u.Retry; r != nil {
		f.duration(&r.Backoff, 0, at("retry", "backoff")...)
		f.duration(&r.MaxBackoff, 0, at("retry", "max_backoff")...)
		f.duration(&r.PerTry, 0, at("retry", "per_try")...)
		f.duration(&r.MaxRetryAfter, 0, at("retry", "max_retry_after")...)
		f.size(&r.MaxBody, 0, at("retry", "max_body")...)
		if r.Reserve < 0 {
			f.add("must be positive", at("retry", "reserve")...)
		}
	}
	if h := u.Hedge; h != nil {
		f.duration(&h.MinDelay, 0, at("hedge", "min_delay")...)
	}
	if len(*f) > before {
		return // package retry would find the same
	}
	_, err := retry.New(u.retries())
	if err == nil {
		return
	}
	for _, fault := range fieldFaults(err) {
		keys := map[string][]any{
			"MaxAttempts": {"retry", "attempts"}, "Backoff": {"retry", "backoff"},
			"Budget.Reserve": {"retry", "reserve"}, "HedgeRatio": {"hedge", "ratio"},
			"MaxBody": {"retry", "max_body"},
		}[fault.Field()]
		f.add(fault.Reason(), at(keys...)...)
	}
}

// retries returns what retry.New takes.
func (u *Upstream) retries() retry.Config {
	cfg := retry.Config{MaxAttempts: 1, Scope: balancer.Avoid}
	if r := u.Retry; r != nil {
		cfg.MaxAttempts, cfg.MaxBody = r.Attempts, int64(r.MaxBody)
		cfg.Backoff, cfg.MaxBackoff = time.Duration(r.Backoff), time.Duration(r.MaxBackoff)
		cfg.PerTry, cfg.MaxRetryAfter = time.Duration(r.PerTry), time.Duration(r.MaxRetryAfter)
		cfg.Budget = retry.BudgetConfig{Ratio: float64(r.Ratio), Reserve: r.Reserve}
	}
	if h := u.Hedge; h != nil {
		cfg.Hedge, cfg.HedgeRatio, cfg.MinHedgeDelay = true, float64(h.Ratio), time.Duration(h.MinDelay)
	}
	return cfg
}

// sameRetries reports whether two upstreams repeat requests in the same way.
func (u *Upstream) sameRetries(other *Upstream) bool {
	return reflect.DeepEqual(u.Retry, other.Retry) && reflect.DeepEqual(u.Hedge, other.Hedge)
}

// newRetrier returns what repeats the requests to an upstream, or nil if nothing does.
func newRetrier(
	name string, u *Upstream, server Server, tel *telemetry.Telemetry,
) (*retry.Retrier, error) {
	if u.Retry == nil && u.Hedge == nil {
		return nil, nil
	}
	cfg := u.retries()
	cfg.DeadlineField, cfg.Hint = server.DeadlineField, server.HintField
	cfg.Observe = telemetry.Observer[retry.Event](tel, name)
	return retry.New(cfg)
}

// repeat puts the retrier of u, if it has one, around the transport of its balancer.
func (u *upstream) repeat(next http.RoundTripper) http.RoundTripper {
	if u.retrier == nil {
		return next
	}
	return u.retrier.Transport(next)
}

// newDeadline returns what bounds each exchange of a route, or nil if nothing does. field is where
// trusted callers say how long they will still wait.
func newDeadline(r Route, field string, tel *telemetry.Telemetry) (*retry.Deadline, error) {
	if r.Timeout == 0 {
		return nil, nil
	}
	return retry.NewDeadline(retry.DeadlineConfig{
		Timeout: time.Duration(r.Timeout), Field: field,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if err == retry.ErrDeadlineField {
				writeProblem(w, http.StatusBadRequest, "the deadline is not a number of milliseconds")
				return
			}
			writeProblem(w, http.StatusGatewayTimeout, "the server behind the gateway took too long")
		},
		Observe: telemetry.Observer[retry.DeadlineEvent](tel, r.label()),
	})
}
