// Bluegreen deploys three releases of a shop, one after the other, while clients use it. The first
// fails at 3 % of requests and the second is 40 % slower: both are rolled back by themselves. The
// third is good and is promoted by itself, after a shadow has compared its answers with those of
// the release in use. The program takes some three minutes, and its test no time, for its clock is
// a virtual one.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/versioning"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// A build is a release of the shop.
type build struct {
	name   string
	errors float64 // the share of requests that it fails at
	slower float64 // how many times as long it takes
	price  int
}

func (b build) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.ParseUint(r.Header.Get("Request-Number"), 10, 64)
	time.Sleep(time.Duration(b.slower * latency(dice(number, 1)) * float64(time.Second)))
	if dice(number, 2) < b.errors {
		http.Error(w, "out of stock", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"price":%d,"asked":%d}`, b.price, asked.Add(1))
}

// asked counts answers: a part of each that is never the same.
var asked atomic.Int64

// dice returns a number from 0 to 1 that depends on its arguments alone, so that two runs are
// alike.
func dice(number, throw uint64) float64 {
	x := number*0x9e3779b97f4a7c15 + throw*0xbf58476d1ce4e5b9
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64((x^x>>31)>>11) / (1 << 53)
}

// latency has a median of 20 ms and a 95th percentile of some 50 ms.
func latency(x float64) float64 { return 0.02 * math.Pow(x/(1-x+1e-3), 0.31) }

// A shop is what its clients reach: whichever handler is live.
type shop struct {
	live atomic.Pointer[http.Handler]
	sent atomic.Uint64
}

func (s *shop) serve(h http.Handler) { s.live.Store(&h) }

// use sends 400 requests a second of 5,000 users until stop is closed.
func (s *shop) use(stop <-chan struct{}) {
	var clients sync.WaitGroup
	defer clients.Wait()
	tick := time.NewTicker(2500 * time.Microsecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		clients.Go(func() {
			number := s.sent.Add(1)
			r := httptest.NewRequest(http.MethodGet, "/price", nil)
			r.Header.Set("Request-Number", strconv.FormatUint(number, 10))
			r.Header.Set("User", strconv.Itoa(int(dice(number, 3)*5000)))
			(*s.live.Load()).ServeHTTP(httptest.NewRecorder(), r)
		})
	}
}

// rolloutOf returns how a release is tried. A person who deploys changes no more than its name.
func rolloutOf(release string, out io.Writer) versioning.RolloutConfig {
	return versioning.RolloutConfig{
		Name: "shop", Release: release,
		Key: func(r *http.Request) (string, bool) {
			user := r.Header.Get("User")
			return user, user != ""
		},
		Missing: versioning.MissingStable,
		Steps: []versioning.Step{
			{Weight: 0.05, MinTime: 30 * time.Second, MinRequests: 500},
			{Weight: 0.5, MinTime: 10 * time.Second, MinRequests: 500},
			{Weight: 1, MinTime: 10 * time.Second, MinRequests: 500},
		},
		Observe: func(_ context.Context, e versioning.RolloutEvent) {
			if e.Kind == versioning.RolloutChange {
				fmt.Fprintf(out, "%s %s: %s\n", e.Release, e.To, e.Text)
			}
		},
		OnRollback: func(_ context.Context, b versioning.Rollback) {
			if b.Drained { // a cache in front would purge b.Tag here
				fmt.Fprintf(out, "%s drained, tag %s\n", b.Release, b.Tag)
			}
		},
	}
}

// run writes to out from several goroutines, one after the other.
func run(out io.Writer) error {
	out = &lockedWriter{w: out}
	blue := build{name: "v1", errors: 0.002, slower: 1, price: 100}
	s := &shop{}
	s.serve(blue)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s.use(stop)
	}()
	defer func() {
		close(stop)
		<-stopped
	}()

	var rollout *versioning.Rollout
	for _, green := range []build{
		{name: "v2", errors: 0.03, slower: 1, price: 100},
		{name: "v3", errors: 0.002, slower: 1.4, price: 100},
		{name: "v4", errors: 0.002, slower: 1, price: 100},
	} {
		fmt.Fprintf(out, "\n%s fails at %.1f %% and takes %.1f times as long\n", green.name, green.errors*100,
			green.slower)
		cfg := rolloutOf(green.name, out)
		if green.name == "v4" {
			shadow, err := compare(out, s, blue, green)
			if err != nil {
				return err
			}
			cfg.Judge = shadow.Judge(0.01, 100, versioning.Hold)
		}
		var err error
		if rollout == nil { // this process has just begun
			if rollout, err = versioning.NewRollout(cfg); err == nil {
				defer rollout.Close(context.Background())
			}
		} else { // and this is its next configuration
			err = rollout.Reload(cfg)
		}
		if err != nil {
			return err
		}
		s.serve(rollout.Handler(blue, green))
		begun, before := time.Now(), rollout.Stats().Requests["canary"]
		for rollout.State().Phase == versioning.PhaseRunning {
			time.Sleep(100 * time.Millisecond)
		}
		state, stats := rollout.State(), rollout.Stats()
		fmt.Fprintf(out, "%s %s because of %s after %v and %d requests to it\n", green.name, state.Phase,
			state.Reason, time.Since(begun).Round(time.Second), stats.Requests["canary"]-before)
		if err := rollout.Drained(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// compare sends copies of clients' requests to green for ten seconds, and reports.
func compare(out io.Writer, s *shop, blue, green build) (*versioning.Shadow, error) {
	shadow, err := versioning.NewShadow(versioning.ShadowConfig{
		Name: "shop", Candidate: green, Credentials: versioning.CredentialsStrip, Sample: 0.2, Learn: 0.2,
		Workers: 16,
	})
	if err != nil {
		return nil, err
	}
	s.serve(shadow.Middleware(blue))
	time.Sleep(10 * time.Second)
	s.serve(blue)
	if err := shadow.Close(context.Background()); err != nil {
		return nil, err
	}
	r := shadow.Report()
	fmt.Fprintf(out, "shadow: %d of %d answers of %s differ", r.Differing, r.Judged, green.name)
	for _, p := range r.Paths {
		fmt.Fprintf(out, "; %s differs in %d, noise: %v", p.Path, p.Differs, p.Noisy)
	}
	fmt.Fprintf(out, "; p95 %v and %v\n", r.Primary.P95.Round(time.Millisecond),
		r.Candidate.P95.Round(time.Millisecond))
	return shadow, nil
}

// A lockedWriter is written to by one goroutine at a time.
type lockedWriter struct {
	mu sync.Mutex // guards the field below
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
