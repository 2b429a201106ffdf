package ratelimit

import (
	"bufio"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
	"github.com/trivet-go/trivet/internal/settings"
)

// ErrBusy reports that a key has as many requests in flight as it may.
var ErrBusy = errors.New("ratelimit: too many requests in flight")

// ConcurrencyConfig configures a [Concurrency].
type ConcurrencyConfig struct {
	// Limit is how many requests of one key may be in flight. Required: at least 1.
	Limit int

	// Key says whose request it is. Required: see [KeyFunc].
	Key KeyFunc

	// Missing says what becomes of requests without a key. Required.
	Missing Missing

	// ErrorHandler answers refused requests; err is [ErrBusy] or [ErrNoKey]. If nil, they get a
	// problem document (RFC 9457): 429, for a missing key 400.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Observe, if not nil, receives every decision. It is called on the request's goroutine with no
	// lock held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e ConcurrencyEvent)
}

// withDefaults validates c and fills in ErrorHandler.
func (c ConcurrencyConfig) withDefaults() (ConcurrencyConfig, error) {
	f := settings.Of("ratelimit", "ConcurrencyConfig")
	if c.Limit < 1 {
		f.Add("Limit", "%d is less than 1", c.Limit)
	}
	if c.Key == nil {
		f.Add("Key", "is required")
	}
	if !c.Missing.valid() {
		f.Add("Missing", missingRequired)
	}
	if c.ErrorHandler == nil {
		c.ErrorHandler = writeBusy
	}
	return c, f.Err()
}

// A Concurrency bounds requests in flight per key, in this process. It remembers only keys with
// requests in flight. Create one with [NewConcurrency]. It is safe for concurrent use and starts no
// goroutines.
type Concurrency struct {
	cfg    ConcurrencyConfig // read-only after NewConcurrency
	seed   maphash.Seed
	shards [16]inFlight

	admitted, busy, noKey atomic.Uint64
	total                 atomic.Int64
}

type inFlight struct {
	mu sync.Mutex // guards the fields below
	n  map[string]int
}

// NewConcurrency returns a Concurrency. The error, if any, names every invalid field of cfg.
func NewConcurrency(cfg ConcurrencyConfig) (*Concurrency, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Concurrency{cfg: cfg, seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].n = make(map[string]int)
	}
	return c, nil
}

// ConcurrencyStats is a snapshot of a [Concurrency]'s counters and gauges.
type ConcurrencyStats struct {
	Admitted uint64 `json:"admitted"`
	Busy     uint64 `json:"busy"`
	NoKey    uint64 `json:"no_key"`
	InFlight int    `json:"in_flight"`
	Keys     int    `json:"keys"` // with requests in flight
}

// Stats returns a snapshot.
func (c *Concurrency) Stats() ConcurrencyStats {
	s := ConcurrencyStats{
		Admitted: c.admitted.Load(), Busy: c.busy.Load(), NoKey: c.noKey.Load(),
		InFlight: int(c.total.Load()),
	}
	for i := range c.shards {
		c.shards[i].mu.Lock()
		s.Keys += len(c.shards[i].n)
		c.shards[i].mu.Unlock()
	}
	return s
}

// A ConcurrencyEvent is one decision.
type ConcurrencyEvent struct {
	Outcome Outcome // Admitted, Busy or NoKey
}

// LogValue implements [slog.LogValuer]: the event's name and one bounded dimension.
func (e ConcurrencyEvent) LogValue() slog.Value {
	return slog.GroupValue(slog.String("event", "concurrency"), slog.String("outcome", string(e.Outcome)))
}

// Acquire takes a place of key without waiting. On success the caller must call release; calls
// after the first do nothing. The error is [ErrBusy].
func (c *Concurrency) Acquire(key string) (release func(), err error) {
	s := &c.shards[maphash.String(c.seed, key)%uint64(len(c.shards))]
	s.mu.Lock()
	if s.n[key] >= c.cfg.Limit {
		s.mu.Unlock()
		c.busy.Add(1)
		return nil, ErrBusy
	}
	s.n[key]++
	s.mu.Unlock()
	c.admitted.Add(1)
	c.total.Add(1)
	return sync.OnceFunc(func() {
		c.total.Add(-1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.n[key]--; s.n[key] == 0 {
			delete(s.n, key)
		}
	}), nil
}

// Middleware admits requests to next while their key has room and answers the rest with
// [ConcurrencyConfig.ErrorHandler]. A request holds its place until next returns or panics; if it
// has taken over the connection, until that is closed. It panics if next is nil.
func (c *Concurrency) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("ratelimit: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := c.cfg.Key(r)
		if !ok {
			key = ""
		}
		if key == "" {
			switch c.cfg.Missing {
			case MissingReject:
				c.noKey.Add(1)
				c.observe(r, NoKey)
				c.refuse(w, r, ErrNoKey)
				return
			case MissingSkip:
				next.ServeHTTP(w, r)
				return
			}
		}
		release, err := c.Acquire(key)
		if err != nil {
			c.observe(r, Busy)
			c.refuse(w, r, err)
			return
		}
		hw := &hijackWriter{Recorder: response.NewRecorder(w, r), release: release}
		done := false
		defer func() {
			// A handler that panics after it has taken over the connection will hardly close it.
			if !hw.Hijacked || !done {
				release()
			}
		}()
		c.observe(r, Admitted)
		next.ServeHTTP(hw, r)
		done = true
	})
}

func (c *Concurrency) refuse(w http.ResponseWriter, r *http.Request, err error) {
	linger.Answer(w, r, func(w http.ResponseWriter) { c.cfg.ErrorHandler(w, r, err) })
}

func (c *Concurrency) observe(r *http.Request, outcome Outcome) {
	if c.cfg.Observe != nil {
		c.cfg.Observe(r.Context(), ConcurrencyEvent{Outcome: outcome})
	}
}

func writeBusy(w http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, ErrNoKey) {
		problem.Write(
			w, problem.Details{Title: http.StatusText(http.StatusBadRequest), Status: http.StatusBadRequest},
		)
		return
	}
	problem.Write(w, problem.Details{
		Type: typeQuotaExceeded, Title: "Too many requests in flight", Status: http.StatusTooManyRequests,
	})
}

// A hijackWriter ties the place to the connection once that is taken over.
type hijackWriter struct {
	*response.Recorder
	release func()
}

// Hijack hands out a connection that gives the place back when it is closed.
func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.Recorder.Hijack()
	if err != nil {
		return conn, rw, err
	}
	return &heldConn{Conn: conn, release: w.release}, rw, nil
}

type heldConn struct {
	net.Conn
	release func()
}

func (c *heldConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// ReadFrom keeps the splice path of io.Copy between connections.
func (c *heldConn) ReadFrom(src io.Reader) (int64, error) { return io.Copy(c.Conn, src) }

// CloseWrite ends one direction, as proxies do, where the connection can.
func (c *heldConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// NetConn returns the connection itself, as tls.Conn.NetConn does.
func (c *heldConn) NetConn() net.Conn { return c.Conn }
