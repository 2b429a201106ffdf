package versioning_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// zipped is a handler that answers with a text in gzip.
func zipped(coding, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", coding)
		_, _ = w.Write(b.Bytes())
	})
}

// TestAnswersInGzipAreComparedByPath: clients ask for gzip, so their answers come in it, the
// copies' too. Compared as bytes they would differ at a single place, which soon counts as noise.
func TestAnswersInGzipAreComparedByPath(t *testing.T) {
	broken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte(`{"a":1}`))
	})
	for _, tt := range []struct {
		name               string
		primary, candidate http.Handler
		paths              []string
	}{
		{"both", zipped("gzip", `{"a":1,"b":2}`), zipped("x-gzip", `{"a":1,"b":3}`), []string{"b"}},
		{"one", jsonText(`{"a":1}`), zipped("gzip", `{"a":2}`), []string{"a"}},
		{"the same", jsonText(`{"a":1}`), zipped("gzip", `{"a":1}`), nil},
		{"the same, in other bytes", zipped("gzip", `{"a":1}`), zipped("gzip", `{"a": 1}`), nil},
		{"broken", jsonText(`{"a":1}`), broken, nil}, // it is JSON after all
		{"broken and not the same", jsonText(`{"a":2}`), broken, []string{"a"}},
		{"another coding", zipped("br", `{"a":1}`), zipped("br", `{"a":2}`), []string{"body"}},
		{"a bomb", jsonText(`{"a":1}`), zipped("gzip", `{"a":"`+strings.Repeat("x", 1<<20)+`"}`),
			[]string{"body"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShadow(t, shadowOf(tt.candidate))
			serve(s.Middleware(tt.primary), request("GET", "/"))
			want := versioning.ShadowDiffer
			if tt.paths == nil {
				want = versioning.ShadowMatch
			}
			require.Equal(t, map[string]uint64{string(want): 1}, idle(t, s))
			var paths []string
			for _, p := range s.Report().Paths {
				paths = append(paths, p.Path)
			}
			require.Equal(t, tt.paths, paths)
		})
	}
	// Without room for it nothing is unzipped.
	cfg := shadowOf(zipped("gzip", `{"a":2}`))
	cfg.MaxBytes = 64 << 10
	s := newShadow(t, cfg)
	serve(s.Middleware(jsonText(`{"a":1}`)), request("GET", "/"))
	require.Equal(t, map[string]uint64{"dropped": 1}, idle(t, s))
}

// TestCopiesHaveNoFieldsOfTheConnection: what Connection names ends here (RFC 9110, section 7.6.1).
func TestCopiesHaveNoFieldsOfTheConnection(t *testing.T) {
	var got http.Header
	cfg := shadowOf(nil)
	cfg.Target = &url.URL{Scheme: "http", Host: "candidate"}
	cfg.Transport = tripper(func(r *http.Request) (*http.Response, error) {
		got = r.Header
		return &http.Response{StatusCode: 204}, nil
	})
	s := newShadow(t, cfg)
	r := request("GET", "/", "X-One", "1", "X-Two", "2", "X-Three", "3", "X-Four", "4")
	r.Header["Connection"] = []string{"close, x-one ,X-TWO", "x-three"}
	serve(s.Middleware(telling), r)
	require.Equal(t, map[string]uint64{"differ": 1}, idle(t, s))
	require.Equal(t, http.Header{"X-Four": {"4"}, "Trivet-Shadow": {"1"}}, got)
}

// TestInterimAnswersOfACandidate are not its answer.
func TestInterimAnswersOfACandidate(t *testing.T) {
	s := newShadow(t, shadowOf(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(103)
		w.WriteHeader(404)
		w.WriteHeader(500)
	})))
	serve(s.Middleware(http.NotFoundHandler()), request("GET", "/"))
	idle(t, s)
	for _, p := range s.Report().Paths {
		require.NotEqual(t, "status", p.Path)
	}
}

// TestACopyOutlivesItsRequest: its context does not end with that of the client.
func TestACopyOutlivesItsRequest(t *testing.T) {
	ended, alive := make(chan struct{}), make(chan bool, 1)
	s := newShadow(t, shadowOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-ended
		alive <- r.Context().Err() == nil
	})))
	ctx, cancel := context.WithCancel(t.Context())
	serve(s.Middleware(telling), request("GET", "/").WithContext(ctx))
	cancel()
	close(ended)
	require.True(t, <-alive)
	idle(t, s)
}

// TestAConnectionThatIsTakenOver is no answer to compare.
func TestAConnectionThatIsTakenOver(t *testing.T) {
	s := newShadow(t, shadowOf(telling))
	srv := server(t, false, s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"))
			_ = conn.Close()
		}
	})))
	resp, err := srv.Client().Get(srv.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	counted := func() bool { return s.Stats().Requests["upgrade"] == 1 }
	require.Eventually(t, counted, time.Minute, time.Millisecond)
	idle(t, s)
}

// TestPathsOfOneAnswerAreBounded: an answer with any number of differences is a hundred.
func TestPathsOfOneAnswerAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, `"%d":1,`, i)
	}
	s := newShadow(t, shadowOf(jsonText(`{`+b.String()+`"x":1}`)))
	serve(s.Middleware(jsonText(`{}`)), request("GET", "/"))
	idle(t, s)
	require.LessOrEqual(t, len(s.Report().Paths), 101)
}
