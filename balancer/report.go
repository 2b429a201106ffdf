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

// Reporter returns a handler that tells [Probing] clients how busy the server is: it answers GET [LoadPath] itself, and adds
// the field [LoadHeader] to the responses of next. Wrap the whole server in one Reporter, within what
// authenticates: the load of a server is not for strangers. [Balancer.Handler] does not pass the field on.
func Reporter(next http.Handler) http.Handler {
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
		// The field tells of the request's beginning, since it has to go before the body.
		w.Header().Set(LoadHeader, r.load(start).String())
		others := r.begin()
		rec := response.NewRecorder(w, req)
		returned := false
		defer func() {
			end := now()
			failed := !returned || failedStatus(rec.Status)
			r.end(others, end, end-start, failed && req.Context().Err() == nil) // who leaves cannot make it look bad
		}()
		next.ServeHTTP(rec, req)
		returned = true
	})
}

// failedStatus reports whether a response with that status is its server's fault, and not its client's or its protocol's.
func failedStatus(code int) bool {
	return code >= 500 && code != http.StatusNotImplemented && code != http.StatusHTTPVersionNotSupported
}

// A load is what a server says of itself.
type load struct {
	inflight int64
	latency  time.Duration // that a request may expect; zero is unknown
	failing  float64       // share of the recent requests that it failed, 0 to 1
}

const (
	maxLoadField    = 64
	maxLoadInflight = 1 << 20
	maxLoadLatency  = time.Hour
)

// String returns the field's value, a dictionary of RFC 9651: the requests in flight, the latency in µs, and the share of failed
// ones in percent if there are any.
func (l load) String() string {
	b := make([]byte, 0, maxLoadField)
	b = append(b, "in-flight="...)
	b = strconv.AppendInt(b, min(l.inflight, maxLoadInflight), 10)
	b = append(b, ", latency="...)
	b = strconv.AppendInt(b, int64(min(l.latency, maxLoadLatency)/time.Microsecond), 10)
	if percent := int64(math.Round(l.failing * 100)); percent > 0 {
		b = append(b, ", failing="...)
		b = strconv.AppendInt(b, percent, 10)
	}
	return string(b)
}

// parseLoad parses a field's value. Members that it does not know are passed over.
func parseLoad(s string) (load, error) {
	if len(s) > maxLoadField {
		return load{}, fmt.Errorf("balancer: load of %d bytes", len(s))
	}
	l := load{inflight: -1}
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
			l.inflight = int64(min(n, maxLoadInflight))
		case "latency":
			l.latency = time.Duration(min(n, uint64(maxLoadLatency/time.Microsecond))) * time.Microsecond
		case "failing":
			l.failing = float64(min(n, 100)) / 100
		}
	}
	if l.inflight < 0 {
		return load{}, fmt.Errorf("balancer: load %q lacks in-flight", s)
	}
	return l, nil
}

// A reporter keeps what a server says of itself. Times are arguments, so that a simulator can drive it. Requests never wait for
// one another here: who finds mu taken goes by the last result, or leaves his reply out.
type reporter struct {
	inflight atomic.Int64
	latency  atomicFloat // ns: as of when it was last computed
	failing  atomicFloat

	mu     sync.Mutex // guards the fields below
	recent [64]reply  // a ring
	next   int
	usual  float64 // ns: EWMA of what requests took that did not fail
}

// A reply is one request that has ended.
type reply struct {
	others int64 // requests in flight when it came
	at     int64 // when it ended; zero if the entry is empty
	took   int64 // zero if it tells nothing
	failed bool
}

// begin counts a request in and returns how many others there are.
func (r *reporter) begin() (others int64) { return r.inflight.Add(1) - 1 }

func (r *reporter) end(others, now, took int64, failed bool) {
	r.inflight.Add(-1)
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
	default: // what fails at once does not show how fast the server is
		took = max(took, int64(r.usual))
	}
	r.recent[r.next] = reply{others, max(now, 1), took, failed}
	r.next = (r.next + 1) % len(r.recent)
}

// load returns the present load. The latency is the mean of the recent ones, in which those count most that are
// young and met as many other requests as there are now. What fails is a share of the requests of the last seconds, and of one
// more that went well: without news the suspicion ends.
func (r *reporter) load(now int64) load {
	l := load{inflight: r.inflight.Load()}
	if r.mu.TryLock() {
		r.computeLocked(l.inflight, now)
		r.mu.Unlock()
	}
	l.latency, l.failing = time.Duration(r.latency.Load()), r.failing.Load()
	return l
}

func (r *reporter) computeLocked(inflight, now int64) {
	sum, weights := 0.0, 0.0
	failed, all := 0.0, 1.0
	for i := range r.recent {
		p := &r.recent[i]
		if p.at == 0 {
			break
		}
		age := float64(now-p.at) / float64(100*time.Millisecond)
		young := 100 / (100 + age*age) // half of it after a second
		all += young
		if p.failed {
			failed += young
		}
		if p.took == 0 {
			continue
		}
		apart := float64(p.others - inflight)
		w := 1 / ((1 + apart*apart) * (1 + age*age))
		sum += w * float64(p.took)
		weights += w
	}
	r.failing.Store(failed / all)
	if weights > 0 {
		r.latency.Store(sum / weights)
	}
}
