package rediscache_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// FuzzParseMessage: what is read is what a script would have written, byte for byte, and bounded.
func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		"1:1::AAAAAAAAAAAA:kuser", "1:9007199254740992:AAAAAAAAAAAA:____________:",
		"1:2:AAAAAAAAAAAA:BBBBBBBBBBBB:a:b", "2:1::AAAAAAAAAAAA:k", "1:01::AAAAAAAAAAAA:k",
		"1:+1::AAAAAAAAAAAA:k", "1:1::AAAAAAAAAAA\n:k", ":::::", "",
		"1:1::AAAAAAAAAAAA", "1:9007199254740993::AAAAAAAAAAAA:k", "1:0::AAAAAAAAAAAA:k",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := rediscache.ParseMessage(s)
		if err != nil {
			require.Zero(t, m)
			return
		}
		require.Equal(t, s, fmt.Sprintf("1:%d:%s:%s:%s", m.Number(), m.Before(), m.ID(), m.Body()))
		require.LessOrEqual(t, len(s), 1<<14)
		require.Positive(t, m.Number())
		require.Len(t, m.ID(), 12)
	})
}

// FuzzParseNotice: a notice that is read is one that Key or Tag would have sent.
func FuzzParseNotice(f *testing.F) {
	for _, s := range []string{
		"kuser", "k", "sprices", "hprices", "", "x", "k\x00\xff", strings.Repeat("k", 8194),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := rediscache.ParseNotice(s)
		if err != nil {
			require.Zero(t, n)
			return
		}
		switch n.Kind {
		case rediscache.NoticeKey:
			require.Equal(t, s, "k"+n.Key)
		case rediscache.NoticeTag:
			require.Equal(t, s, map[cache.Invalidation]string{cache.Soft: "s", cache.Hard: "h"}[n.How]+n.Tag)
		default:
			require.Fail(t, "not a notice", "%+v", n)
		}
		require.LessOrEqual(t, len(n.Key)+len(n.Tag), 8<<10)
	})
}

// TestHistoriesTellWhatIsMissing: against a naive model in which all messages that were ever said
// are known. Messages are lost, servers forget and fall back, and questions are answered late.
func TestHistoriesTellWhatIsMissing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h rediscache.History
		number, made := uint64(rapid.IntRange(0, 3).Draw(rt, "number")), 0
		newID := func() string { made++; return fmt.Sprintf("%012d", made) }
		id := newID()
		heard := map[string]bool{} // ids, since the last gap
		complete, any := true, false
		say := func() (m rediscache.Message) {
			before := id
			number++
			id = newID()
			return rediscache.NewMessage(number, before, id)
		}
		hear := func(m rediscache.Message) {
			follows := h.Next(m)
			require.Equal(rt, complete || !any, follows)
			if !follows {
				clear(heard)
			}
			complete, any = true, true
			heard[m.Before()], heard[m.ID()] = true, true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"hear": func(rt *rapid.T) {
				for range rapid.SampledFrom([]int{1, 1, 2, 700, 1100}).Draw(rt, "n") {
					hear(say())
				}
			},
			"lose": func(*rapid.T) { say(); complete = false },
			"forget": func(rt *rapid.T) {
				number = number * uint64(rapid.IntRange(0, 1).Draw(rt, "part"))
				id = newID()
				complete = false
			},
			"ask": func(rt *rapid.T) {
				relation := h.Compare(number, id)
				switch {
				case !any:
					require.Equal(rt, rediscache.Known, relation)
					any, complete = true, true
					heard[id] = true
				case complete:
					require.Equal(rt, rediscache.Known, relation)
				default:
					require.NotEqual(rt, rediscache.Known, relation)
				}
			},
			"ask late": func(rt *rapid.T) {
				asked, mark := number, id
				n := rapid.SampledFrom([]int{1, 5, 1000}).Draw(rt, "n")
				for range n {
					hear(say())
				}
				relation := h.Compare(asked, mark)
				if heard[mark] {
					require.Equal(rt, rediscache.Known, relation)
				} else {
					require.NotEqual(rt, rediscache.Known, relation)
				}
			},
		})
	})
}

// TestANumberThatJumps is a gap, whatever the message says of the one before.
func TestANumberThatJumps(t *testing.T) {
	var h rediscache.History
	require.True(t, h.Next(rediscache.NewMessage(5, "before", "five")))
	require.False(t, h.Next(rediscache.NewMessage(9, "five", "nine")))
	require.True(t, h.Next(rediscache.NewMessage(10, "nine", "ten")))
	require.False(t, h.Next(rediscache.NewMessage(11, "other", "eleven")))
}
