package retry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
	"github.com/trivet-go/trivet/internal/settings"
)

const defaultTimeout = 30 * time.Second

var (
	// ErrDeadline reports that a request's deadline has passed with nothing sent. It is also the
	// cause of the end of the request's context. It matches [context.DeadlineExceeded].
	ErrDeadline error = deadlineError{}

	// ErrDeadlineField reports that the field of [DeadlineConfig.Field] is malformed or negative.
	ErrDeadlineField = errors.New("retry: the deadline field is not a number of milliseconds")
)

type deadlineError struct{}

func (deadlineError) Error() string        { return "retry: the request's deadline has passed" }
func (deadlineError) Timeout() bool        { return true }
func (deadlineError) Is(target error) bool { return target == context.DeadlineExceeded }

// DeadlineConfig configures a [Deadline]. The zero DeadlineConfig is valid. Its functions are
// called by many requests at a time: they must be safe for concurrent use.
type DeadlineConfig struct {
	// Timeout is the time that a request has. Zero means 30 s. Negative is invalid.
	Timeout time.Duration

	// Field names the request field by which a caller says how many milliseconds it will still
	// wait, as [Config.DeadlineField] sends it. Less than Timeout becomes the request's time, more
	// is ignored. Whoever sends the field only shortens its own requests; still, a proxy at the
	// edge should remove it from what strangers send. Empty means that no field is read.
	Field string

	// Skip, if not nil, names requests that are passed on untouched, such as streams.
	Skip func(*http.Request) bool

	// ErrorHandler answers requests that are late or malformed; err is [ErrDeadline] or
	// [ErrDeadlineField]. If nil, they get a problem document (RFC 9457): 504 or 400.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Observe, if not nil, receives every request's [DeadlineEvent]. It is called on the request's
	// goroutine with no lock held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e DeadlineEvent)
}

func (c DeadlineConfig) withDefaults() (DeadlineConfig, error) {
	f := settings.Of("retry", "DeadlineConfig")
	settings.Positive(f, "Timeout", &c.Timeout, defaultTimeout)
	c.Field = fieldName(f, "Field", c.Field)
	if c.ErrorHandler == nil {
		c.ErrorHandler = writeDeadline
	}
	return c, f.Err()
}

// A Deadline gives each request a deadline: its own, or the one that the caller passed on if that
// is earlier. Create one with [NewDeadline]. A Deadline is safe for concurrent use and starts no
// goroutines.
type Deadline struct {
	cfg DeadlineConfig // read-only after NewDeadline

	requests, expired, aborted, invalid, canceled atomic.Uint64
}

// NewDeadline returns a Deadline. The error, if any, names every invalid field of cfg.
func NewDeadline(cfg DeadlineConfig) (*Deadline, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Deadline{cfg: cfg}, nil
}

// DeadlineStats is a snapshot of a [Deadline]'s counters.
type DeadlineStats struct {
	Requests uint64 `json:"requests"`
	Expired  uint64 `json:"expired"`  // answered with 504, or by the handler when it was late
	Aborted  uint64 `json:"aborted"`  // late with an answer begun
	Invalid  uint64 `json:"invalid"`  // answered with 400
	Canceled uint64 `json:"canceled"` // the client left first
}

// Stats returns a snapshot.
func (d *Deadline) Stats() DeadlineStats {
	return DeadlineStats{
		Requests: d.requests.Load(), Expired: d.expired.Load(), Aborted: d.aborted.Load(),
		Invalid: d.invalid.Load(), Canceled: d.canceled.Load(),
	}
}

// The further outcomes of a request with a [Deadline].
const (
	Expired Outcome = "expired" // it was late, with nothing sent before the deadline
	Aborted Outcome = "aborted" // it was late with an answer begun
	Invalid Outcome = "invalid" // its deadline field cannot be read
)

// A DeadlineEvent is one request.
type DeadlineEvent struct {
	Outcome  Outcome
	Duration time.Duration // of the handler
	Passed   bool          // the caller's deadline was the earlier one
}

// LogValue implements [slog.LogValuer]: the event's name, two bounded dimensions, one measurement.
func (e DeadlineEvent) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("event", "deadline"),
		slog.String("outcome", string(e.Outcome)),
		slog.Bool("passed", e.Passed),
		slog.Duration("duration", e.Duration),
	)
}

// Middleware gives the requests to next a deadline. It panics if next is nil. next runs on the
// request's own goroutine and nothing is buffered, so it is up to next to stop when its request's
// context ends. If it returns late having sent nothing, the client gets
// [DeadlineConfig.ErrorHandler]'s answer; an answer that was begun in time and is not known to be
// whole is aborted with [http.ErrAbortHandler]. An answer that was begun late is left alone: it is
// how next says that it is late.
func (d *Deadline) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("retry: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.cfg.Skip != nil && d.cfg.Skip(r) {
			next.ServeHTTP(w, r)
			return
		}
		d.serve(w, r, next)
	})
}

func (d *Deadline) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	d.requests.Add(1)
	start := time.Now()
	event := DeadlineEvent{Outcome: Failure} // unless next returns
	if d.cfg.Observe != nil {
		defer func() {
			event.Duration = time.Since(start)
			d.cfg.Observe(context.WithoutCancel(r.Context()), event)
		}()
	}
	timeout, passed, err := d.timeout(r.Header)
	event.Passed = passed
	if err == nil && timeout <= 0 {
		err = ErrDeadline // the caller has stopped waiting: no handler should begin
	}
	if err != nil {
		// next will not read the body.
		linger.Answer(w, r, func(w http.ResponseWriter) { d.refuse(w, r, err, &event) })
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), timeout, ErrDeadline)
	defer cancel()
	rec := &lateWriter{Recorder: response.NewRecorder(w, r), ctx: ctx}
	inner := r.WithContext(ctx)
	rec.Serve(inner)
	func() {
		returned := false
		defer func() {
			r.Pattern = inner.Pattern
			if returned || ctx.Err() == nil || rec.Hijacked {
				return
			}
			// A proxy aborts by itself when its copying ends. The panic goes on.
			if context.Cause(ctx) != ErrDeadline {
				d.canceled.Add(1)
				event.Outcome = Canceled
			} else if rec.Status != 0 {
				d.aborted.Add(1)
				event.Outcome = Aborted
			}
		}()
		next.ServeHTTP(rec, inner)
		returned = true
	}()
	switch {
	case ctx.Err() == nil || rec.Hijacked:
		event.Outcome = Success
	case context.Cause(ctx) != ErrDeadline: // the client left, or a deadline around this one has passed
		d.canceled.Add(1)
		event.Outcome = Canceled
	case rec.Status == 0:
		d.refuse(w, r, ErrDeadline, &event)
	case rec.late: // next has answered that it is late, as a proxy does
		d.expired.Add(1)
		event.Outcome = Expired
	case whole(rec.Recorder, r):
		event.Outcome = Success
	default:
		d.aborted.Add(1)
		event.Outcome = Aborted
		panic(http.ErrAbortHandler) // or the client would take a part for the whole
	}
}

// A lateWriter notes whether an answer was begun after its request's deadline.
type lateWriter struct {
	*response.Recorder
	ctx  context.Context
	late bool
}

func (w *lateWriter) begin() {
	if w.Status == 0 {
		w.late = w.ctx.Err() != nil
	}
}

func (w *lateWriter) WriteHeader(code int) {
	w.begin()
	w.Recorder.WriteHeader(code)
}

func (w *lateWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.Recorder.Write(p)
}

func (w *lateWriter) WriteString(s string) (int, error) {
	w.begin()
	return w.Recorder.WriteString(s)
}

func (w *lateWriter) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	return w.Recorder.ReadFrom(src)
}

func (w *lateWriter) FlushError() error {
	w.begin()
	return w.Recorder.FlushError()
}

func (w *lateWriter) Flush() { _ = w.FlushError() }

// refuse answers a request that next has not answered.
func (d *Deadline) refuse(w http.ResponseWriter, r *http.Request, err error, event *DeadlineEvent) {
	if err == ErrDeadlineField {
		d.invalid.Add(1)
		event.Outcome = Invalid
	} else {
		d.expired.Add(1)
		event.Outcome = Expired
	}
	d.cfg.ErrorHandler(w, r, err)
}

// whole reports whether all of an answer was sent, as far as can be known: its length was declared,
// or it has no body.
func whole(rec *response.Recorder, r *http.Request) bool {
	if r.Method == http.MethodHead || rec.Status == http.StatusNoContent ||
		rec.Status == http.StatusNotModified {
		return true
	}
	n, err := strconv.ParseInt(rec.Header().Get("Content-Length"), 10, 64)
	return err == nil && rec.Bytes == n
}

// timeout returns the time that a request has, and whether its caller says so.
func (d *Deadline) timeout(h http.Header) (_ time.Duration, passed bool, err error) {
	if d.cfg.Field == "" {
		return d.cfg.Timeout, false, nil
	}
	lines := h[d.cfg.Field]
	if len(lines) == 0 {
		return d.cfg.Timeout, false, nil
	}
	if len(lines) > 1 || lines[0] == "" || strings.Trim(lines[0], "0123456789") != "" {
		return 0, false, ErrDeadlineField
	}
	ms, err := strconv.ParseInt(lines[0], 10, 64)
	if err != nil || ms > int64(d.cfg.Timeout/time.Millisecond) { // only digits, so there are too many
		return d.cfg.Timeout, false, nil
	}
	return time.Duration(ms) * time.Millisecond, true, nil
}

func writeDeadline(w http.ResponseWriter, _ *http.Request, err error) {
	status := http.StatusGatewayTimeout
	if errors.Is(err, ErrDeadlineField) {
		status = http.StatusBadRequest
	}
	problem.Write(w, problem.Details{Title: http.StatusText(status), Status: status})
}
