//go:build !race

// Snapshots of many types. Each type of key and value is a Memory that the compiler makes anew, and
// each test has one goroutine: they are compiled once, without the race detector.

package cache_test

import (
	"bytes"
	"io"
	"maps"
	"math/rand"
	randv2 "math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func savedAs[K comparable, V any](t *testing.T, k K, v V) []byte {
	return saved(t, cache.MemoryConfig[K, V]{}, func(m *cache.Memory[K, V]) { m.Set(k, v) })
}

// refusedAs expects a cache of these types to refuse the snapshot, and to say so in these words.
func refusedAs[K comparable, V any](t *testing.T, file []byte, want string) {
	t.Helper()
	m := newMemory(t, cache.MemoryConfig[K, V]{})
	err := m.Restore(bytes.NewReader(file))
	require.ErrorIs(t, err, cache.ErrSnapshot)
	require.ErrorContains(t, err, want)
	require.Zero(t, m.Stats().Entries)
}

// Two releases of a program have types of the same names, as functions have here. Gob matches their
// fields by name and kind, and says nothing of those that it does not find.
func TestC72_ASnapshotOfTypesThatHaveChangedIsRefused(t *testing.T) {
	type price struct {
		Cents    int
		Currency string
	}
	type key struct {
		ID     int
		Region string
	}
	type part struct{ N int }
	type order struct {
		Parts map[string][]*part
		Next  *order
	}
	prices := savedAs(t, key{1, "eu"}, price{1999, "EUR"})
	orders := savedAs(t, "k", order{Parts: map[string][]*part{"a": {{1}}}})
	t.Run("a field of the value is renamed", func(t *testing.T) {
		type price struct {
			NetCents int
			Currency string
		}
		refusedAs[key, price](t, prices, "it has value.Cents int where the cache has value.NetCents int")
	})
	t.Run("a field of the key is renamed", func(t *testing.T) {
		type key struct {
			ID     int
			Market string
		}
		refusedAs[key, price](t, prices, "it has key.Region string where the cache has key.Market string")
	})
	t.Run("a field has another kind", func(t *testing.T) {
		type price struct {
			Cents    int64
			Currency string
		}
		refusedAs[key, price](t, prices, "it has value.Cents int where the cache has value.Cents int64")
	})
	t.Run("a field is added", func(t *testing.T) {
		type price struct {
			Cents    int
			Currency string
			Net      bool
		}
		refusedAs[key, price](t, prices, "it has nothing where the cache has value.Net bool")
	})
	t.Run("a field is removed", func(t *testing.T) {
		type price struct{ Cents int }
		refusedAs[key, price](t, prices, "it has value.Currency string where the cache has nothing")
	})
	t.Run("a field has another tag", func(t *testing.T) {
		type price struct {
			Cents    int `json:"cents,string"`
			Currency string
		}
		refusedAs[key, price](t, prices, "value.Cents int `json:\"cents,string\"`")
	})
	t.Run("a field deep within is renamed", func(t *testing.T) {
		type part struct{ Number int }
		type order struct {
			Parts map[string][]*part
			Next  *order
		}
		refusedAs[string, order](t, orders,
			"it has value.Parts[][][].N int where the cache has value.Parts[][][].Number int")
	})
	t.Run("a key deep within has another kind", func(t *testing.T) {
		type order struct {
			Parts map[int][]*part
			Next  *order
		}
		refusedAs[string, order](t, orders,
			"value.Parts[key] string where the cache has value.Parts[key] int")
	})
	t.Run("an array has another length", func(t *testing.T) {
		refusedAs[string, [3]int](t, savedAs(t, "k", [2]int{}), "")
		type key struct{ A [2]int }
		file := savedAs(t, key{}, 1)
		func() {
			type key struct{ A [3]int }
			refusedAs[key, int](t, file, "key.A array of 2 where the cache has key.A array of 3")
		}()
	})
	t.Run("a named number is another", func(t *testing.T) {
		type cents int
		file := savedAs(t, "k", []cents{1})
		func() {
			type cents uint
			refusedAs[string, []cents](t, file, "value[] int ")
		}()
	})
	t.Run("the package is another", func(t *testing.T) {
		file := saved(t, cache.MemoryConfig[string, *rand.Rand]{}, func(*cache.Memory[string, *rand.Rand]) {})
		refusedAs[string, *randv2.Rand](t, file,
			"value[] struct math/rand.Rand where the cache has value[] struct math/rand/v2.Rand")
	})
	t.Run("it encodes itself, or no longer", func(t *testing.T) {
		type when struct{ At time.Time }
		file := savedAs(t, "k", when{time.Unix(1, 0)})
		func() {
			type when struct{ At struct{ Wall uint64 } }
			refusedAs[string, when](t, file, "value.At struct time.Time that encodes itself where")
		}()
	})
	t.Run("nothing", func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[key, price]{})
		require.NoError(t, m.Restore(bytes.NewReader(prices)))
		v, ok := m.Get(key{1, "eu"})
		require.True(t, ok)
		require.Equal(t, price{1999, "EUR"}, v)
		o := newMemory(t, cache.MemoryConfig[string, order]{})
		require.NoError(t, o.Restore(bytes.NewReader(orders)))
		require.Equal(t, 1, o.Stats().Entries)
	})
	t.Run("what is not saved", func(t *testing.T) {
		type price struct {
			Cents    int
			Currency string
			net      bool
		}
		m := newMemory(t, cache.MemoryConfig[key, price]{})
		require.NoError(t, m.Restore(bytes.NewReader(prices)))
		v, ok := m.Get(key{1, "eu"})
		require.True(t, ok)
		require.Equal(t, price{1999, "EUR", false}, v)
	})
}

// A change of meaning is the user's to tell.
func TestC72_ASnapshotOfAnotherSchemaIsRefused(t *testing.T) {
	for _, schema := range []string{"", "prices in cents"} {
		file := saved(t, cache.MemoryConfig[string, int]{Schema: schema}, func(m *cache.Memory[string, int]) {
			m.Set("tea", 1200)
		})
		m := newMemory(t, cache.MemoryConfig[string, int]{Schema: "prices in euros"})
		err := m.Restore(bytes.NewReader(file))
		require.ErrorIs(t, err, cache.ErrSnapshot)
		require.ErrorContains(t, err, `its schema is "`+schema+`", the cache's is "prices in euros"`)
		require.Zero(t, m.Stats().Entries)
		m = newMemory(t, cache.MemoryConfig[string, int]{Schema: schema})
		require.NoError(t, m.Restore(bytes.NewReader(file)))
		require.Equal(t, 1, m.Stats().Entries)
	}
}

// Snapshots of the first version did not tell the structure of their types.
func TestC72_ASnapshotThatDoesNotTellItsTypesIsRefused(t *testing.T) {
	file, err := os.ReadFile("testdata/memory-v1.snapshot")
	require.NoError(t, err)
	refusedAs[string, snapshotValue](t, file, "version 1, and this reads version 2")
}

// Gob says nothing when two keys become one, or a pointer to zero becomes nil: a cache that was
// restored would return another's value, or nil for what was not.
func TestSaveRefusesWhatWouldComeBackAsSomethingElse(t *testing.T) {
	type key struct{ A, _ int }
	type nested struct{ Keys [2]key }
	type pointing struct{ P *int }
	require.EqualError(t, newMemory(t, cache.MemoryConfig[key, int]{}).Save(io.Discard),
		"cache: save: keys of type cache_test.key cannot be encoded")
	require.Error(t, newMemory(t, cache.MemoryConfig[nested, int]{}).Save(io.Discard))
	require.Error(t, newMemory(t, cache.MemoryConfig[pointing, int]{}).Save(io.Discard))
	require.Error(t, newMemory(t, cache.MemoryConfig[*int, int]{}).Save(io.Discard))
	require.EqualError(t, newMemory(t, cache.MemoryConfig[string, *int]{}).Save(io.Discard),
		"cache: save: values of type *int cannot be encoded")
	require.Error(t, newMemory(t, cache.MemoryConfig[string, **key]{}).Save(io.Discard))

	type address struct {
		netip.AddrPort // encodes itself, whatever its fields
	}
	a := netip.MustParseAddrPort("[::1]:80")
	cfg := cache.MemoryConfig[address, *key]{}
	data := saved(t, cfg, func(m *cache.Memory[address, *key]) { m.Set(address{a}, &key{}) })
	m := newMemory(t, cfg)
	require.NoError(t, m.Restore(bytes.NewReader(data)))
	v, ok := m.Get(address{a})
	require.True(t, ok)
	require.Equal(t, &key{}, v, "a pointer to a struct is kept, be it zero")
}

func TestSaveReportsWhatWentWrong(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int]{})
	m.Set("k", 1)
	require.ErrorIs(t, m.Save(failing{}), errFull)
	funcs := newMemory(t, cache.MemoryConfig[string, func()]{})
	funcs.Set("k", func() {})
	require.EqualError(t, funcs.Save(io.Discard), "cache: save: values of type func() cannot be encoded")
	chans := newMemory(t, cache.MemoryConfig[chan int, string]{})
	require.EqualError(t, chans.Save(io.Discard), "cache: save: keys of type chan int cannot be encoded")
	hidden := newMemory(t, cache.MemoryConfig[string, struct{ n int }]{})
	hidden.Set("k", struct{ n int }{1})
	require.ErrorContains(t, hidden.Save(io.Discard), "cache: save: gob: ")
}

type snapshotValue struct {
	Name  string
	Parts []int
}

// What an earlier build wrote is read by every later one that has the same version of the format.
func TestRestoreReadsWhatAnEarlierBuildWrote(t *testing.T) {
	file, err := os.Open("testdata/memory-v2.snapshot")
	require.NoError(t, err)
	defer file.Close()
	m := newMemory(t, cache.MemoryConfig[string, snapshotValue]{})
	require.NoError(t, m.Restore(file))
	require.Equal(t, map[string]snapshotValue{
		"plain":  {Name: "a", Parts: []int{1, 2}},
		"tagged": {Name: "b"},
	},
		maps.Collect(m.All()))
	m.InvalidateTag("t", cache.Hard)
	_, ok := m.Get("tagged")
	require.False(t, ok)
}
