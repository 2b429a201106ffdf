package cache_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestHeadersAnswerConditions(t *testing.T) {
	const (
		before = "Sun, 06 Nov 1994 08:49:36 GMT"
		then   = "Sun, 06 Nov 1994 08:49:37 GMT"
		after  = "Sunday, 06-Nov-94 08:49:38 GMT" // an obsolete form
	)
	for name, test := range map[string]struct {
		method  string
		request []string
		own     []string // fields of the handler, beside a Last-Modified of then
		want    int
	}{
		"none":          {"GET", nil, []string{"ETag", `"1"`}, 200},
		"the tag":       {"GET", []string{"If-None-Match", `"1"`}, []string{"ETag", `"1"`}, 304},
		"the tag, HEAD": {"HEAD", []string{"If-None-Match", `"1"`}, []string{"ETag", `"1"`}, 304},
		"the tag, QUERY": {
			"QUERY", []string{"If-None-Match", `"1"`}, []string{"ETag", `"1"`}, 304,
		},
		"another tag": {"GET", []string{"If-None-Match", `"2"`}, []string{"ETag", `"1"`}, 200},
		"a list": {
			"GET", []string{"If-None-Match", `"2",, W/"3" ,"1"`}, []string{"ETag", `"1"`}, 304,
		},
		"several lines": {
			"GET", []string{"If-None-Match", `"2"`, "If-None-Match", `"1"`}, []string{"ETag", `"1"`}, 304,
		},
		"weak for strong": {
			"GET", []string{"If-None-Match", `W/"1"`}, []string{"ETag", `"1"`}, 304,
		},
		"strong for weak": {
			"GET", []string{"If-None-Match", `"1"`}, []string{"ETag", `W/"1"`}, 304,
		},
		"any": {"GET", []string{"If-None-Match", "*"}, []string{"ETag", `"1"`}, 304},
		"a comma in the tag": {
			"GET", []string{"If-None-Match", `"a,b"`}, []string{"ETag", `"a,b"`}, 304,
		},
		"a part of the tag": {"GET", []string{"If-None-Match", `"1`}, []string{"ETag", `"1"`}, 200},
		"no quotes":         {"GET", []string{"If-None-Match", `1`}, []string{"ETag", `1`}, 200},
		"an empty tag":      {"GET", []string{"If-None-Match", `""`}, []string{"ETag", `""`}, 304},
		"no tag to compare": {
			"GET", []string{"If-None-Match", `"1"`}, []string{"Cache-Control", "no-store"}, 200,
		},
		"not modified":        {"GET", []string{"If-Modified-Since", then}, nil, 304},
		"not modified, later": {"GET", []string{"If-Modified-Since", after}, nil, 304},
		"modified":            {"GET", []string{"If-Modified-Since", before}, nil, 200},
		"no date":             {"GET", []string{"If-Modified-Since", "yesterday"}, nil, 200},
		"two dates": {
			"GET", []string{"If-Modified-Since", then, "If-Modified-Since", then}, nil, 200,
		},
		"a tag beats a date": {
			"GET", []string{"If-None-Match", `"2"`, "If-Modified-Since", then}, []string{"ETag", `"1"`},
			200,
		},
		"a date does not suit QUERY": {"QUERY", []string{"If-Modified-Since", then}, nil, 200},

		"If-Match":            {"GET", []string{"If-Match", `"1"`}, []string{"ETag", `"1"`}, 200},
		"If-Match of another": {"GET", []string{"If-Match", `"2"`}, []string{"ETag", `"1"`}, 412},
		"If-Match of any":     {"GET", []string{"If-Match", "*"}, []string{"ETag", `"1"`}, 200},
		"If-Match, weak": {
			"GET", []string{"If-Match", `W/"1"`}, []string{"ETag", `"1"`}, 412,
		},
		"If-Match of weak": {
			"GET", []string{"If-Match", `"1"`}, []string{"ETag", `W/"1"`}, 412,
		},
		"If-Match comes first": {
			"GET", []string{"If-Match", `"2"`, "If-None-Match", `"1"`}, []string{"ETag", `"1"`}, 412,
		},
		"If-None-Match comes after it": {
			"GET", []string{"If-Match", `"1"`, "If-None-Match", `"1"`}, []string{"ETag", `"1"`}, 304,
		},
		"unmodified":                    {"GET", []string{"If-Unmodified-Since", then}, nil, 200},
		"If-Unmodified-Since, modified": {"GET", []string{"If-Unmodified-Since", before}, nil, 412},
		"If-Match beats its date": {
			"GET", []string{"If-Match", `"1"`, "If-Unmodified-Since", before}, []string{"ETag", `"1"`},
			200,
		},
		"conditions of an error": {
			"GET", []string{"If-Match", `"2"`}, []string{"Status", "500"}, 500,
		},
		"conditions of a part": {
			"GET", []string{"If-None-Match", `"1"`}, []string{"ETag", `"1"`, "Status", "206"}, 304,
		},
		"conditions of a handler's own 304": {
			"GET", []string{"If-Match", `"2"`}, []string{"ETag", `"1"`, "Status", "304"}, 304,
		},
	} {
		t.Run(name, func(t *testing.T) {
			status := 200
			fields := []string{"Last-Modified", then, "Content-Type", "text/plain", "Vary", "Accept",
				"Content-Location", "/tea", "X-Tea", "green"}
			for i := 0; i < len(test.own); i += 2 {
				if test.own[i] == "Status" {
					status = map[string]int{"206": 206, "304": 304, "500": 500}[test.own[i+1]]
					continue
				}
				fields = append(fields, test.own[i:i+2]...)
			}
			body := "tea"
			if status == 304 {
				body = ""
			}
			handler := newHeaders(t, cache.HeadersConfig{}).Middleware(send(status, body, fields...))
			w := answerTo(handler, test.method, test.request...)
			require.Equal(t, test.want, w.Code)
			switch w.Code {
			case 304:
				require.Empty(t, w.Body.String())
				// RFC 9110, section 15.4.5.
				require.Equal(t, "Accept", w.Header().Get("Vary"))
				require.Equal(t, "/tea", w.Header().Get("Content-Location"))
				if status != 304 { // its fields are the handler's affair
					require.Empty(t, w.Header().Get("Content-Type"))
					require.Equal(t, w.Header().Get("ETag") != "", w.Header().Get("Last-Modified") == "")
				}
			case 412:
				require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
				require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
				require.Empty(t, w.Header().Get("ETag"))
			default:
				require.Equal(t, body, w.Body.String())
				require.Equal(t, "text/plain", w.Header().Get("Content-Type"))
			}
			if w.Code != 412 {
				require.Equal(t, "green", w.Header().Get("X-Tea"))
			}
		})
	}
}

// A 304 tells freshness as the 200 would.
func TestHeadersTellFreshnessWithA304(t *testing.T) {
	handler := newHeaders(t, cache.HeadersConfig{
		TTL: 60e9, SharedTTL: 120e9, Vary: []string{"Origin"},
		Tags: func(*http.Request) []string { return []string{"tea"} },
	}).Middleware(send(200, "tea"))
	full := answer(handler).Header()
	again := answer(handler, "If-None-Match", full.Get("ETag"))
	require.Equal(t, http.StatusNotModified, again.Code)
	full.Del("Content-Type")
	full.Del("Content-Length")
	require.Equal(t, full, again.Header())
}

func FuzzHeadersConditions(f *testing.F) {
	f.Add(`"1"`, `"2", W/"1"`)
	f.Add(`W/"1"`, `*`)
	f.Add(`"`, `"`)
	f.Add(`"1"`, `"1`)
	f.Fuzz(func(t *testing.T, tag, list string) {
		if strings.ContainsAny(tag+list, "\r\n") {
			return // no header has them
		}
		headers := newHeaders(t, cache.HeadersConfig{})
		w := answer(headers.Middleware(send(200, "tea", "ETag", tag)), "If-None-Match", list)
		if w.Code == http.StatusNotModified {
			opaque := strings.TrimPrefix(tag, "W/")
			require.True(t, strings.Contains(list, opaque) || strings.Contains(list, "*"))
		} else {
			require.Equal(t, "tea", w.Body.String())
		}
	})
}

func FuzzHeadersCap(f *testing.F) {
	f.Add("public, max-age=3600")
	f.Add(`a="max-age=99, \"", s-maxage="99"`)
	f.Add("max-age=99999999999999999999999")
	f.Fuzz(func(t *testing.T, line string) {
		headers := newHeaders(t, cache.HeadersConfig{Max: 60e9})
		handler := headers.Middleware(send(200, "", "Cache-Control", line))
		once := answer(handler).Header()["Cache-Control"]
		require.Len(t, once, 1)
		again := answer(headers.Middleware(send(200, "", "Cache-Control", once[0]))).Header()["Cache-Control"]
		require.Equal(t, once, again, "what is capped stays")
		if !strings.Contains(strings.ToLower(line), "age") {
			require.Equal(t, line, once[0])
		}
		require.Equal(t, strings.Count(line, ","), strings.Count(once[0], ","))
	})
}
