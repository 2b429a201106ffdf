package rediscache_test

import (
	"encoding/binary"
	"net/http"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// plain is what of an entry a store keeps, so that two can be compared.
func plain(e *cache.Entry) map[string]any {
	stale := time.Duration(-1)
	if !e.StaleSince.IsZero() {
		stale = e.StaleSince.Sub(e.Received)
	}
	return map[string]any{
		"echo": e.Echo, "url": e.URL, "labels": e.Labels, "mark": e.Mark, "variant": e.Variant,
		"vary": e.Vary, "pattern": e.Pattern, "status": e.Status, "header": e.Header,
		"trailer": e.Trailer, "size": e.Size, "segments": e.Segments, "loose": e.Loose, "age": e.Age,
		"requested": e.Received.Sub(e.Requested), "stale": stale, "keep": e.Keep,
	}
}

// TestC65_AnEntryIsReadAsItWasWritten: with several values, odd names and trailers.
func TestC65_AnEntryIsReadAsItWasWritten(t *testing.T) {
	text := rapid.String()
	fields := rapid.MapOfN(text, rapid.SliceOfN(text, 1, 3), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now()
		e := &cache.Entry{
			Echo: text.Draw(t, "echo"), URL: text.Draw(t, "url"), Variant: text.Draw(t, "variant"),
			Pattern: text.Draw(t, "pattern"),
			Labels:  rapid.SliceOfN(text, 1, 5).Draw(t, "labels"),
			Mark:    cache.Mark(rapid.Uint64().Draw(t, "mark")),
			Vary:    []cache.Selecting{}, Status: rapid.IntRange(200, 599).Draw(t, "status"),
			Header: http.Header(fields.Draw(t, "header")), Size: -1,
			Loose:    rapid.Bool().Draw(t, "loose"),
			Age:      time.Duration(rapid.Int64Min(0).Draw(t, "age")),
			Keep:     time.Duration(rapid.Int64Min(0).Draw(t, "keep")),
			Received: now, Requested: now.Add(-time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "took"))),
		}
		e.Header["Content-Type"] = nil // as a handler asks for none
		if trailer := fields.Draw(t, "trailer"); len(trailer) > 0 {
			e.Trailer = trailer
		}
		for range rapid.IntRange(0, 3).Draw(t, "varies") {
			e.Vary = append(e.Vary, cache.Selecting{
				Name: text.Draw(t, "name"), Value: text.Draw(t, "value"), None: rapid.Bool().Draw(t, "none"),
			})
		}
		if rapid.Bool().Draw(t, "softly") {
			e.StaleSince = now.Add(time.Duration(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "stale")))
		}
		end := int64(0)
		for range rapid.IntRange(0, 3).Draw(t, "parts") {
			s := cache.Segment{
				Offset: end + rapid.Int64Range(1, 100).Draw(t, "offset"),
				Data:   rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data"),
			}
			end = s.Offset + int64(len(s.Data))
			e.Segments = append(e.Segments, s)
			e.Size = end
		}
		key := cache.Key{1, 2, 3}
		value, err := rediscache.Encode(e, key, 7)
		require.NoError(t, err)
		got, err := rediscache.Decode(string(value), key, 7, now)
		require.NoError(t, err)
		require.Equal(t, plain(e), plain(got))
		_, err = rediscache.Decode(string(value), cache.Key{1, 2, 4}, 7, now)
		require.Error(t, err, "another key")
		_, err = rediscache.Decode(string(value), key, 8, now)
		require.Error(t, err, "another epoch")
		at := rapid.IntRange(0, len(value)-1).Draw(t, "at")
		value[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		_, err = rediscache.Decode(string(value), key, 7, now)
		require.Error(t, err, "damaged")
	})
}

func TestEncode_RefusesWhatWouldNotBeRead(t *testing.T) {
	for name, e := range map[string]*cache.Entry{
		"labels":   {Labels: make([]string, 5000)},
		"vary":     {Vary: make([]cache.Selecting, 500)},
		"segments": {Segments: make([]cache.Segment, 100)},
		"values":   {Header: http.Header{"A": make([]string, 2000)}},
	} {
		_, err := rediscache.Encode(e, cache.Key{}, 1)
		require.Error(t, err, name)
	}
	many := make(http.Header)
	for i := range 2000 {
		many[string(rune('a'+i))] = []string{"x"}
	}
	_, err := rediscache.Encode(&cache.Entry{Header: many}, cache.Key{}, 1)
	require.Error(t, err)
}

// FuzzDecode: whatever stands in Redis, with a checksum that is right, it is an entry or an error,
// and an entry is one that can be written again.
func FuzzDecode(f *testing.F) {
	now := time.Now()
	key := cache.Key{9}
	for _, e := range []*cache.Entry{
		{Status: 200, Labels: []string{"u//x/"}, Size: -1},
		{
			Echo: "echo", URL: "//x/", Labels: []string{"u//x/", "ttag"}, Mark: 5, Variant: "v", Status: 200,
			Vary:   []cache.Selecting{{Name: "Accept", Value: "*/*"}, {Name: "X", None: true}},
			Header: http.Header{"Etag": {`"1"`}, "Link": {"a", "b"}}, Trailer: http.Header{"T": {"1"}},
			Size: 10, Segments: []cache.Segment{{Offset: 2, Data: []byte("abc")}}, Age: 5, Keep: 6,
			Received: now, Requested: now.Add(-5), StaleSince: now,
		},
	} {
		value, err := rediscache.Encode(e, key, 3)
		require.NoError(f, err)
		f.Add(value[rediscache.BodyAt:])
	}
	empty, err := rediscache.Encode(&cache.Entry{}, key, 3)
	require.NoError(f, err)
	head := empty[:rediscache.BodyAt]
	f.Fuzz(func(t *testing.T, body []byte) {
		value := append(append([]byte{}, head...), body...)
		binary.LittleEndian.PutUint64(value[rediscache.SumAt:], xxhash.Sum64(value[rediscache.EpochAt:]))
		e, err := rediscache.Decode(string(value), key, 3, now)
		if err != nil {
			require.Nil(t, e)
			return
		}
		size := 0
		for _, s := range e.Segments {
			size += len(s.Data)
		}
		require.LessOrEqual(t, size+len(e.Echo)+len(e.URL), len(body))
		again, err := rediscache.Encode(e, key, 3)
		require.NoError(t, err)
		other, err := rediscache.Decode(string(again), key, 3, now)
		require.NoError(t, err)
		require.Equal(t, plain(e), plain(other))
	})
}

// FuzzParsePage: whatever answers in the place of the script.
func FuzzParsePage(f *testing.F) {
	f.Add("1f", "5", "7", "hlx", "6")
	f.Add("0", "-1", "x", "zz", "6e3")
	f.Add("1f", "5", "7", "sp", "9007199254740993")
	f.Fuzz(func(t *testing.T, epoch, floor, now, member, score string) {
		for _, reply := range [][]any{
			{"id", epoch, floor, now, int64(0), []any{member, score}},
			{"id", epoch, floor, now, int64(1), []any{member}},
			{"id", epoch, floor, int64(1), nil, nil},
			{"id", epoch}, nil,
		} {
			p, err := rediscache.ParsePage(reply, "id")
			require.True(t, (p == nil) == (err != nil))
		}
	})
}

// TestC62_AnAnswerToAnotherQuestionIsAnError: it may be older than what was purged since.
func TestC62_AnAnswerToAnotherQuestionIsAnError(t *testing.T) {
	reply := []any{"id", "1f", "5", "7", int64(0), []any{"hlx", "6"}}
	_, err := rediscache.ParsePage(reply, "id")
	require.NoError(t, err)
	_, err = rediscache.ParsePage(reply, "other")
	require.Error(t, err)
	_, err = rediscache.ParsePage(reply[:5], "id")
	require.Error(t, err)
}
