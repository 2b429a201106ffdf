package redislimit_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// logIns returns a policy that counts failures: five an hour.
func logIns(a ratelimit.Algorithm) ratelimit.Policy {
	p := policyOf("log-ins-"+string(a), ratelimit.Rate{Limit: 5, Window: 365 * 24 * time.Hour, Burst: 5})
	if p.Algorithm = a; a == ratelimit.SlidingWindow {
		p.Rate.Burst = 0
	}
	p.CountIf = func(status int) bool { return status >= 400 }
	return p
}

var algorithms = []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow}

// TestCountIfOverProcesses: two limiters on one Redis, as in two processes. Of twelve failures at
// once five get through; good answers leave everything as it was.
func TestCountIfOverProcesses(t *testing.T) {
	server := startRedis(t)
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			var status, entered atomic.Int64
			var gate atomic.Pointer[chan struct{}]
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				entered.Add(1)
				<-*gate.Load()
				w.WriteHeader(int(status.Load()))
			})
			var here []http.Handler
			for range 2 {
				store := newStore(t, quick(t, server.Addr), redislimit.Config{Timeout: 10 * time.Second})
				here = append(here, limiterOn(t, store, logIns(a)).Middleware(handler))
			}
			twelve := func() (through int64) {
				entered.Store(0)
				open := make(chan struct{})
				gate.Store(&open)
				var refused atomic.Int64
				var wg sync.WaitGroup
				for i := range 12 {
					wg.Go(func() {
						w := httptest.NewRecorder()
						here[i%2].ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
						if w.Code == http.StatusTooManyRequests {
							refused.Add(1)
						}
					})
				}
				require.Eventually(t, func() bool { return entered.Load()+refused.Load() == 12 },
					time.Minute, time.Millisecond)
				close(open)
				wg.Wait()
				return entered.Load()
			}
			status.Store(200)
			for range 3 {
				require.EqualValues(t, 5, twelve())
			}
			status.Store(401)
			require.EqualValues(t, 5, twelve())
			require.Zero(t, twelve())
		})
	}
}

// TestRefundIsExact: the script takes back as package ratelimit does in memory.
func TestRefundIsExact(t *testing.T) {
	k := &clock{c: startRedis(t).client(t), now: 1_800_000_000_000_000}
	key := 0
	rapid.Check(t, func(t *rapid.T) {
		key++
		r := ratelimit.Rate{
			Limit:  rapid.Int64Range(1, 50).Draw(t, "limit"),
			Window: time.Duration(rapid.Int64Range(1, 5000).Draw(t, "window")) * time.Millisecond,
			Burst:  rapid.Int64Range(1, 20).Draw(t, "burst"),
		}
		p := policyOf("p", r)
		if rapid.Bool().Draw(t, "sliding") {
			p.Rate.Burst, p.Algorithm = 0, ratelimit.SlidingWindow
		}
		rate, err := p.Rate.Validate(p.Algorithm)
		require.NoError(t, err)
		p.CountIf = func(int) bool { return false }
		p.Key = constant
		cost := int64(1)
		p.Cost = func(*http.Request) int64 { return cost }
		store, err := redislimit.New(k.c, redislimit.Config{
			Prefix: "refund" + strconv.Itoa(key) + ":", Timeout: 10 * time.Second,
		})
		require.NoError(t, err)
		store.ReadClock()
		l, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{p}})
		require.NoError(t, err)
		m := &model{rate: rate, window: p.Algorithm == ratelimit.SlidingWindow, now: k.now}
		type held struct {
			d    ratelimit.Decision
			undo func()
		}
		var open []held
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			pause := rapid.Int64Range(0, r.Window.Microseconds()).Draw(t, "pause")
			k.advance(t, pause)
			m.now += pause
			if len(open) > 0 && rapid.Bool().Draw(t, "refund") {
				require.NoError(t, open[0].d.Done(200))
				open[0].undo()
				open = open[1:]
			} else {
				cost = rapid.Int64Range(1, 3).Draw(t, "cost")
				d, err := l.Take(ctx, new(http.Request))
				require.NoError(t, err)
				ok, undo := m.take(cost)
				require.Equal(t, ok, d.Allowed)
				if ok {
					open = append(open, held{d, undo})
				}
			}
			cost = 1
			d, err := l.Peek(ctx, new(http.Request))
			require.NoError(t, err)
			require.Equal(t, m.left(), d.Remaining)
			require.Equal(t, m.left() > 0, d.Allowed)
		}
	})
}

// A model counts in integers: a bucket's debt in microseconds times Limit.
type model struct {
	rate   ratelimit.Rate
	window bool
	now    int64

	tat    int64 // times Limit
	counts map[int64]int64
}

func (m *model) us() int64 { return m.rate.Window.Microseconds() }

func (m *model) left() int64 {
	if m.window {
		k, offset := m.now/m.us(), m.now%m.us()
		return max(m.rate.Limit-(m.counts[k-1]*(m.us()-offset)+m.us()-1)/m.us()-m.counts[k], 0)
	}
	debt := max(m.tat-m.now*m.rate.Limit, 0)
	return (m.rate.Burst*m.us() - debt) / m.us()
}

func (m *model) take(cost int64) (ok bool, undo func()) {
	if m.left() < cost {
		return false, nil
	}
	if m.window {
		if m.counts == nil {
			m.counts = map[int64]int64{}
		}
		k := m.now / m.us()
		m.counts[k] += cost
		return true, func() { m.counts[k] -= cost }
	}
	m.tat = max(m.tat, m.now*m.rate.Limit) + cost*m.us()
	until := m.tat
	return true, func() {
		if now := m.now * m.rate.Limit; m.tat > now {
			m.tat = max(m.tat-min(cost*m.us(), max(until-now, 0)), now)
		}
	}
}

// TestPeek: the same answers as Take's, and nothing charged.
func TestPeek(t *testing.T) {
	server := startRedis(t)
	for _, a := range algorithms {
		p := logIns(a)
		p.CountIf = nil
		store := newStore(t, quick(t, server.Addr), redislimit.Config{Timeout: 10 * time.Second})
		l := limiterOn(t, store, p)
		for i := range int64(6) {
			for range 2 {
				d, err := l.PeekKeys(t.Context(), []string{"a"})
				require.NoError(t, err)
				require.False(t, d.Degraded)
				require.Equal(t, i < 5, d.Allowed)
				require.Equal(t, 5-i, d.Remaining)
			}
			take(t, l, "a")
		}
	}
}

// TestR32_ChargeOutlivesTheRequest: a client that leaves before its end is charged like one that
// stays.
func TestR32_ChargeOutlivesTheRequest(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, quick(t, server.Addr), redislimit.Config{Timeout: 10 * time.Second})
	p := policyOf("tokens", ratelimit.PerDay(100).WithBurst(100))
	p.Key = ratelimit.ByPeer
	l := newLimiter(t, ratelimit.Config{
		Store: store, PassDecision: true, Policies: []ratelimit.Policy{p},
	})
	done := make(chan error)
	s := httptest.NewServer(l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := ratelimit.FromContext(r.Context())
		_, _ = io.WriteString(w, "expensive")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // the client has what it wanted
		done <- d.Charge(r.Context(), 50)
	})))
	defer s.Close()
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		require.NoError(t, err)
		resp, err := s.Client().Do(r)
		require.NoError(t, err)
		if i < 2 {
			require.Equal(t, http.StatusOK, resp.StatusCode)
			_, err = io.ReadFull(resp.Body, make([]byte, len("expensive")))
			require.NoError(t, err)
			cancel()
			require.NoError(t, <-done)
		} else {
			require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
		}
		cancel()
		resp.Body.Close()
	}
}

// TestR32_WithinTheTimeBudget: a store that hangs holds what comes after the answer no longer than
// its Timeout, although the context has no end.
func TestR32_WithinTheTimeBudget(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, server.client(t), redislimit.Config{Timeout: 300 * time.Millisecond})
	l := limiterOn(t, store, logIns(ratelimit.GCRA))
	d := take(t, l, "a")
	require.False(t, d.Degraded)
	server.Pause()
	defer server.Resume()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, d.Charge(gone, 1), context.DeadlineExceeded)
	require.ErrorIs(t, d.Done(200), context.DeadlineExceeded)
}

// TestR20_GarbledReceipts: a receipt that the script cannot have given is a failure of the store.
func TestR20_GarbledReceipts(t *testing.T) {
	l := startLiar(t)
	for reply, good := range map[string]bool{
		"*7\r\n:0\r\n:1\r\n:0\r\n:0\r\n:0\r\n:5\r\n:6\r\n":                true,
		"*7\r\n:0\r\n:1\r\n:0\r\n:0\r\n:0\r\n:-1\r\n:6\r\n":               false,
		"*7\r\n:0\r\n:1\r\n:0\r\n:0\r\n:0\r\n:5\r\n:-6\r\n":               false,
		"*7\r\n:0\r\n:1\r\n:0\r\n:0\r\n:0\r\n:5\r\n:9007199254740993\r\n": false,
		"*5\r\n:0\r\n:1\r\n:0\r\n:0\r\n:0\r\n":                            false,
	} {
		l.reply.Store(&reply)
		store := newStore(t, quick(t, l.addr), redislimit.Config{Timeout: 5 * time.Second})
		d := take(t, limiterOn(t, store, logIns(ratelimit.GCRA)), "a")
		require.Equal(t, good, !d.Degraded, "%q", reply)
	}
}

// TestLeasesAndCountIf: what is paid for in advance cannot be given back, so New refuses both.
func TestLeasesAndCountIf(t *testing.T) {
	store := newStore(t, quick(t, "127.0.0.1:1"), redislimit.Config{
		Leases: map[string]redislimit.LeaseConfig{"log-ins-gcra": {}},
	})
	_, err := ratelimit.New(ratelimit.Config{
		Store: store, Policies: []ratelimit.Policy{logIns(ratelimit.GCRA)},
	})
	require.ErrorContains(t, err, `Leases["log-ins-gcra"]`)
	require.ErrorContains(t, err, "CountIf")
}
