package cache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// saved returns a snapshot of a cache that fill has filled.
func saved[K comparable, V any](
	t testing.TB, cfg cache.MemoryConfig[K, V], fill func(*cache.Memory[K, V]),
) []byte {
	m := newMemory(t, cfg)
	fill(m)
	var b bytes.Buffer
	require.NoError(t, m.Save(&b))
	return b.Bytes()
}

func TestSaveAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := cache.MemoryConfig[string, int]{Stale: time.Hour, ErrorTTL: func(string, error) time.Duration {
			return time.Hour
		}}
		file := saved(t, cfg, func(m *cache.Memory[string, int]) {
			m.Set("for ever", 1)
			m.SetItem("a minute", cache.MemoryItem[int]{Value: 2, TTL: time.Minute})
			m.SetItem("an hour", cache.MemoryItem[int]{Value: 3, TTL: time.Hour})
			m.SetItem("tagged", cache.MemoryItem[int]{Value: 4, Tags: []string{"t", "u"}})
			m.SetItem("soft", cache.MemoryItem[int]{Value: 5, Tags: []string{"v"}})
			m.SetItem("hard", cache.MemoryItem[int]{Value: 6, Tags: []string{"w"}})
			m.InvalidateTag("v", cache.Soft)
			m.InvalidateTag("w", cache.Hard)
			_, err := m.Load(t.Context(), "error", func(context.Context, string) (int, error) {
				return 0, cache.ErrNotFound
			})
			require.Error(t, err)
			time.Sleep(30 * time.Second)
		})
		time.Sleep(40 * time.Second) // the time between two processes counts
		m := newMemory(t, cfg)
		require.NoError(t, m.Restore(bytes.NewReader(file)))
		require.Equal(t, map[string]int{"for ever": 1, "an hour": 3, "tagged": 4}, maps.Collect(m.All()))
		require.Equal(t, 5, m.Stats().Entries)
		fail := func(context.Context, string) (int, error) { return 0, errors.New("broken") }
		for k, want := range map[string]int{"a minute": 2, "soft": 5} {
			v, err := m.Load(t.Context(), k, fail)
			require.NoError(t, err, k)
			require.Equal(t, want, v, "stale")
		}
		time.Sleep(time.Hour - 70*time.Second - 1)
		_, ok := m.Get("an hour")
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = m.Get("an hour")
		require.False(t, ok)
		m.InvalidateTag("u", cache.Hard)
		_, ok = m.Get("tagged")
		require.False(t, ok)
	})
}

func TestC69_AClockThatIsSetBackBetweenSaveAndRestoreChangesNoTTL(t *testing.T) {
	var file []byte
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour) // each bubble's clock starts at the same time: the next one is behind
		file = saved(t, cache.MemoryConfig[string, int]{}, func(m *cache.Memory[string, int]) {
			m.SetItem("k", cache.MemoryItem[int]{Value: 1, TTL: time.Minute})
		})
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		require.NoError(t, m.Restore(bytes.NewReader(file)))
		time.Sleep(time.Minute - 1)
		_, ok := m.Get("k")
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = m.Get("k")
		require.False(t, ok)
	})
}

func TestRestoreTakesTheBestOfWhatFits(t *testing.T) {
	for _, eviction := range []cache.Eviction{cache.TinyLFU, cache.LRU} {
		file := saved(t, cache.MemoryConfig[int, int]{
			MaxEntries: 1000,
			Eviction:   eviction,
		}, func(m *cache.Memory[int, int]) {
			for k := range 1000 {
				m.Set(k, k)
			}
			for range 5 {
				for k := 500; k < 550; k++ {
					m.Get(k)
				}
			}
		})
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 100, Eviction: eviction})
		require.NoError(t, m.Restore(bytes.NewReader(file)))
		require.Equal(t, 100, m.Stats().Entries)
		for k := 500; k < 550; k++ {
			_, ok := m.Get(k)
			require.True(t, ok, k)
		}
		m = newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 100, Eviction: eviction})
		require.NoError(t, m.Restore(bytes.NewReader(file)))
		for k := range 45 {
			m.Set(-1-k, k)
		}
		for k := 500; k < 550; k++ {
			_, ok := m.Get(k)
			require.True(t, ok, "the best is still the best: %d", k)
		}
	}
	// What is too heavy by now does not take the room of others.
	weigh := func(_ int, v string) int64 { return int64(len(v)) }
	file := saved(t, cache.MemoryConfig[int, string]{
		Weigher:   weigh,
		MaxWeight: 4000,
	}, func(m *cache.Memory[int, string]) {
		for k := range 10 {
			m.Set(k, "small")
		}
		for range 3 {
			m.Set(10, string(make([]byte, 900)))
			m.Get(10)
		}
	})
	m := newMemory(t, cache.MemoryConfig[int, string]{Weigher: weigh, MaxWeight: 1000})
	require.NoError(t, m.Restore(bytes.NewReader(file)))
	require.Equal(t, 10, m.Stats().Entries)
	require.Equal(t, int64(50), m.Stats().Weight)
	require.Zero(t, m.Stats().Refusals)
}

func TestRestoreDoesNotOverwriteWhatIsNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := saved(t, cache.MemoryConfig[string, int]{}, func(m *cache.Memory[string, int]) {
			m.Set("set", 1)
			m.Set("loading", 1)
			m.SetItem("tagged", cache.MemoryItem[int]{Value: 1, Tags: []string{"t"}})
			m.Set("other", 1)
		})
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		m.Set("set", 2)
		release := make(chan struct{})
		go m.Load(t.Context(), "loading", func(context.Context, string) (int, error) {
			<-release
			return 2, nil
		})
		synctest.Wait()
		// C45: invalidated while the file is read.
		r := io.MultiReader(bytes.NewReader(file[:20]), readerFunc(func([]byte) (int, error) {
			m.InvalidateTag("t", cache.Hard)
			for k := range 2000 { // so many that it may be forgotten
				m.InvalidateTag(fmt.Sprint(k), cache.Hard)
			}
			return 0, io.EOF
		}), bytes.NewReader(file[20:]))
		require.NoError(t, m.Restore(r))
		_, ok := m.Get("loading")
		require.False(t, ok)
		close(release)
		synctest.Wait()
		require.Equal(t, map[string]int{"set": 2, "loading": 2, "other": 1}, maps.Collect(m.All()))
		require.Zero(t, m.Stats().Loading)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestRestoreRefusesWhatItCannotUse(t *testing.T) {
	fill := func(m *cache.Memory[string, int]) {
		for k := range 5000 { // several frames
			m.SetItem(fmt.Sprint("key ", k), cache.MemoryItem[int]{
				Value: k,
				TTL:   time.Hour,
				Tags:  []string{"t"},
			})
		}
	}
	file := saved(t, cache.MemoryConfig[string, int]{}, fill)
	m := newMemory(t, cache.MemoryConfig[string, int]{})
	m.Set("mine", 1)
	refused := func(r io.Reader, why string) {
		t.Helper()
		err := m.Restore(r)
		require.ErrorIs(t, err, cache.ErrSnapshot)
		require.ErrorContains(t, err, why)
		require.Equal(t, map[string]int{"mine": 1}, maps.Collect(m.All()))
		require.Equal(t, 1, m.Stats().Entries)
	}
	for at := 0; at < len(file); at += 1 + at/15 { // each byte of the beginning, some of the rest
		damaged := bytes.Clone(file)
		damaged[at] ^= 1 << (at % 8)
		refused(bytes.NewReader(damaged), "")
		refused(bytes.NewReader(file[:at]), "")
	}
	damaged := bytes.Clone(file)
	damaged[len(file)/2] ^= 1
	refused(bytes.NewReader(damaged), "frame 2 is damaged")
	refused(bytes.NewReader(file[:len(file)-1]), "it ends within frame")
	refused(bytes.NewReader(nil), `it does not begin with "trivetMC"`)
	zip := []byte("PK\x03\x04 something else altogether")
	refused(bytes.NewReader(zip), `it does not begin with "trivetMC"`)
	newer := bytes.Clone(file)
	newer[9] = 3
	refused(bytes.NewReader(newer), "version 3, and this reads version 2")
	refused(bytes.NewReader(framed(nil)), "it is empty")
	refused(bytes.NewReader(framed([]byte("no gob"))), "")
	huge := append([]byte("trivetMC\x00\x02"), 0xff, 0xff, 0xff, 0xff)
	refused(bytes.NewReader(huge), "frame 1 claims 4294967295 bytes")
	others := saved(t, cache.MemoryConfig[int, int]{}, func(m *cache.Memory[int, int]) { m.Set(1, 1) })
	refused(bytes.NewReader(others), "its keys are int, the cache's are string")
	values := saved(t, cache.MemoryConfig[string, string]{}, func(m *cache.Memory[string, string]) {
		m.Set("a", "b")
	})
	refused(bytes.NewReader(values), "its values are string, the cache's are int")

	// A reader that fails is another matter.
	err := m.Restore(iotest.TimeoutReader(iotest.HalfReader(bytes.NewReader(file))))
	require.ErrorIs(t, err, iotest.ErrTimeout)
	require.NotErrorIs(t, err, cache.ErrSnapshot)
	require.NoError(t, m.Restore(iotest.OneByteReader(bytes.NewReader(file))))
	require.Equal(t, 5001, m.Stats().Entries)
}

// framed makes a snapshot, checksums and all, whose payload may be anything.
func framed(payload []byte) []byte {
	b := []byte("trivetMC\x00\x02")
	sum := uint32(0)
	for {
		n := min(len(payload), 64<<10)
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, payload[:n]...)
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), payload[:n])
		b = binary.BigEndian.AppendUint32(b, sum)
		if n == 0 {
			return b
		}
		payload = payload[n:]
	}
}

var errFull = errors.New("disk full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestSaveWhileInUse(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 1000})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 100_000 {
			m.Set(i%2000, i%2000)
		}
	}()
	for {
		var b bytes.Buffer
		require.NoError(t, m.Save(&b))
		other := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 1000})
		require.NoError(t, other.Restore(&b))
		for k, v := range other.All() {
			require.Equal(t, k, v)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// FuzzRestore: whatever the bytes, a bad file is an ErrSnapshot and changes nothing. The second
// form has right checksums, so that the bytes reach the decoder.
func FuzzRestore(f *testing.F) {
	file := saved(f, cache.MemoryConfig[string, int64]{}, func(m *cache.Memory[string, int64]) {
		m.Set("a", math.MaxInt64)
		m.SetItem("b", cache.MemoryItem[int64]{Value: 2, TTL: time.Hour, Tags: []string{"t"}})
	})
	f.Add(file, false)
	f.Add(file[14:len(file)-12], true)
	f.Add([]byte("trivetMC\x00\x02"), false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, payload bool) {
		if payload {
			b = framed(b)
		}
		m := newMemory(t, cache.MemoryConfig[string, int64]{MaxEntries: 10})
		m.Set("mine", 1)
		if err := m.Restore(bytes.NewReader(b)); err != nil {
			require.ErrorIs(t, err, cache.ErrSnapshot)
			require.Equal(t, 1, m.Stats().Entries)
		}
		v, ok := m.Get("mine")
		require.True(t, ok || m.Stats().Entries == 10)
		require.True(t, !ok || v == 1)
		require.LessOrEqual(t, m.Stats().Entries, 10)
		require.NoError(t, m.Save(io.Discard))
	})
}

// Nor does a key come back that is being loaded: Set could overwrite it in place, and then the
// load would overwrite that.
func TestRestoreLeavesAloneWhatIsBeingLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := cache.MemoryConfig[string, int]{}
		data := saved(t, cfg, func(m *cache.Memory[string, int]) { m.Set("k", 1) })
		m := newMemory(t, cfg)
		release := make(chan struct{})
		go func() {
			_, _ = m.Load(t.Context(), "k", func(context.Context, string) (int, error) {
				<-release
				return 2, nil
			})
		}()
		synctest.Wait()
		require.NoError(t, m.Restore(bytes.NewReader(data)))
		_, ok := m.Get("k")
		require.False(t, ok)
		m.Set("k", 3)
		close(release)
		synctest.Wait()
		v, _ := m.Get("k")
		require.Equal(t, 3, v)
	})
}

// What is stale when it is saved, for whatever reason, is as stale when it is restored, at every
// moment: also when nothing is left of its time, which is not for ever.
func TestWhatIsStaleIsRestoredStale(t *testing.T) {
	cfg := cache.MemoryConfig[string, int]{Stale: time.Hour}
	nothing := func(*cache.Memory[string, int]) {}
	soft := func(m *cache.Memory[string, int]) { m.InvalidateTag("t", cache.Soft) }
	for name, tt := range map[string]struct {
		after func(*cache.Memory[string, int]) // it was set, for a minute
		wait  time.Duration
	}{
		"invalidated before its end": {soft, 0},
		"saved at its end":           {func(*cache.Memory[string, int]) { time.Sleep(time.Minute) }, 0},
		"restored at its end":        {nothing, time.Minute},
		"restored a moment after it": {nothing, time.Minute + 1},
		"restored two moments after": {nothing, time.Minute + 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				file := saved(t, cfg, func(m *cache.Memory[string, int]) {
					m.SetItem("k", cache.MemoryItem[int]{Value: 7, TTL: time.Minute, Tags: []string{"t"}})
					tt.after(m)
				})
				time.Sleep(tt.wait)
				m := newMemory(t, cfg)
				require.NoError(t, m.Restore(bytes.NewReader(file)))
				_, ok := m.Get("k")
				require.False(t, ok)
				newer := func(context.Context, string) (int, error) { return 8, nil }
				v, err := m.Load(t.Context(), "k", newer)
				require.NoError(t, err)
				require.Equal(t, 7, v)
				synctest.Wait()
				v, ok = m.Get("k")
				require.True(t, ok)
				require.Equal(t, 8, v)
			})
		})
	}
}
