package retry

import (
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/origin"
)

// A Retrier sends requests again that failed, within a budget. Create one with [New]. A Retrier is
// safe for concurrent use. It starts goroutines only for a hedge, which ends when the transport
// below returns from a canceled request, and to read a body without GetBody, which ends when that
// body is closed at the end of its request.
type Retrier struct {
	cfg    Config // read-only after New
	tariff tariff
	base   time.Time // times are told since then
	keys   *table[budget]
	hosts  *table[table[window]] // by class; nil without Hedge
	random func(n int64) int64   // in [0, n); replaced by tests

	requests, attempts, hedges, hedgesWon, overflowed, panics atomic.Uint64

	retries, gaveUp tally
}

// New returns a Retrier. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Retrier, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Retrier{cfg: cfg, tariff: newTariff(cfg), base: time.Now(), random: rand.Int64N}
	r.retries, r.gaveUp = newTally(), newTally()
	r.keys = newTable(cfg.MaxKeys, func() *budget { return newBudget(&r.tariff, r.now()) })
	if cfg.Hedge {
		r.hosts = newTable(cfg.MaxKeys, func() *table[window] {
			return newTable(maxClasses, func() *window { return &window{began: r.now()} })
		})
	}
	return r, nil
}

const maxClasses = 64

func (r *Retrier) now() time.Duration { return time.Since(r.base) }

// budget returns what pays for req. It is nil if nothing does.
func (r *Retrier) budget(req *http.Request) (b *budget, key string) {
	if r.cfg.Key == nil {
		key = origin.URLHost(req.URL)
	} else if k, ok := r.cfg.Key(req); ok {
		key = k
	} else {
		return nil, ""
	}
	b, shared := r.keys.get(key)
	if shared {
		r.overflowed.Add(1)
	}
	return b, key
}

// window returns what is known of requests like req.
func (r *Retrier) window(req *http.Request) *window {
	class := req.Method
	if r.cfg.Class != nil {
		class = r.cfg.Class(req)
	}
	host, _ := r.hosts.get(origin.URLHost(req.URL))
	w, _ := host.get(class)
	return w
}

// backoff returns the wait before a retry that n retries went before: full jitter, so that clients
// that failed together do not come back together.
func (r *Retrier) backoff(n int) time.Duration {
	most := r.cfg.MaxBackoff
	if n < 62 && r.cfg.Backoff <= most>>n {
		most = r.cfg.Backoff << n
	}
	return time.Duration(r.random(int64(most)))
}

// An Outcome is how a request ended.
type Outcome string

// The outcomes of a request.
const (
	Success  Outcome = "success"  // an answer that was not to be retried, whatever its status
	Failure  Outcome = "failure"  // an error, or an answer that a retry might have cured
	Canceled Outcome = "canceled" // the caller left
)

// An Event is one request, with all its attempts.
type Event struct {
	Outcome  Outcome
	Duration time.Duration // to the header of the answer
	Retries  int           // attempts after the first, hedges not counted
	Hedged   bool          // a hedge was sent
	HedgeWon bool          // and its answer is what the caller got
	GaveUp   Reason        // why a failure was not retried any more; empty after a success
	Key      string        // of the budget
	Err      error         // that the caller got
}

// LogValue implements [slog.LogValuer]: the event's name, three bounded dimensions, one
// measurement. It says nothing of the error and the URL, in which secrets may stand.
func (e Event) LogValue() slog.Value {
	detail := []slog.Attr{slog.String("key", e.Key), slog.Int("retries", e.Retries)}
	if e.GaveUp != "" {
		detail = append(detail, slog.String("gave_up", string(e.GaveUp)))
	}
	return slog.GroupValue(
		slog.String("event", "request"),
		slog.String("outcome", string(e.Outcome)),
		slog.Bool("retried", e.Retries > 0),
		slog.Bool("hedged", e.Hedged),
		slog.Duration("duration", e.Duration),
		slog.GroupAttrs("detail", detail...),
	)
}

// Stats is a snapshot of a [Retrier]'s counters and gauges.
type Stats struct {
	Requests   uint64             `json:"requests"`
	Attempts   uint64             `json:"attempts"` // that were sent, hedges among them
	Retries    map[string]uint64  `json:"retries"`  // by [Reason]
	Hedges     uint64             `json:"hedges"`
	HedgesWon  uint64             `json:"hedges_won"`
	GaveUp     map[string]uint64  `json:"gave_up"`    // by [Reason]
	Budget     map[string]float64 `json:"budget"`     // tokens left, by key; "*" for those beyond MaxKeys
	Overflowed uint64             `json:"overflowed"` // requests whose key shares its budget
	Panics     uint64             `json:"panics"`     // of hooks and transports in hedges
	BodyBytes  int                `json:"body_bytes"` // that all Retriers of the process keep
}

// Stats returns a snapshot.
func (r *Retrier) Stats() Stats {
	s := Stats{
		Requests: r.requests.Load(), Attempts: r.attempts.Load(), Retries: r.retries.snapshot(),
		Hedges: r.hedges.Load(), HedgesWon: r.hedgesWon.Load(), GaveUp: r.gaveUp.snapshot(),
		Budget: map[string]float64{}, Overflowed: r.overflowed.Load(), Panics: r.panics.Load(),
		BodyBytes: int(buffered.Load()),
	}
	for key, b := range r.keys.all() {
		s.Budget[key] = b.left()
	}
	if b := r.keys.rest.Load(); b != nil {
		s.Budget["*"] = b.left()
	}
	return s
}

// A tally counts reasons, of which there are few.
type tally struct{ counts *table[atomic.Uint64] }

func newTally() tally {
	return tally{newTable(maxReasons, func() *atomic.Uint64 { return new(atomic.Uint64) })}
}

const maxReasons = 32

func (t tally) add(r Reason) {
	n, _ := t.counts.get(string(r))
	n.Add(1)
}

func (t tally) snapshot() map[string]uint64 {
	all := map[string]uint64{}
	for reason, n := range t.counts.all() {
		all[reason] = n.Load()
	}
	return all
}
