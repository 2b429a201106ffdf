package balancer

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/response"
)

// How a server says what it is doing: in a field of every response, and in the answer to a probe.
const (
	LoadHeader = "Trivet-Load"
	LoadPath   = "/.well-known/trivet-load"
)

// Reporter returns a handler that tells [Probing] clients how busy the server is: it answers GET
// [LoadPath] itself, and adds the field [LoadHeader] to the responses of next. Wrap the whole
// server in one Reporter, within what authenticates: the load of a server is not for strangers.
// [Balancer.Handler] does not pass the field on. Reporter panics if next is nil.
func Reporter(next http.Handler) http.Handler {
	if next == nil {
		panic("balancer: nil handler")
	}
	origin := time.Now()
	now := func() int64 { return int64(time.Since(origin)) }
	r := new(reporter)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == LoadPath && (req.Method == http.MethodGet || req.Method == http.MethodHead) {
			w.Header().Set(LoadHeader, r.load(now()).String())
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		start := now()
		// The load is that of the request's beginning, since the field has to go before the body.
		w.Header().Set(LoadHeader, r.load(start).String())
		others := r.begin()
		rec := response.NewRecorder(w, req)
		returned := false
		defer func() {
			end := now()
			failed := !returned || failedStatus(rec.Status)
			// A client that leaves cannot make the server look bad.
			r.end(others, end, end-start, failed && req.Context().Err() == nil)
		}()
		next.ServeHTTP(rec, req)
		returned = true
	})
}

// A load is what a server says of itself.
type load struct {
	inFlight int64
	latency  time.Duration // that a request may expect; zero is unknown
	failing  float64       // share of the recent requests that it failed, 0 to 1
}

const (
	maxLoadField    = 64
	maxLoadInFlight = 1 << 20
	maxLoadLatency  = time.Hour
)

// String returns the field's value, a dictionary of RFC 9651: the requests in flight, the latency
// in µs, and the share of failed requests in percent if there are any.
func (l load) String() string {
	b := make([]byte, 0, maxLoadField)
	b = append(b, "in-flight="...)
	b = strconv.AppendInt(b, min(l.inFlight, maxLoadInFlight), 10)
	b = append(b, ", latency="...)
	b = strconv.AppendInt(b, int64(min(l.latency, maxLoadLatency)/time.Microsecond), 10)
	if percent := int64(math.Round(l.failing * 100)); percent > 0 {
		b = append(b, ", failing="...)
		b = strconv.AppendInt(b, percent, 10)
	}
	return string(b)
}

// parseLoad parses a field's value. It ignores members that it does not know.
func parseLoad(s string) (load, error) {
	if len(s) > maxLoadField {
		return load{}, fmt.Errorf("balancer: load of %d bytes", len(s))
	}
	l := load{inFlight: -1}
	for member := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.Trim(member, " \t"), "=")
		if name != "in-flight" && name != "latency" && name != "failing" {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return load{}, fmt.Errorf("balancer: load %q", s)
		}
		switch name {
		case "in-flight":
			l.inFlight = int64(min(n, maxLoadInFlight))
		case "latency":
			l.latency = time.Duration(min(n, uint64(maxLoadLatency/time.Microsecond))) * time.Microsecond
		case "failing":
			l.failing = float64(min(n, 100)) / 100
		}
	}
	if l.inFlight < 0 {
		return load{}, fmt.Errorf("balancer: load %q lacks in-flight", s)
	}
	return l, nil
}

// A reporter keeps what a server says of itself. Times are arguments, so that a simulator can drive
// it. Requests never wait for one another here: a request that finds mu held uses the last result,
// or skips recording its own.
type reporter struct {
	inFlight atomic.Int64
	latency  atomicFloat // ns: as of when it was last computed
	failing  atomicFloat

	mu     sync.Mutex       // guards the fields below
	recent [64]endedRequest // a ring
	next   int
	usual  float64 // ns: moving average of what requests took that did not fail
}

type endedRequest struct {
	others int64 // requests in flight when it came
	at     int64 // when it ended; zero if the entry is empty
	took   int64 // zero if it tells nothing
	failed bool
}

// begin counts a request in and returns how many others there are.
func (r *reporter) begin() (others int64) { return r.inFlight.Add(1) - 1 }

func (r *reporter) end(others, now, took int64, failed bool) {
	r.inFlight.Add(-1)
	if !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	switch {
	case !failed:
		took = max(took, 1)
		r.usual += (float64(took) - r.usual) / 16
	case r.usual == 0:
		took = 0
	default: // a request that fails at once does not show how fast the server is
		took = max(took, int64(r.usual))
	}
	r.recent[r.next] = endedRequest{others, max(now, 1), took, failed}
	r.next = (r.next + 1) % len(r.recent)
}

// load returns the present load. The latency is a mean of the recent ones; those count most that
// are young and met as many other requests as there are now. The failing share is that of the
// requests of the last seconds and of one more that went well, so that without news the suspicion
// ends.
func (r *reporter) load(now int64) load {
	l := load{inFlight: r.inFlight.Load()}
	if r.mu.TryLock() {
		r.computeLocked(l.inFlight, now)
		r.mu.Unlock()
	}
	l.latency, l.failing = time.Duration(r.latency.Load()), r.failing.Load()
	return l
}

func (r *reporter) computeLocked(inFlight, now int64) {
	sum, weights := 0.0, 0.0
	failed, all := 0.0, 1.0
	for i := range r.recent {
		p := &r.recent[i]
		if p.at == 0 {
			break
		}
		age := float64(now-p.at) / float64(100*time.Millisecond)
		young := 100 / (100 + age*age) // a half after a second
		all += young
		if p.failed {
			failed += young
		}
		if p.took == 0 {
			continue
		}
		apart := float64(p.others - inFlight)
		w := 1 / ((1 + apart*apart) * (1 + age*age))
		sum += w * float64(p.took)
		weights += w
	}
	r.failing.Store(failed / all)
	if weights > 0 {
		r.latency.Store(sum / weights)
	}
}
