package retry_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// A queue serves one request after another, each in cost, and those that wait for nobody too, as
// servers do. It refuses what is more than its room. During an outage nothing is served.
type queue struct {
	cost  time.Duration
	tasks chan chan struct{}
	down  atomic.Bool
}

func newQueue(cost time.Duration, room int) *queue {
	return &queue{cost: cost, tasks: make(chan chan struct{}, room)}
}

// run serves until ctx ends. It keeps to its rate also where a sleep takes longer than it was told.
func (q *queue) run(ctx context.Context) {
	next := time.Now()
	for {
		select {
		case done := <-q.tasks:
			for q.down.Load() && ctx.Err() == nil {
				time.Sleep(q.cost)
				next = time.Now()
			}
			if now := time.Now(); next.Before(now.Add(-100 * time.Millisecond)) {
				next = now
			}
			next = next.Add(q.cost)
			time.Sleep(time.Until(next))
			close(done)
		case <-ctx.Done():
			return
		}
	}
}

var errFull = errors.New("queue full")

func (q *queue) serve(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case q.tasks <- done:
	default:
		return errFull
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *queue) RoundTrip(req *http.Request) (*http.Response, error) {
	switch err := q.serve(req.Context()); {
	case errors.Is(err, errFull):
		return answer(503), nil
	case err != nil:
		return nil, context.Cause(req.Context())
	}
	return answer(200), nil
}

// naive retries twice, with full jitter and without a budget.
func naive(next http.RoundTripper, perTry time.Duration) http.RoundTripper {
	return roundTripper(func(req *http.Request) (resp *http.Response, err error) {
		for try := range 3 {
			ctx, cancel := context.WithTimeout(req.Context(), perTry)
			resp, err = next.RoundTrip(req.Clone(ctx))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				resp.Body = http.NoBody
			}
			cancel()
			if err == nil && resp.StatusCode == 200 {
				break
			}
			if try < 2 {
				time.Sleep(rand.N(50 * time.Millisecond << try))
			}
		}
		return resp, err
	})
}

// A load is open: requests come at their rate, whatever becomes of those before them.
type load struct {
	every            time.Duration
	before, down, up time.Duration
}

// run returns the share of the requests that were answered well: of those that came from 2 s after
// the outage on.
func (l load) run(send func() bool, q *queue) (goodput float64) {
	var wg sync.WaitGroup
	var good, all atomic.Int64
	start := time.Now()
	end := l.before + l.down
	for at := time.Duration(0); at < end+2*time.Second+l.up; at += l.every {
		time.Sleep(time.Until(start.Add(at)))
		q.down.Store(at >= l.before && at < end)
		counted := at >= end+2*time.Second
		wg.Go(func() {
			ok := send()
			if counted {
				all.Add(1)
				if ok {
					good.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return float64(good.Load()) / float64(all.Load())
}

// A service at 80 % of its capacity fails for 10 s. With naive retries it stays down when the fault
// is mended: it has more to do than it can, and what it does comes too late. Within a budget it is
// back.
func TestMetastability(t *testing.T) {
	arm := func(t *testing.T, wrap func(http.RoundTripper) http.RoundTripper) (goodput float64) {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(5*time.Millisecond, 60)
			ctx, stop := context.WithCancel(t.Context())
			go q.run(ctx)
			rt := wrap(q)
			goodput = load{
				every:  6250 * time.Microsecond,
				before: 5 * time.Second,
				down:   10 * time.Second,
				up:     10 * time.Second,
			}.run(
				func() bool {
					status, _, err := send(t, rt, request(t, "GET", nil))
					return err == nil && status == 200
				},
				q,
			)
			stop()
		})
		return goodput
	}
	const perTry = 250 * time.Millisecond
	ours := arm(t, newRetrier(t, retry.Config{PerTry: perTry}).Transport)
	theirs := arm(t, func(rt http.RoundTripper) http.RoundTripper { return naive(rt, perTry) })
	t.Logf("goodput from 2 s after the outage on: %.2f %%, naive %.2f %%", 100*ours, 100*theirs)
	require.GreaterOrEqual(t, ours, 0.99)
	require.Less(t, theirs, 0.5, "or the experiment shows nothing")
}

// The same over real connections: what arrives at a service that is down is what was asked for and
// the reserve, and when it is back, so is every answer. With TRIVET_SOAK=1 also the whole
// experiment in real time, five times.
func TestOutageOverTheWire(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	b := backend.Start(
		t,
		backend.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if down.Load() {
				w.WriteHeader(503)
			}
		})},
	)
	r := newRetrier(t, quick(retry.Config{}))
	rt := r.Transport(testTransport(t, backend.HTTP1))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 50 {
				status, _, err := send(t, rt, requestTo(t, b, "GET", nil))
				if err != nil || status != 503 {
					t.Errorf("%d, %v", status, err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, uint64(510), r.Stats().Attempts)
	down.Store(false)
	for range 100 {
		status, _, err := send(t, rt, requestTo(t, b, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}
	require.Equal(t, 10.0, r.Stats().Budget[b.Addr])

	if os.Getenv("TRIVET_SOAK") == "1" {
		soakMetastability(t)
	}
}

func soakMetastability(t *testing.T) {
	const perTry = 500 * time.Millisecond
	arm := func(wrap func(http.RoundTripper) http.RoundTripper) float64 {
		q := newQueue(5*time.Millisecond, 110)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { q.run(ctx) })
		defer wg.Wait()
		defer stop()
		b := backend.Start(
			t,
			backend.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if q.serve(
					ctx,
				) != nil { // not the request's context: this server does not notice that clients leave
					w.WriteHeader(503)
				}
			})},
		)
		tr := testTransport(t, backend.HTTP1)
		tr.MaxIdleConnsPerHost = 1000
		rt := wrap(tr)
		return load{
			every:  6250 * time.Microsecond,
			before: 2 * time.Second,
			down:   10 * time.Second,
			up:     5 * time.Second,
		}.run(
			func() bool {
				status, _, err := send(t, rt, requestTo(t, b, "GET", nil))
				return err == nil && status == 200
			},
			q,
		)
	}
	var ours, theirs []float64
	for range 5 {
		ours = append(ours, arm(newRetrier(t, retry.Config{PerTry: perTry}).Transport))
		theirs = append(
			theirs,
			arm(func(rt http.RoundTripper) http.RoundTripper { return naive(rt, perTry) }),
		)
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	t.Logf("goodput from 2 s after the outage on, five times: %.3f, naive %.3f", ours, theirs)
	require.GreaterOrEqual(t, ours[2], 0.99)
	require.Less(t, theirs[2], 0.9)
}

// Hedging where one request of a hundred takes a second: the slowest thousandth is a fifth of what
// it was, for a twentieth more requests.
func TestStragglers(t *testing.T) {
	const requests = 10_000
	arm := func(t *testing.T, cfg retry.Config) (slowest time.Duration, sent int) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, 7))
			var mu sync.Mutex // guards random
			var n atomic.Int64
			s := roundTripper(func(req *http.Request) (*http.Response, error) {
				n.Add(1)
				mu.Lock()
				d := 5*time.Millisecond + time.Duration(random.ExpFloat64()*float64(2*time.Millisecond))
				if random.IntN(100) == 0 {
					d = time.Second
				}
				mu.Unlock()
				return after(d, 200)(req)
			})
			rt := newRetrier(t, cfg).Transport(s)
			took := make([]time.Duration, requests)
			for i := range took {
				start := time.Now()
				_, _, err := send(t, rt, request(t, "GET", nil))
				require.NoError(t, err)
				took[i] = time.Since(start)
			}
			slices.Sort(took)
			slowest, sent = took[requests*999/1000], int(n.Load())
		})
		return slowest, sent
	}
	without, _ := arm(t, retry.Config{})
	with, sent := arm(t, retry.Config{Hedge: true})
	t.Logf("p99.9 %v, hedged %v with %.4f times the requests", without, with, float64(sent)/requests)
	require.LessOrEqual(t, with, without/5)
	require.LessOrEqual(t, sent, requests*105/100+10)
}
