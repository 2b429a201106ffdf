package breaker

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/retryafter"
	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/internal/unsent"
)

const (
	defaultWindow       = 10 * time.Second
	defaultMinRequests  = 20
	defaultFailureRatio = 0.5
	defaultOpenFor      = 5 * time.Second
	defaultMaxOpen      = time.Minute
	defaultProbes       = 1
	defaultMaxKeys      = 4096

	// longest bounds every duration of a Config, so that sums of them do not overflow.
	longest = 365 * 24 * time.Hour
)

// Config configures a [Breaker]. The zero Config is valid. Its functions are called by many
// requests at a time: they must be safe for concurrent use.
type Config struct {
	// Key says whose failures a request's outcome counts to; a request that has no key (ok is
	// false) passes unguarded. If nil, the key is, on a client, the host of the URL; on a server
	// the request's Pattern, which [http.ServeMux] sets: wrap the handler of each route, not the
	// mux. Around the mux all requests share one state.
	Key func(*http.Request) (key string, ok bool)

	// Failed reports whether an answer with status is a failure. If nil, 500 and above are, except
	// 501 and 505. Statuses that a stranger can cause at will must not be.
	Failed func(status int) bool

	// SlowAfter is how long an answer may take before it counts as a failure, whatever its status:
	// until the header on a client, until the handler begins to answer on a server, until done with
	// [Breaker.Acquire]. Event streams (text/event-stream) and upgrades have no limit. Zero means
	// that no answer is too slow. Negative is invalid.
	SlowAfter time.Duration

	// Window is the time whose outcomes decide whether the breaker opens. It rolls in ten steps.
	// Zero means 10 s. Negative is invalid.
	Window time.Duration

	// MinRequests is how many outcomes the window must hold before the breaker opens. While it
	// ramps up, fewer do: in proportion to the share that is admitted, but at least 5. Zero means
	// 20. Negative is invalid.
	MinRequests int

	// FailureRatio is the share of failures in the window at which the breaker opens. Zero means
	// 0.5. Negative and more than 1 are invalid.
	FailureRatio float64

	// OpenFor is how long the breaker stays open. The time doubles, up to MaxOpen, each time that
	// it opens again before it has been closed for as long as it was open last. Each time is up to
	// 20 % shorter or longer, so that many clients do not return at once. Zero means 5 s. Negative
	// is invalid.
	OpenFor time.Duration

	// MaxOpen is the longest OpenFor. Zero means a minute, or OpenFor if that is longer. Less than
	// OpenFor is invalid.
	MaxOpen time.Duration

	// Probes is how many requests are admitted after the open time. If all of them succeed, the
	// breaker closes; if one fails, it opens again. Zero means 1. Negative is invalid.
	Probes int

	// ProbeTimeout is how long a probe may take. One that has no answer by then counts as failed,
	// since who sent it may have lost it; one whose answer has begun counts as succeeded. Zero
	// means as long as the breaker was open last: after each failure a probe has more time, until
	// even a slow answer is in time. What takes longer than MaxOpen to answer needs a ProbeTimeout,
	// or the breaker does not close again. Negative is invalid.
	ProbeTimeout time.Duration

	// Ramp is how long the breaker takes after the probes to admit everything: a share that grows
	// from a tenth, so that a service which has just come back is not flooded. Zero means as long
	// as it was open. Negative means that it admits everything at once.
	Ramp time.Duration

	// MaxKeys is how many keys have a state of their own. Zero means 4,096. Negative is invalid.
	// All others share one more state. A key makes room for another if it is closed and idle, or if
	// it is open and nobody has asked for it in the hour after its open time. An isolated key makes
	// none.
	MaxKeys int

	// Skip names requests that are passed on untouched. If nil, none is.
	Skip func(*http.Request) bool

	// DryRun decides, counts and observes as always, and refuses nothing.
	DryRun bool

	// Fallback answers requests that [Breaker.Transport] refuses; err is an [*OpenError]. If nil,
	// RoundTrip returns err. The request's body is closed after Fallback has returned.
	Fallback func(req *http.Request, err error) (*http.Response, error)

	// ErrorHandler answers requests that [Breaker.Middleware] refuses; err is an [*OpenError]. It
	// is the place for a fallback. If nil, they get a 503 problem document (RFC 9457) with
	// Retry-After.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Observe, if not nil, receives every transition and every refusal. It is called with no lock
	// held, on the goroutine of a request, or of the caller of [Breaker.Isolate] or [Breaker.Reset]
	// and then with [context.Background]; for one key the transitions come one by one and in order.
	// It must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("breaker", "Config")
	if c.Failed == nil {
		c.Failed = failed
	}
	if c.ErrorHandler == nil {
		c.ErrorHandler = writeOpen
	}
	settings.NotNegative(f, "SlowAfter", c.SlowAfter)
	settings.Positive(f, "Window", &c.Window, defaultWindow)
	counted(f, "MinRequests", &c.MinRequests, defaultMinRequests)
	settings.Share(f, "FailureRatio", &c.FailureRatio, defaultFailureRatio)
	if c.FailureRatio < 0 {
		f.Add("FailureRatio", "%v is negative", c.FailureRatio)
	}
	settings.Positive(f, "OpenFor", &c.OpenFor, defaultOpenFor)
	settings.Positive(f, "MaxOpen", &c.MaxOpen, max(defaultMaxOpen, c.OpenFor))
	if c.MaxOpen > 0 && c.MaxOpen < c.OpenFor {
		f.Add("MaxOpen", "%v is less than OpenFor, %v", c.MaxOpen, c.OpenFor)
	}
	counted(f, "Probes", &c.Probes, defaultProbes)
	settings.NotNegative(f, "ProbeTimeout", c.ProbeTimeout)
	settings.Positive(f, "MaxKeys", &c.MaxKeys, defaultMaxKeys)
	for _, d := range [...]struct {
		field string
		value time.Duration
	}{
		{"SlowAfter", c.SlowAfter}, {"Window", c.Window}, {"OpenFor", c.OpenFor}, {"MaxOpen", c.MaxOpen},
		{"ProbeTimeout", c.ProbeTimeout}, {"Ramp", c.Ramp},
	} {
		if d.value > longest {
			f.Add(d.field, "%v is more than a year", d.value)
		}
	}
	return c, f.Err()
}

// counted is settings.Positive for a number that gobreaker keeps in a uint32.
func counted(f *settings.Faults, field string, n *int, def int) {
	settings.Positive(f, field, n, def)
	if *n > math.MaxInt32 {
		f.Add(field, "%s is more than %d", strconv.Itoa(*n), math.MaxInt32)
	}
}

func failed(status int) bool {
	return status >= 500 &&
		status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported
}

func writeOpen(w http.ResponseWriter, _ *http.Request, err error) {
	retryafter.Set(w.Header(), unsent.RetryAfter(err))
	problem.Write(w, problem.Details{
		Title: http.StatusText(http.StatusServiceUnavailable), Status: http.StatusServiceUnavailable,
	})
}
