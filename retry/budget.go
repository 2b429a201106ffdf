package retry

import (
	"sync/atomic"
	"time"
)

const (
	token      = 1_000_000        // what a retry costs: a balance is a whole number, which atomics hold
	idle       = 10 * time.Second // a key without a request for so long gets one token back
	maxReserve = 1_000_000_000
)

// A tariff is what all budgets of a [Retrier] have in common, in millionths of a token.
type tariff struct {
	earned  int64 // by a success
	reserve int64 // of a new budget, and what idling fills up to
	most    int64 // that is saved
	hedges  int64 // that a request earns, for hedges only
}

func newTariff(c Config) tariff {
	t := tariff{
		earned:  int64(max(c.Budget.Ratio, 0) * token),
		reserve: int64(max(c.Budget.Reserve, 0)) * token,
	}
	// A balance that could not hold one token could pay for nothing.
	t.most = max(t.reserve, token)
	if c.Hedge {
		t.hedges = int64(c.HedgeRatio * token)
	}
	return t
}

// A budget pays for what a key sends beyond its requests. It is safe for concurrent use.
type budget struct {
	tariff  *tariff
	balance atomic.Int64
	hedges  atomic.Int64 // what of the balance hedges may draw
	seen    atomic.Int64 // when the last request came
}

func newBudget(t *tariff, now time.Duration) *budget {
	b := &budget{tariff: t}
	b.balance.Store(t.reserve)
	b.seen.Store(int64(now))
	return b
}

// request notes that a request has come. A key that was idle gets back what time gives it.
func (b *budget) request(now time.Duration) {
	if h := b.tariff.hedges; h > 0 {
		deposit(&b.hedges, h, b.tariff.most)
	}
	for {
		last := b.seen.Load()
		if int64(now) <= last {
			return
		}
		if b.seen.CompareAndSwap(last, int64(now)) {
			if n := (int64(now) - last) / int64(idle); n > 0 {
				deposit(&b.balance, n*token, b.tariff.reserve) // n is less than 10^9, whatever now is
			}
			return
		}
	}
}

// success notes that a request was answered well.
func (b *budget) success() { deposit(&b.balance, b.tariff.earned, b.tariff.most) }

// draw takes a token for a retry. It reports false if there is none.
func (b *budget) draw() bool { return withdraw(&b.balance) }

// giveBack returns what draw took, for a retry that was not sent.
func (b *budget) giveBack() { deposit(&b.balance, token, b.tariff.most) }

// drawHedge takes a token for a hedge: from the balance, and from the hedges' share of it.
func (b *budget) drawHedge() bool {
	if !withdraw(&b.hedges) {
		return false
	}
	if b.draw() {
		return true
	}
	deposit(&b.hedges, token, b.tariff.most)
	return false
}

// giveBackHedge returns what drawHedge took.
func (b *budget) giveBackHedge() {
	deposit(&b.hedges, token, b.tariff.most)
	b.giveBack()
}

func (b *budget) left() float64 { return float64(b.balance.Load()) / token }

// deposit adds n to v, up to most. It writes nothing to a balance that is full, as most are.
func deposit(v *atomic.Int64, n, most int64) {
	for {
		old := v.Load()
		if old >= most || n <= 0 || v.CompareAndSwap(old, min(old+n, most)) {
			return
		}
	}
}

func withdraw(v *atomic.Int64) bool {
	for {
		old := v.Load()
		if old < token {
			return false
		}
		if v.CompareAndSwap(old, old-token) {
			return true
		}
	}
}
