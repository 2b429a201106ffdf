package rediscache

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// taught returns a ledger that has learned pages of one epoch with the same question, as calls at
// the same time do, and how often it told of a purge.
func taught(t *testing.T, pages ...*page) (l *ledger, told map[string]int) {
	l, told = new(ledger), map[string]int{}
	l.init()
	l.told = func(p cache.FarPurge) { told[p.Label]++ }
	v := view{generation: 1, epoch: 7}
	require.NoError(t, l.learn(view{}, &page{epoch: 7, floor: 100, now: 1000}))
	for _, p := range pages {
		p.epoch, p.now = 7, 1000
		require.NoError(t, l.learn(v, p))
	}
	return l, told
}

func of(label string, how cache.Invalidation, clock uint64) purged {
	return purged{purge: cache.Purge{Label: label, How: how}, clock: clock}
}

// What the server has forgotten is told once, and what is fetched from then on is not older.
func TestALedgerIsToldOnceWhatIsForgotten(t *testing.T) {
	l, told := taught(t, &page{floor: 500}, &page{floor: 500}, &page{floor: 500})
	require.Equal(t, map[string]int{"": 2}, told, "of the epoch, and of the floor")
	mark, _ := l.now()
	require.EqualValues(t, 500, mark)
	how, _ := l.of(&cache.Entry{Mark: mark})
	require.Zero(t, how)
}

// Of two replies at the same time, the one with less to say changes nothing.
func TestALedgerLearnsEachPurgeOnce(t *testing.T) {
	first, second := of("a", cache.Hard, 110), of("b", cache.Hard, 120)
	l, told := taught(t,
		&page{floor: 100, purges: []purged{first, second}}, &page{floor: 100, purges: []purged{first}})
	require.Equal(t, map[string]int{"": 1, "a": 1, "b": 1}, told)
	mark, _ := l.now()
	require.EqualValues(t, 120, mark)
}

// A soft purge does not make a hard one before it forgotten.
func TestALedgerRemembersAHardPurgeBeforeASoftOne(t *testing.T) {
	l, _ := taught(t, &page{floor: 100, purges: []purged{
		of("a", cache.Hard, 110), of("a", cache.Soft, 120), of("a", cache.Soft, 130),
	}})
	for mark, want := range map[cache.Mark]cache.Invalidation{
		105: cache.Hard, 110: cache.Soft, 125: cache.Soft, 130: 0,
	} {
		how, _ := l.of(&cache.Entry{Mark: mark, Labels: []string{"a"}})
		require.Equal(t, want, how, mark)
	}
}
