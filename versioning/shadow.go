package versioning

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Shadow sends copies of requests to a candidate and compares its answers with those that clients
// got. It never delays a request: what finds no room is dropped and counted. Create one with
// [NewShadow]. A Shadow is safe for concurrent use. It has at most Workers goroutines, none while
// there is nothing to do, which [Shadow.Close] ends.
type Shadow struct {
	cfg   ShadowConfig // read-only after NewShadow
	base  time.Time
	queue chan *shadowJob
	bytes atomic.Int64 // that copies take

	ctx     context.Context
	cancel  context.CancelFunc
	workers atomic.Int64
	wg      sync.WaitGroup
	mu      sync.Mutex // guards the field below, so that no worker begins after Close
	closed  bool

	counts             shadowCounts
	panics             atomic.Uint64
	primary, candidate histogram // until the answer began
	differences        differences
}

// NewShadow returns a Shadow. The error, if any, names every invalid field of cfg.
func NewShadow(cfg ShadowConfig) (*Shadow, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Shadow{cfg: cfg, base: time.Now(), queue: make(chan *shadowJob, cfg.Queue)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.differences.cfg = &s.cfg
	s.differences.paths = map[string]*pathCount{}
	return s, nil
}

// Middleware lets next answer each request and sends copies of some to the candidate, when the
// answer has been given. next reads and answers requests as it would without the Shadow; what
// passes is copied within the bounds of the configuration. It panics if next is nil.
//
// A request is not copied if its method is not one of those that are copied, if its connection is
// upgraded, if its answer is a stream of events, if a body is longer than MaxBody, if next has not
// read the body to its end, or if its client has left. Each is counted under its [ShadowOutcome].
func (s *Shadow) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("versioning: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.samples(r) {
			next.ServeHTTP(w, r)
			return
		}
		if reason := s.unfit(r); reason != "" {
			s.count(r.Context(), reason)
			next.ServeHTTP(w, r)
			return
		}
		size := headerSize(r)
		if !s.reserve(size) {
			s.count(r.Context(), ShadowDropped)
			next.ServeHTTP(w, r)
			return
		}
		x := &shadowWatch{
			shadow: s, next: next, in: r,
			header: r.Header.Clone(), url: *r.URL, reserved: size, begun: s.now(), took: -1,
			answer: shadowBuffer{shadow: s},
		}
		record(&x.Recorder, w, r)
		passed := r
		if r.Body != nil && r.Body != http.NoBody {
			x.body = shadowBody{body: r.Body, buffer: shadowBuffer{shadow: s}, there: true}
			x.out = *r
			x.out.Body = &x.body
			passed = &x.out
			x.Serve(passed)
		}
		returned := false
		defer func() { // also on panic, which passes
			r.Pattern = passed.Pattern
			x.finish(returned)
		}()
		next.ServeHTTP(x, passed)
		returned = true
	})
}

func (s *Shadow) now() int64 { return int64(time.Since(s.base)) }

// samples reports whether r is one of those that may be copied.
func (s *Shadow) samples(r *http.Request) bool {
	return s.ctx.Err() == nil && len(r.Header[ShadowField]) == 0 && (s.cfg.Skip == nil || !s.cfg.Skip(r)) &&
		(s.cfg.Sample >= 1 || rand.Float64() < s.cfg.Sample)
}

// unfit returns why r cannot be copied; "" if it can, as far as its header tells.
func (s *Shadow) unfit(r *http.Request) ShadowOutcome {
	switch {
	case !safeMethod(r.Method) && !slices.Contains(s.cfg.Methods, r.Method):
		return ShadowMethod
	case r.Method == http.MethodConnect, len(r.Header["Upgrade"]) > 0:
		return ShadowUpgrade
	case r.ContentLength > s.cfg.MaxBody:
		return ShadowTooLarge
	}
	return ""
}

// shadowOverhead is about what a copy takes without its header and bodies.
const shadowOverhead = 2048

// headerSize is about how many bytes the copy of r's header takes.
func headerSize(r *http.Request) int64 {
	size := shadowOverhead + len(r.URL.Path) + len(r.URL.RawQuery)
	for name, values := range r.Header {
		size += 64 + len(name)
		for _, v := range values {
			size += 16 + len(v)
		}
	}
	return int64(size)
}

// reserve takes n bytes of MaxBytes, if there are so many left.
func (s *Shadow) reserve(n int64) bool {
	if s.bytes.Add(n) <= s.cfg.MaxBytes {
		return true
	}
	s.release(n)
	return false
}

func (s *Shadow) release(n int64) { s.bytes.Add(-n) }

// enqueue gives a job to a worker, or drops it.
func (s *Shadow) enqueue(j *shadowJob) {
	if s.ctx.Err() != nil {
		s.drop(j)
		return
	}
	select {
	case s.queue <- j:
	default:
		s.drop(j)
		return
	}
	s.work()
}

func (s *Shadow) drop(j *shadowJob) {
	j.free()
	s.count(j.ctx, ShadowDropped)
}

// work starts a worker if there may be another one and something to do.
func (s *Shadow) work() {
	for {
		n := s.workers.Load()
		if n >= int64(s.cfg.Workers) || len(s.queue) == 0 {
			return
		}
		if s.workers.CompareAndSwap(n, n+1) {
			break
		}
	}
	if !s.startWorker() {
		s.workers.Add(-1)
		s.discard()
	}
}

// startWorker starts a worker, unless s is closed.
func (s *Shadow) startWorker() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(func() {
		defer s.work() // what came after the last look at the queue
		defer s.workers.Add(-1)
		for s.ctx.Err() == nil {
			select {
			case j := <-s.queue:
				s.calmly(func() { s.run(j) })
			default:
				return
			}
		}
	})
	return true
}

// discard drops what waits when s is closed.
func (s *Shadow) discard() {
	for {
		select {
		case j := <-s.queue:
			s.calmly(func() { s.drop(j) })
		default:
			return
		}
	}
}

// Close ends all copies and waits for them, or until ctx ends: a candidate may not heed its
// context. Requests go on and are not copied any more.
func (s *Shadow) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	s.mu.Unlock()
	s.discard()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
