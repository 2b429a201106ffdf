package main

import (
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/trivet-go/trivet/balancer"
)

// limitHeader answers a request with more than limit header fields, and reports whether r may go
// on. Each cookie counts as a field. http.Server.MaxHeaderBytes bounds the bytes, also with 431.
func limitHeader(w http.ResponseWriter, r *http.Request, limit int) bool {
	n := 0
	for name, values := range r.Header {
		n += len(values)
		if name == "Cookie" {
			for _, v := range values {
				n += strings.Count(v, ";")
			}
		}
	}
	if n <= limit {
		return true
	}
	w.Header().Set("Connection", "close")
	refuse(w, r, http.StatusRequestHeaderFieldsTooLarge, "too many header fields or cookies")
	return false
}

// withinBody returns a route's handler for requests whose bodies have no more than limit bytes. One
// without a route is refused whatever its body has.
func withinBody(limit Size, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if limitBody(w, r, int64(limit)) {
			next.ServeHTTP(w, r)
		}
	})
}

// limitBody answers a request whose Content-Length is more than limit, and reports whether r may go
// on. A body that turns out to be larger fails to be read, with an *http.MaxBytesError that
// writeProxyError answers.
func limitBody(w http.ResponseWriter, r *http.Request, limit int64) bool {
	if r.ContentLength > limit {
		balancer.Refuse(w, r, func(w http.ResponseWriter) {
			w.Header().Set("Connection", "close") // or net/http would read a small body to its end
			writeProblem(w, http.StatusRequestEntityTooLarge, "the body is too large")
		})
		return false
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	return true
}

// A tally counts what the whole gateway has at once. It outlives reloads.
type tally struct {
	open    atomic.Int64
	refused atomic.Uint64
}

// enter counts one more, answers with 503 if that is more than bound, and reports whether the
// request may go on. leave must be called in either case.
func (t *tally) enter(w http.ResponseWriter, r *http.Request, bound Bound, detail string) bool {
	if n := t.open.Add(1); !bound.passed(n) {
		return true
	}
	t.refused.Add(1)
	w.Header().Set("Retry-After", "1")
	refuse(w, r, http.StatusServiceUnavailable, detail)
	return false
}

func (t *tally) leave() { t.open.Add(-1) }

// status returns the statistics for the admin server.
func (t *tally) status() any {
	return map[string]any{"open": t.open.Load(), "refused": t.refused.Load()}
}

// wantsTunnel reports whether r asks for an upgrade that the balancer's Handler passes on.
func wantsTunnel(r *http.Request) bool {
	to := r.Header["Upgrade"]
	return len(to) == 1 && strings.EqualFold(to[0], "websocket") && r.ProtoMajor == 1 && r.ProtoMinor > 0 &&
		asksToUpgrade(r.Header["Connection"])
}

func asksToUpgrade(connection []string) bool {
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(option, " \t"), "upgrade") {
				return true
			}
		}
	}
	return false
}
