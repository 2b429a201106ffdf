package backend

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// IDField is the request field that holds the id by which requests are counted.
const IDField = "X-Request-Id"

// A Behaviour says how a backend answers. With the zero Behaviour it answers 200 at once.
type Behaviour struct {
	// Delay is the time between a request's arrival and its answer. Zero or negative means none.
	Delay time.Duration

	// Status is the answer's status. Zero means 200. With 500 and no Delay the backend fails
	// faster than others succeed, and so may draw their traffic.
	Status int

	// Hang makes requests, health checks too, wait until their client leaves.
	Hang bool

	// Abort cuts the connection instead of answering.
	Abort bool

	// Unhealthy makes health checks fail, and nothing else.
	Unhealthy bool
}

// A handler answers for a Backend and for a Process.
type handler struct {
	name      string
	next      http.Handler // Config.Handler
	count     func(id string)
	behaviour atomic.Pointer[Behaviour]
	draining  atomic.Bool // the process terminates, so health checks fail
}

func newHandler(cfg Config, count func(id string)) *handler {
	h := &handler{name: cfg.Name, next: cfg.Handler, count: count}
	h.behaviour.Store(&cfg.Behaviour)
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b := h.behaviour.Load()
	health := r.URL.Path == "/healthz"
	var body []byte
	if !health {
		var err error
		if h.next == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		if err != nil {
			return // the client left before its request was whole, so it is not executed
		}
		h.count(r.Header.Get(IDField))
		if n, err := strconv.Atoi(r.URL.Query().Get("bytes")); err == nil && n >= 0 {
			body = make([]byte, n)
		}
		delay, _ := time.ParseDuration(r.URL.Query().Get("delay"))
		if !pause(r, b.Delay+delay) {
			return
		}
	}
	if b.Hang {
		<-r.Context().Done()
		return
	}
	if b.Abort {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Backend", h.name)
	switch {
	case health && (b.Unhealthy || h.draining.Load()):
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case health:
		return
	case b.Status != 0:
		w.WriteHeader(b.Status)
	case h.next != nil:
		h.next.ServeHTTP(w, r)
		return
	}
	if body == nil {
		body = []byte(h.name + "\n")
	}
	_, _ = w.Write(body)
}

// pause waits for d. It reports false if the client leaves before that.
func pause(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}
