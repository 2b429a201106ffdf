package balancer

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = int64(time.Millisecond)

// served has r answer n requests, one after the other, each of which takes that long.
func (r *reporter) served(n int, now *int64, took int64, failed bool) {
	for range n {
		others := r.begin()
		*now += took
		r.end(others, *now, took, failed)
	}
}

func TestReportedLatencyIsThatOfTheYoungAndAlike(t *testing.T) {
	var r reporter
	now := int64(0)
	require.Equal(t, load{}, r.load(now), "nothing is known")
	r.served(20, &now, 50*ms, false)
	r.served(20, &now, 10*ms, false)
	require.InDelta(t, 10, r.load(now).latency.Milliseconds(), 3)

	others := make([]int64, 10)
	for i := range others {
		others[i] = r.begin()
	}
	now += 100 * ms
	for _, o := range others {
		r.end(o, now, 100*ms, false)
	}
	alone := r.load(now).latency
	for range 9 {
		r.begin()
	}
	crowd := r.load(now)
	require.EqualValues(t, 9, crowd.inFlight)
	require.Greater(t, crowd.latency, 2*alone)
}

func TestReportedFailures(t *testing.T) {
	var r reporter
	now := int64(0)
	r.served(63, &now, ms, false)
	require.Zero(t, r.load(now).failing)
	r.served(1, &now, ms, true)
	require.InDelta(t, 1./65, r.load(now).failing, 0.002, "one is one of many")
	r.served(64, &now, ms/100, true)
	l := r.load(now)
	require.InDelta(t, 1, l.failing, 0.02)
	require.InDelta(t, ms, int64(l.latency), float64(ms)/50, "what fails at once does not make it look fast")
	for seconds, want := range map[int64]float64{1: 0.97, 10: 0.39, 60: 0.02} {
		require.InDelta(
			t,
			want,
			r.load(now+seconds*1000*ms).failing,
			0.01,
			"after %d s without news",
			seconds,
		)
	}
	r.served(64, &now, ms, false)
	require.Zero(t, r.load(now).failing)

	var broken reporter
	broken.served(64, &now, ms/100, true)
	require.Zero(t, broken.load(now).latency, "it is not known what a good answer takes")
}

// While somebody holds the mutex, requests are told the last result and do not wait.
func TestReporterDoesNotWait(t *testing.T) {
	var r reporter
	now := int64(0)
	r.served(10, &now, ms, true)
	before := r.load(now)
	r.mu.Lock()
	r.served(10, &now, 5*ms, false)
	require.Equal(t, before, r.load(now))
	require.EqualValues(t, 0, r.begin())
	require.EqualValues(t, 1, r.load(now).inFlight)
	r.mu.Unlock()
}

func TestReporter(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	var gone sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("/wait", func(http.ResponseWriter, *http.Request) { enter <- struct{}{}; <-leave })
	mux.HandleFunc("/gone", func(w http.ResponseWriter, r *http.Request) {
		defer gone.Done()
		enter <- struct{}{}
		<-r.Context().Done()
		w.WriteHeader(http.StatusBadGateway)
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(
			map[string]int{"200": 200, "404": 404, "500": 500, "501": 501, "503": 503}[r.PathValue("code")],
		)
	})
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/flush", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a")
		if http.NewResponseController(w).Flush() == nil {
			<-leave
		}
	})
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			s := httptest.NewUnstartedServer(Reporter(mux))
			s.EnableHTTP2 = proto == "h2"
			s.StartTLS()
			defer s.Close()
			get := func(path string) *http.Response {
				resp, err := s.Client().Get(s.URL + path)
				if err != nil {
					return nil
				}
				resp.Body.Close()
				return resp
			}
			loadNow := func() load {
				resp := get(LoadPath)
				require.Equal(t, http.StatusNoContent, resp.StatusCode)
				require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
				l, err := parseLoad(resp.Header.Get(LoadHeader))
				require.NoError(t, err)
				return l
			}
			require.Equal(t, load{}, loadNow())
			go get("/wait")
			<-enter
			require.EqualValues(t, 1, loadNow().inFlight)
			resp := get("/status/200")
			require.Contains(
				t,
				resp.Header.Get(LoadHeader),
				"in-flight=1, latency=",
				"those that were there before it",
			)
			leave <- struct{}{}
			require.Eventually(
				t,
				func() bool { return loadNow().inFlight == 0 },
				time.Minute,
				time.Millisecond,
			)
			require.Positive(t, loadNow().latency)

			for _, path := range []string{"/status/404", "/status/501"} {
				get(path)
			}
			ctx, cancel := context.WithCancel(t.Context())
			gone.Add(1)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/gone", nil)
			require.NoError(t, err)
			go func() { _, _ = s.Client().Do(req) }()
			<-enter
			cancel()
			gone.Wait()
			require.Eventually(
				t,
				func() bool { return loadNow().inFlight == 0 },
				time.Minute,
				time.Millisecond,
			)
			require.Zero(
				t,
				loadNow().failing,
				"neither the client's fault nor the protocol's, nor who leaves, speaks against the server",
			)
			for _, path := range []string{"/status/500", "/status/503", "/panic"} {
				before := loadNow().failing
				get(path)
				require.Eventually(
					t,
					func() bool { return loadNow().failing > before },
					10*time.Second,
					time.Millisecond,
					path,
				)
			}

			resp, err = s.Client().Get(s.URL + "/flush")
			require.NoError(t, err)
			b := make([]byte, 1)
			_, err = io.ReadFull(resp.Body, b)
			require.NoError(t, err, "flushed")
			leave <- struct{}{}
			resp.Body.Close()
		})
	}
}

// Over real connections, endpoints are asked for their load, an endpoint that fails the requests of
// others is avoided, and one without a Reporter is not asked for ever.
func TestProbing(t *testing.T) {
	var asked sync.Map // by server, an *atomic.Int32 of its probes
	serve := func(reports bool, status int) string {
		var h http.Handler = http.HandlerFunc(
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) },
		)
		if reports {
			h = Reporter(h)
		}
		probes := new(atomic.Int32)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == LoadPath {
				probes.Add(1)
			}
			h.ServeHTTP(w, r)
		}))
		t.Cleanup(s.Close)
		addr := s.Listener.Addr().String()
		asked.Store(addr, probes)
		return addr
	}
	var pick Event
	client := func(addrs ...string) *Balancer {
		b, err := New(Config{
			Resolver: Static(addrs...), Policy: Probing(ProbingConfig{MaxAge: time.Minute}),
			Outlier: OutlierConfig{Consecutive: -1}, Observe: lastAttempt(&pick),
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close(context.WithoutCancel(t.Context()))) })
		return b
	}
	send := func(b *Balancer) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://users.internal/", nil)
		require.NoError(t, err)
		resp, err := b.RoundTrip(req)
		require.NoError(t, err)
		require.Empty(t, resp.Header[http.CanonicalHeaderKey(LoadHeader)])
		resp.Body.Close()
		return resp.StatusCode
	}

	bad := serve(true, 500)
	addrs := []string{bad, serve(true, 200), serve(true, 200), serve(true, 200), serve(true, 200)}
	for range 30 { // other clients have met it
		resp, err := http.Get("http://" + bad)
		require.NoError(t, err)
		resp.Body.Close()
	}
	b := client(addrs...)
	p, err := b.pool(&url.URL{Scheme: "http", Host: "users.internal"})
	require.NoError(t, err)
	send(b)
	require.Eventually(t, func() bool { // until all have been asked and have answered
		send(b)
		for _, h := range p.group.current.Load().all {
			if n, _ := asked.Load(h.public().Addr); n.(*atomic.Int32).Load() == 0 || h.answer.at.Load() == 0 {
				return false
			}
		}
		return true
	}, time.Minute, time.Millisecond)
	before, explored := b.Stats().Failures, uint64(0)
	for range 200 {
		send(b)
		if pick.Reason == ReasonExplore {
			explored++ // one request in exploreOneIn, if an endpoint was slow for a moment
			continue
		}
		require.Equal(t, ReasonProbe, pick.Reason)
	}
	require.LessOrEqual(t, explored, uint64(10))
	require.LessOrEqual(t, b.Stats().Failures-before, explored)

	mute := client(serve(false, 200), serve(false, 200))
	for range 1000 {
		send(mute)
		require.NotEqual(t, ReasonProbe, pick.Reason, "nothing is known")
	}
	probes := int32(0)
	for _, h := range mute.Endpoints("http://users.internal") {
		n, _ := asked.Load(h.Addr)
		probes += n.(*atomic.Int32).Load()
	}
	require.Positive(t, probes)
	require.Less(t, probes, int32(300), "of 3000 that would be: who does not answer is asked less")
}

// If a Reload takes Probing away during a pick, or if a user's own policy calls it, Probing acts as
// its Next.
func TestProbingWithoutProbes(t *testing.T) {
	ok := func(Endpoint, http.RoundTripper) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
	}
	var b *Balancer
	reload := Config{Resolver: Static("a:1", "b:1"), Wrap: ok}
	for name, policy := range map[string]Policy{
		"reloaded": Hash(HashConfig{Next: Probing(ProbingConfig{}), Key: func(*http.Request) (string, bool) {
			return "", b.Reload(reload) != nil
		}}),
		"called": caller{Probing(ProbingConfig{})},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			var pick Event
			b, err = New(
				Config{Resolver: Static("a:1", "b:1"), Wrap: ok, Policy: policy, Observe: lastAttempt(&pick)},
			)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, b.Close(context.WithoutCancel(t.Context()))) })
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://users.internal/", nil)
			require.NoError(t, err)
			_, err = b.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, ReasonCost, pick.Reason)
		})
	}
}

// lastAttempt writes the event of the last attempt to pick.
func lastAttempt(pick *Event) func(context.Context, Event) {
	return func(_ context.Context, e Event) {
		if e.Kind == Attempted {
			*pick = e
		}
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A caller is a user's policy that leaves the choice to another one.
type caller struct{ next Policy }

func (c caller) Pick(v *View, r *http.Request) int { return c.next.Pick(v, r) }

// The pause of an endpoint ends, and its failures count, even if Probing's Next keeps no costs.
func TestProbingWithANextThatKeepsNothing(t *testing.T) {
	cfg, err := Config{
		Resolver: Static("a:1"),
		Policy:   Probing(ProbingConfig{Next: RoundRobin()}),
	}.withDefaults()
	require.NoError(t, err)
	g := newGroup(&cfg)
	g.update([]Endpoint{{Addr: "a:1"}, {Addr: "b:1"}}, 0, func(*endpoint) {})
	attempt := func(at int64, out Outcome, cool time.Duration) *endpoint {
		p, ok := g.pick(new(View), g.config.Load(), nil, nil, at)
		require.True(t, ok)
		g.reply(&p, at+ms, ms, out, cool)
		g.finish(&p, at+ms, false)
		return p.endpoint
	}
	h := attempt(ms, Busy, time.Second)
	require.NotZero(t, h.pauseUntil.Load())
	g.tick(2 * int64(time.Second))
	require.Zero(t, h.pauseUntil.Load(), "the pause is over")
	h = attempt(3*int64(time.Second), Failure, 0)
	require.Greater(t, h.penalty.Load(), 1.0)
}

// The first endpoint that answers may be the one that fails. It does not show what is usual.
func TestProbingHearsOfTheWorstFirst(t *testing.T) {
	cfg, err := Config{Resolver: Static("a:1"), Policy: Probing(ProbingConfig{})}.withDefaults()
	require.NoError(t, err)
	g := newGroup(&cfg)
	g.update([]Endpoint{{Addr: "a:1"}, {Addr: "b:1"}, {Addr: "c:1"}, {Addr: "d:1"}}, 0, func(*endpoint) {})
	set := g.config.Load()
	for i, h := range g.endpoints {
		l := load{latency: time.Millisecond}
		if i == 0 {
			l = load{latency: time.Millisecond / 2, failing: 1}
		}
		set.probes.answered(h, l, 0, ms)
	}
	for range 20 {
		v := new(View)
		v.reset(g, g.config.Load(), &g.current.Load().tiers[0], ms)
		require.Positive(t, set.probes.pick(v))
	}
}
