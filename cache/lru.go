package cache

import (
	"math"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// lru is the plain policy: golang-lru's list, with a size that it never reaches, so that the shard
// alone decides when to evict.
type lru struct {
	list *simplelru.LRU[uint32, struct{}]
}

func newLRU() *lru {
	list, err := simplelru.NewLRU[uint32, struct{}](math.MaxInt, nil)
	if err != nil {
		panic(err) // the size is positive
	}
	return &lru{list: list}
}

func (p *lru) add(slot, _ uint32, _ int64, _, _ bool) { p.list.Add(slot, struct{}{}) }
func (p *lru) touch(slot, _ uint32)                   { p.list.Get(slot) }
func (p *lru) reweigh(uint32, int64, int64)           {}
func (p *lru) remove(slot uint32, _ int64)            { p.list.Remove(slot) }
func (p *lru) share() float64                         { return 1 }
func (p *lru) frequency(uint32) int                   { return 0 }
func (p *lru) recall(uint32, int)                     {}

// evict need not look at keep: that is the newest.
func (p *lru) evict(int64, uint32) uint32 { slot, _, _ := p.list.RemoveOldest(); return slot }

func (p *lru) order(yield func(slot uint32)) {
	oldestFirst := p.list.Keys()
	for i := len(oldestFirst) - 1; i >= 0; i-- {
		yield(oldestFirst[i])
	}
}
