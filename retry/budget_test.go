package retry

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// In any span of time a budget pays for at most its reserve, what the span's successes earn, and
// one token for each 10 s.
func TestBudgetProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Hedge:      true,
			HedgeRatio: rapid.SampledFrom([]float64{0.05, 0.5, 1}).Draw(t, "hedge ratio"),
		}
		cfg.Budget.Ratio = rapid.SampledFrom([]float64{-1, 0.1, 0.2, 1}).Draw(t, "ratio")
		cfg.Budget.Reserve = rapid.SampledFrom([]int{-1, 1, 3, 10}).Draw(t, "reserve")
		tariff := newTariff(cfg)
		b := newBudget(&tariff, 0)
		var now time.Duration
		type moment struct {
			at                                time.Duration
			sent, hedges, successes, requests float64
		}
		m := moment{}
		past := []moment{m}
		retries, hedged := 0, 0 // drawn and not settled
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			steps := []string{"request", "request", "success", "draw", "draw", "hedge", "sent", "unsent"}
			switch rapid.SampledFrom(steps).Draw(t, "step") {
			case "request":
				now += time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "later"))
				b.request(now)
				m.requests++
			case "success":
				if m.successes < m.requests {
					b.success()
					m.successes++
				}
			case "draw":
				if b.draw() {
					retries++
					m.sent++
				}
			case "hedge":
				if b.drawHedge() {
					hedged++
					m.sent++
					m.hedges++
				}
			case "unsent":
				switch {
				case retries > 0:
					b.giveBack()
					retries--
					m.sent--
				case hedged > 0:
					b.giveBackHedge()
					hedged--
					m.sent--
					m.hedges--
				}
			case "sent":
				retries, hedged = 0, 0
			}
			m.at = now
			past = append(past, m)
			// From the beginning, and in spans between moments at which nothing was drawn that
			// might be given back.
			reserve := max(cfg.Budget.Reserve, 0)
			most := float64(reserve) + max(cfg.Budget.Ratio, 0)*m.successes + float64(now/idle)
			if m.sent > most+1e-9 {
				t.Fatalf("sent %v, at most %v", m.sent, most)
			}
			if m.hedges > cfg.HedgeRatio*m.requests+1e-9 {
				t.Fatalf("%v hedges of %v requests", m.hedges, m.requests)
			}
			if left := b.left(); left < 0 || left > float64(max(reserve, 1)) {
				t.Fatalf("balance %v", left)
			}
		}
		from := past[rapid.IntRange(0, len(past)-1).Draw(t, "from")]
		if sent := m.sent - from.sent; retries+hedged == 0 && sent > 0 {
			span := float64((now-from.at)/idle) + 1
			// Tokens that were out at the beginning of the span may have come back in it.
			earned := max(cfg.Budget.Ratio, 0) * (m.successes - from.successes)
			if most := float64(max(cfg.Budget.Reserve, 1)) + earned + span; sent > most+1e-9 {
				t.Fatalf("in a span: sent %v, at most %v", sent, most)
			}
		}
	})
}

// The same with many requests at a time.
func TestBudgetUnderConcurrency(t *testing.T) {
	tariff := newTariff(Config{Hedge: true, HedgeRatio: 0.05, Budget: BudgetConfig{Ratio: 0.1, Reserve: 10}})
	b := newBudget(&tariff, 0)
	var requests, successes, sent, hedges atomic.Int64
	var clock atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range 20_000 {
				requests.Add(1)
				b.request(time.Duration(clock.Add(int64(time.Millisecond))))
				if random.IntN(2) == 0 {
					successes.Add(1)
					b.success()
				}
				if b.draw() {
					if random.IntN(3) == 0 {
						b.giveBack()
					} else {
						sent.Add(1)
					}
				}
				if b.drawHedge() {
					if random.IntN(3) == 0 {
						b.giveBackHedge()
					} else {
						sent.Add(1)
						hedges.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, float64(sent.Load()), 10+0.1*float64(successes.Load())+1e-6)
	require.LessOrEqual(t, float64(hedges.Load()), 0.05*float64(requests.Load())+1e-6)
	require.Greater(t, sent.Load(), int64(1000))
}

// A hedge that the balance cannot pay for leaves its share to the next one.
func TestHedgeThatCannotBePaidFor(t *testing.T) {
	tariff := newTariff(Config{Hedge: true, HedgeRatio: 1, Budget: BudgetConfig{Ratio: 1, Reserve: 1}})
	b := newBudget(&tariff, 0)
	b.request(1)
	require.True(t, b.draw())
	for range 5 {
		require.False(t, b.drawHedge())
	}
	b.success()
	require.True(t, b.drawHedge())
	b.giveBackHedge()
	require.True(t, b.drawHedge())
	require.False(t, b.drawHedge())
}

// Without a reserve there is nothing that time could fill up.
func TestNoReserveNoRefill(t *testing.T) {
	tariff := newTariff(Config{Budget: BudgetConfig{Ratio: 0.5, Reserve: -1}})
	b := newBudget(&tariff, 0)
	b.request(time.Hour)
	require.False(t, b.draw())
	b.success()
	b.success()
	require.True(t, b.draw())
}

// Many goroutines that see the same silence get its token once.
func TestIdleTimeIsCountedOnce(t *testing.T) {
	tariff := newTariff(Config{Budget: BudgetConfig{Ratio: -1, Reserve: 100}})
	b := newBudget(&tariff, 0)
	for b.draw() {
	}
	for round := range 50 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { b.request(time.Duration(round+1) * idle) })
		}
		wg.Wait()
	}
	require.InDelta(t, 50, b.left(), 1e-9)
}

// The table of notes/resilience.md, C3, for 100,000 requests of which each attempt fails with
// probability p. The amplification is never above 1 + ratio, whatever p is.
func TestT01_BudgetTable(t *testing.T) {
	const requests = 100_000
	send := func(ratio, p float64) (amplification, success float64) {
		tariff := newTariff(Config{Budget: BudgetConfig{Ratio: ratio, Reserve: 10}})
		b := newBudget(&tariff, 0)
		random := rand.New(rand.NewPCG(1, 2))
		sent, good := 0, 0
		for i := range requests {
			b.request(time.Duration(i) * time.Millisecond)
			for try := 1; ; try++ {
				sent++
				if random.Float64() >= p {
					good++
					b.success()
					break
				}
				if try == 3 || !b.draw() {
					break
				}
			}
		}
		return float64(sent) / requests, 100 * float64(good) / requests
	}
	for _, tt := range []struct {
		ratio, p, amplification, success float64
	}{
		{0.1, 0.01, 1.010, 100}, {0.1, 0.05, 1.052, 99.99}, {0.1, 0.1, 1.096, 98.8}, {0.1, 0.2, 1.087, 87.1},
		{0.1, 0.5, 1.053, 52.8}, {0.1, 1, 1, 0},
		{0.2, 0.01, 1.010, 100}, {0.2, 0.05, 1.052, 99.99}, {0.2, 0.1, 1.109, 99.9}, {0.2, 0.2, 1.189, 95.1},
		{0.2, 0.5, 1.112, 55.8}, {0.2, 1, 1, 0},
	} {
		t.Run(fmt.Sprintf("ratio=%v/p=%v", tt.ratio, tt.p), func(t *testing.T) {
			amplification, success := send(tt.ratio, tt.p)
			t.Logf("%.3f / %.2f %%", amplification, success)
			require.InDelta(t, tt.amplification, amplification, 0.003)
			require.InDelta(t, tt.success, success, 0.4)
			require.LessOrEqual(t, amplification, 1+tt.ratio+10.0/requests)
			if tt.p == 1 {
				require.Equal(t, 1+10.0/requests, amplification)
			}
		})
	}
	_, success := send(0.1, 0.1)
	require.GreaterOrEqual(t, success, 98.5)
	_, success = send(0.2, 0.1)
	require.GreaterOrEqual(t, success, 99.8)
}

// A request that comes later to the budget than one after it does not turn time back: the silence
// between them would count twice.
func TestIdleTimeOfRequestsOutOfOrder(t *testing.T) {
	tariff := newTariff(Config{Budget: BudgetConfig{Ratio: -1, Reserve: 100}})
	b := newBudget(&tariff, 0)
	for b.draw() {
	}
	for _, at := range []time.Duration{3 * idle, idle, 3 * idle, 2 * idle, 4 * idle} {
		b.request(at)
	}
	require.InDelta(t, 4, b.left(), 1e-9)
}
