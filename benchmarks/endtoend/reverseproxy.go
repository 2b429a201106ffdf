package main

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"
)

// serveReverseProxy runs what a Go user writes: httputil.ReverseProxy with buffers and connections
// that are kept, in turn to the origins; and, if the arguments name a log file, with a limit for
// each address, an access log and metrics.
func serveReverseProxy(args []string) error {
	var next atomic.Uint64
	buffers := &bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
	var h http.Handler = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			addr := originAddrs[next.Add(1)%uint64(len(originAddrs))]
			r.SetURL(&url.URL{Scheme: "http", Host: addr})
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second,
			DisableCompression: true,
		},
		BufferPool: buffers,
	}
	if len(args) > 0 {
		var err error
		if h, err = wired(h, args[0]); err != nil {
			return err
		}
	}
	server := &http.Server{Addr: listenAddr, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte  { return *p.pool.Get().(*[]byte) }
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }

// wired puts the usual parts around next, as one wires them by hand.
func wired(next http.Handler, file string) (http.Handler, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	lines := &lineBuffer{w: bufio.NewWriterSize(f, 64<<10)}
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			lines.flush()
		}
	}()
	log := slog.New(slog.NewJSONHandler(lines, nil))
	var limiters sync.Map
	limited := func(w http.ResponseWriter, r *http.Request) {
		ip, _, _ := net.SplitHostPort(r.RemoteAddr)
		l, ok := limiters.Load(ip)
		if !ok {
			l, _ = limiters.LoadOrStore(ip, rate.NewLimiter(1e6, 1e6))
		}
		if !l.(*rate.Limiter).Allow() {
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	}
	logged := func(w http.ResponseWriter, r *http.Request) {
		began, seen := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		limited(seen, r)
		log.LogAttrs(r.Context(), slog.LevelInfo, "request", slog.String("method", r.Method),
			slog.String("path", r.URL.Path), slog.Int("status", seen.status), slog.Int64("bytes", seen.bytes),
			slog.Duration("duration", time.Since(began)), slog.String("client", r.RemoteAddr),
			slog.String("agent", r.UserAgent()))
	}
	labels := []string{"code", "method"}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "http_requests_total"}, labels)
	durations := prometheus.NewHistogramVec(
		prometheus.HistogramOpts{Name: "http_request_duration_seconds"}, labels)
	prometheus.MustRegister(requests, durations)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	mux.Handle("/", promhttp.InstrumentHandlerCounter(requests,
		promhttp.InstrumentHandlerDuration(durations, http.HandlerFunc(logged))))
	return mux, nil
}

type statusWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type lineBuffer struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func (b *lineBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w.Write(p)
}

func (b *lineBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.w.Flush()
}
