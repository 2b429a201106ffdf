package examples_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rs/cors"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/telemetry"
)

// A noting store keeps the fields of all that is stored.
type noting struct {
	cache.Store
	mu     sync.Mutex // guards the field below
	stored []http.Header
}

func (s *noting) Put(ctx context.Context, key cache.Key, e *cache.Entry, most int) error {
	s.mu.Lock()
	s.stored = append(s.stored, e.Header.Clone())
	s.mu.Unlock()
	return s.Store.Put(ctx, key, e, most)
}

// site wraps h in a cache, and that in what stands outside of one: a request id, CORS, a limit.
func site(t *testing.T, h http.Handler) (*httptest.Server, *noting) {
	t.Helper()
	memory, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	store := &noting{Store: memory}
	c, err := cache.New(cache.Config{Store: store})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	limiter, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{{
		Name: "origin", Rate: ratelimit.PerMinute(10).WithBurst(10), Missing: ratelimit.MissingReject,
		Key: func(r *http.Request) (string, bool) { return "of " + r.Header.Get("Origin"), true },
	}}})
	require.NoError(t, err)
	tel, err := telemetry.New(telemetry.Config{RequestID: "X-Request-Id", Public: true})
	require.NoError(t, err)
	sharing := cors.New(cors.Options{
		AllowedOrigins: []string{"https://a.example", "https://b.example"}, AllowCredentials: true,
		ExposedHeaders: []string{"X-Request-Id"},
	})
	s := httptest.NewServer(tel.Middleware(sharing.Handler(limiter.Middleware(c.Middleware(h)))))
	t.Cleanup(s.Close)
	return s, store
}

// open sends a request from a page of origin.
func open(t *testing.T, s *httptest.Server, origin string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/list", nil)
	require.NoError(t, err)
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

// outer are the fields that a cache has nothing to do with.
var outer = []string{
	"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers",
	"X-Request-Id", "Ratelimit", "Ratelimit-Policy",
}

// TestNothingOfOuterMiddlewareIsStored: what CORS, telemetry and a limit set for one client reaches
// no other, whether the response is fetched, found or shared while it is fetched.
func TestNothingOfOuterMiddlewareIsStored(t *testing.T) {
	var calls atomic.Int64
	var seen http.Header
	s, store := site(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		seen = w.Header().Clone()
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Add("Vary", "Accept-Encoding")
		w.Header().Set("X-Own", "the handler's")
		_, _ = io.WriteString(w, "list")
	}))
	ids := map[string]bool{}
	for _, tt := range []struct{ origin, allowed, limit, state string }{
		{"https://a.example", "https://a.example", `"origin";r=9`, "fwd=uri-miss"},
		{"https://b.example", "https://b.example", `"origin";r=9`, "hit"},
		{"https://a.example", "https://a.example", `"origin";r=8`, "hit"},
		{"https://evil.example", "", `"origin";r=9`, "hit"},
		{"", "", `"origin";r=9`, "hit"},
		{"https://b.example", "https://b.example", `"origin";r=8`, "hit"},
	} {
		resp := open(t, s, tt.origin)
		h := resp.Header
		require.Equal(t, "list", read(t, resp))
		require.Equal(t, "the handler's", h.Get("X-Own"))
		require.Contains(t, h.Get("Cache-Status"), "Trivet; "+tt.state)
		require.Equal(t, []string{"Origin", "Accept-Encoding"}, h.Values("Vary"))
		if tt.allowed == "" {
			require.NotContains(t, h, "Access-Control-Allow-Origin")
			require.NotContains(t, h, "Access-Control-Expose-Headers")
		} else {
			require.Equal(t, []string{tt.allowed}, h.Values("Access-Control-Allow-Origin"))
			require.Equal(t, []string{"X-Request-Id"}, h.Values("Access-Control-Expose-Headers"))
		}
		require.Len(t, h.Values("Ratelimit"), 1)
		require.Contains(t, h.Get("Ratelimit"), tt.limit, "%q", tt.origin)
		require.Len(t, h.Values("X-Request-Id"), 1)
		require.False(t, ids[h.Get("X-Request-Id")], "another's request id")
		ids[h.Get("X-Request-Id")] = true
	}
	require.EqualValues(t, 1, calls.Load())
	require.Len(t, store.stored, 1)
	for _, name := range outer {
		require.Contains(t, seen, name, "the handler's header begins as a copy")
		require.NotContains(t, store.stored[0], name)
	}
	require.Equal(t, []string{"Accept-Encoding"}, store.stored[0]["Vary"])
	require.Equal(t, "the handler's", store.stored[0].Get("X-Own"))
}

// TestWhoSharesAFetchKeepsItsOwnFields: likewise while the response is on its way.
func TestWhoSharesAFetchKeepsItsOwnFields(t *testing.T) {
	var calls atomic.Int64
	both := make(chan struct{})
	s, _ := site(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, "li")
		_ = http.NewResponseController(w).Flush()
		<-both
		_, _ = io.WriteString(w, "st")
	}))
	origins := []string{"https://a.example", "https://b.example", ""}
	var answers []*http.Response
	for _, origin := range origins {
		answers = append(answers, open(t, s, origin)) // each has its header while the body is written
	}
	close(both)
	var ids []string
	for i, resp := range answers {
		require.Equal(t, "list", read(t, resp))
		require.Equal(t, origins[i], resp.Header.Get("Access-Control-Allow-Origin"))
		require.Contains(t, resp.Header.Get("Ratelimit"), `"origin";r=9`)
		require.Equal(t, []string{"Origin"}, resp.Header.Values("Vary"))
		ids = append(ids, resp.Header.Values("X-Request-Id")...)
	}
	slices.Sort(ids)
	require.Len(t, slices.Compact(ids), len(origins))
	require.EqualValues(t, 1, calls.Load())
}
