package cache_test

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A ranged origin serves ranges of content as net/http does.
type ranged struct {
	counted
	content, tag string
	asked        []string
}

func newRanged(content, tag string) *ranged {
	o := &ranged{content: content, tag: tag}
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		o.asked = append(o.asked, r.Header.Get("Range"))
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Type", "text/plain")
		if o.tag != "" {
			w.Header().Set("Etag", o.tag)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(o.content))
	}
	return o
}

const digits = "0123456789"

func TestRange_IsServedFromTheWhole(t *testing.T) {
	origin := newRanged(digits, `"1"`)
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/")
	for _, test := range []struct {
		field, body, contentRange string
		status                    int
	}{
		{"bytes=0-1", "01", "bytes 0-1/10", 206},
		{"bytes=8-", "89", "bytes 8-9/10", 206},
		{"bytes=-3", "789", "bytes 7-9/10", 206},
		{"bytes=-99", digits, "bytes 0-9/10", 206},
		{"bytes=5-99", "56789", "bytes 5-9/10", 206},
		{"bytes=9-9", "9", "bytes 9-9/10", 206},
		{"Bytes = 1-1", "1", "bytes 1-1/10", 206},
		{"bytes=10-", "", "bytes */10", 416},
		{"bytes=-0", "", "bytes */10", 416},
		{"bytes=5-4", digits, "", 200},
		{"bytes=", digits, "", 200},
		{"lines=0-1", digits, "", 200},
		{"bytes=a-b", digits, "", 200},
	} {
		resp := get(h, "/", "Range", test.field)
		require.Equal(t, test.status, resp.StatusCode, test.field)
		require.Equal(t, test.body, text(t, resp), test.field)
		require.Equal(t, test.contentRange, resp.Header.Get("Content-Range"), test.field)
		require.Equal(t, fmt.Sprint(len(test.body)), resp.Header.Get("Content-Length"), test.field)
	}
	require.EqualValues(t, 1, origin.calls.Load())
}

func TestRange_SeveralArePartsOfOneBody(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(newRanged(digits, `"1"`))
	get(h, "/")
	resp := get(h, "/", "Range", "bytes=0-1, 4-5, -1, 90-")
	require.Equal(t, http.StatusPartialContent, resp.StatusCode)
	body := text(t, resp)
	require.Equal(t, fmt.Sprint(len(body)), resp.Header.Get("Content-Length"))
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/byteranges", kind)
	reader := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for _, want := range []struct{ contentRange, body string }{{"bytes 0-1/10", "01"}, {"bytes 4-5/10",
		"45"}, {"bytes 9-9/10", "9"}} {
		part, err := reader.NextPart()
		require.NoError(t, err)
		b, err := io.ReadAll(part)
		require.NoError(t, err)
		require.Equal(t, want.body, string(b))
		require.Equal(t, want.contentRange, part.Header.Get("Content-Range"))
		require.Equal(t, "text/plain", part.Header.Get("Content-Type"))
	}
	_, err = reader.NextPart()
	require.ErrorIs(t, err, io.EOF)
}

func TestC46_RangesThatAskTooMuchAreIgnored(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(newRanged(digits, `"1"`))
	get(h, "/")
	for _, field := range []string{
		"bytes=0-,0-,0-", "bytes=" + strings.Repeat("0-0,", 17), "bytes=" + strings.Repeat("1-,", 1000),
		"bytes=-9223372036854775808,-9223372036854775808",
	} {
		resp := get(h, "/", "Range", field)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, digits, text(t, resp))
	}
	resp := get(h, "/", "Range", "bytes=-9223372036854775808")
	require.Equal(t, digits, text(t, resp))
	require.Equal(t, http.StatusRequestedRangeNotSatisfiable, get(h, "/", "Range",
		"bytes=99999999999999999999-").StatusCode)
	require.Equal(t, "9", text(t, get(h, "/", "Range", "bytes=9-99999999999999999999")))
}

func TestC48_IfRange(t *testing.T) {
	for _, test := range []struct {
		tag, condition string
		status         int
	}{
		{`"1"`, `"1"`, 206}, {`"1"`, `"2"`, 200}, {`W/"1"`, `W/"1"`, 200}, {`"1"`, `W/"1"`, 200},
		{`"1"`, ago(0), 200}, {`"1"`, "x", 200},
	} {
		h := newCache(t, cache.Config{}).Middleware(newRanged(digits, test.tag))
		get(h, "/")
		require.Equal(t, test.status, get(h, "/", "Range", "bytes=0-1", "If-Range",
			test.condition).StatusCode, test)
	}
}

func TestC47_APartIsStoredAsAPart(t *testing.T) {
	origin := newRanged(digits, `"1"`)
	h := newCache(t, cache.Config{}).Middleware(origin)
	require.Equal(t, "45678", text(t, get(h, "/", "Range", "bytes=4-8")))
	require.Equal(t, []string{"bytes=4-8"}, origin.asked, "the origin is asked for no more")
	for field, body := range map[string]string{"bytes=4-8": "45678", "bytes=5-6": "56", "bytes=8-8": "8"} {
		resp := get(h, "/", "Range", field)
		require.Equal(t, http.StatusPartialContent, resp.StatusCode)
		require.Equal(t, body, text(t, resp))
	}
	require.EqualValues(t, 1, origin.calls.Load())
	require.Equal(t, "9", text(t, get(h, "/", "Range", "bytes=9-9")))
	require.Equal(t, digits, text(t, get(h, "/")))
	require.EqualValues(t, 3, origin.calls.Load())
}

func TestRange_PartsOfOneVersionAreJoinedAndCompleted(t *testing.T) {
	origin := newRanged(digits, `"1"`)
	h := newCache(t, cache.Config{Detail: true}).Middleware(origin)
	get(h, "/", "Range", "bytes=0-3")
	get(h, "/", "Range", "bytes=4-5")
	require.Equal(t, "2345", text(t, get(h, "/", "Range", "bytes=2-5")))
	require.EqualValues(t, 2, origin.calls.Load())
	resp := get(h, "/")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, digits, text(t, resp))
	require.Equal(t, "10", resp.Header.Get("Content-Length"))
	require.Equal(t, "Trivet; fwd=partial; stored; detail=partial", resp.Header.Get("Cache-Status"))
	require.Equal(t, "bytes=6-", origin.asked[2])
	require.Equal(t, digits, text(t, get(h, "/")))
	require.EqualValues(t, 3, origin.calls.Load())
}

func TestC49_PartsOfDifferentVersionsAreNeverJoined(t *testing.T) {
	for name, tags := range map[string][2]string{"strong": {`"1"`, `"2"`}, "weak": {`W/"1"`, `W/"1"`},
		"none": {"", ""}} {
		t.Run(name, func(t *testing.T) {
			origin := newRanged(digits, tags[0])
			h := newCache(t, cache.Config{}).Middleware(origin)
			get(h, "/", "Range", "bytes=0-3")
			origin.content, origin.tag = "abcdefghij", tags[1]
			require.Equal(t, "efghij", text(t, get(h, "/", "Range", "bytes=4-9")))
			require.Equal(t, "abcdefghij", text(t, get(h, "/")))
			require.Equal(t, "abcdefghij", text(t, get(h, "/")))
		})
	}
}

func TestRange_OfAStaleWholeIsAnsweredByValidatingIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newRanged(digits, `"1"`)
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(time.Minute)
		resp := get(h, "/", "Range", "bytes=2-3")
		require.Equal(t, http.StatusPartialContent, resp.StatusCode)
		require.Equal(t, "23", text(t, resp))
		require.Equal(t, digits, text(t, get(h, "/")))
		require.EqualValues(t, 2, origin.calls.Load())
	})
}

func TestRange_AWholeThatComesForARangeIsStoredWhole(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.Copy(w, bytes.NewReader([]byte(digits)))
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	resp := get(h, "/", "Range", "bytes=0-1")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, digits, text(t, resp))
	require.Equal(t, "01", text(t, get(h, "/", "Range", "bytes=0-1")))
	require.EqualValues(t, 1, origin.calls.Load())
}

// The parts of a body are together no more than a body may be, and no more than some number.
func TestC47_PartsTogetherAreBounded(t *testing.T) {
	for name, test := range map[string]struct{ most, length, step int }{
		"bytes": {1000, 1000, 1000}, "number": {100_000, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.Repeat("0123456789", 1000)
			store := newSpyStore(t, cache.MemoryStoreConfig{})
			h := newCache(t, cache.Config{Store: store, MaxObject: int64(test.most)}).Middleware(
				newRanged(body, `"1"`))
			for first := 0; first < 200*test.step && first < len(body); first += test.step {
				last := first + test.length - 1
				require.Equal(t, body[first:last+1],
					text(t, get(h, "/", "Range", fmt.Sprintf("bytes=%d-%d", first, last))))
			}
			for _, e := range store.stored() {
				size := 0
				for _, s := range e.Segments {
					size += len(s.Data)
				}
				require.LessOrEqual(t, size, test.most)
				require.LessOrEqual(t, len(e.Segments), 64)
			}
		})
	}
}

// As many ranges as there may be are answered, and such that together are as much as the whole.
func TestC46_RangesThatJustDoNotAskTooMuch(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(newRanged(strings.Repeat(digits, 10), `"1"`))
	get(h, "/")
	for field, status := range map[string]int{
		"bytes=" + strings.Repeat("0-0,", 15) + "0-0": 206,
		"bytes=" + strings.Repeat("0-0,", 16) + "0-0": 200,
		"bytes=0-49,50-99":                            206,
		"bytes=0-50,50-99":                            200,
	} {
		require.Equal(t, status, get(h, "/", "Range", field).StatusCode, field)
	}
}

// Parts that say that the whole has different sizes are not of one version, whatever their tag
// says.
func TestC49_PartsOfWholesOfDifferentSizesAreNeverJoined(t *testing.T) {
	origin := newRanged(digits, `"1"`)
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/", "Range", "bytes=0-3")
	origin.content = "abcdefghijkl"
	get(h, "/", "Range", "bytes=4-7")
	require.Equal(t, "cdef", text(t, get(h, "/", "Range", "bytes=2-5")))
	require.EqualValues(t, 3, origin.calls.Load())
}
