package balancer

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
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
		// The field tells of the request's beginning: to set it later, the response would have to be wrapped.
		w.Header().Set(LoadHeader, r.load(start).String())
		others := r.begin()
		defer func() {
			end := now()
			r.end(others, end, end-start)
		}()
		next.ServeHTTP(w, req)
	})
}

// A load is what a server says of itself.
type load struct {
	inflight int64
	latency  time.Duration // that a request may expect; zero is unknown
}

const (
	maxLoadField    = 64
	maxLoadInflight = 1 << 20
	maxLoadLatency  = time.Hour
)

// String returns the field's value, a dictionary of RFC 9651: the requests in flight, and the latency in µs.
func (l load) String() string {
	b := make([]byte, 0, maxLoadField)
	b = append(b, "in-flight="...)
	b = strconv.AppendInt(b, min(l.inflight, maxLoadInflight), 10)
	b = append(b, ", latency="...)
	b = strconv.AppendInt(b, int64(min(l.latency, maxLoadLatency)/time.Microsecond), 10)
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
		if name != "in-flight" && name != "latency" {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return load{}, fmt.Errorf("balancer: load %q", s)
		}
		if name == "in-flight" {
			l.inflight = int64(min(n, maxLoadInflight))
		} else {
			l.latency = time.Duration(min(n, uint64(maxLoadLatency/time.Microsecond))) * time.Microsecond
		}
	}
	if l.inflight < 0 {
		return load{}, fmt.Errorf("balancer: load %q lacks in-flight", s)
	}
	return l, nil
}

// A reporter keeps what a server says of itself. Times are arguments, so that a simulator can drive it.
type reporter struct {
	mu       sync.Mutex // guards the fields below
	inflight int64
	recent   [64]reply // a ring
	next     int
}

// A reply is one request that has ended.
type reply struct {
	others int64 // requests in flight when it came
	at     int64 // when it ended; zero if the entry is empty
	took   int64
}

// begin counts a request in and returns how many others there are.
func (r *reporter) begin() (others int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inflight++
	return r.inflight - 1
}

func (r *reporter) end(others, now, took int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inflight--
	r.recent[r.next] = reply{others, max(now, 1), took}
	r.next = (r.next + 1) % len(r.recent)
}

// load returns the present load. The latency is the mean of the recent ones, in which those count most that are
// young and met as many other requests as there are now.
func (r *reporter) load(now int64) load {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum, weights := 0.0, 0.0
	for i := range r.recent {
		p := &r.recent[i]
		if p.at == 0 {
			break
		}
		apart := float64(p.others - r.inflight)
		age := float64(now-p.at) / float64(100*time.Millisecond)
		w := 1 / ((1 + apart*apart) * (1 + age*age))
		sum += w * float64(p.took)
		weights += w
	}
	l := load{inflight: r.inflight}
	if weights > 0 {
		l.latency = time.Duration(sum / weights)
	}
	return l
}
