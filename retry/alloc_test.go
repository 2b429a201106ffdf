//go:build !race

package retry_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// A request that succeeds costs two allocations beyond the copy that every attempt has.
func TestAllocationsOfASuccess(t *testing.T) {
	resp := answer(200)
	next := roundTripper(func(req *http.Request) (*http.Response, error) { return resp, nil })
	get := request(t, "GET", nil)
	get.Header.Set("Accept", "text/plain")
	post := request(t, "POST", bytes.NewReader(make([]byte, 64<<10)))
	post.Header.Set("Accept", "text/plain")
	within, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for name, tt := range map[string]struct {
		cfg    retry.Config
		req    *http.Request
		beyond float64
	}{
		"GET":               {retry.Config{}, get, 2},
		"POST with GetBody": {retry.Config{}, post, 2},
		"observed":          {retry.Config{Observe: func(context.Context, retry.Event) {}}, get, 2},
		"within a deadline": {retry.Config{}, get.WithContext(within), 2},
		"with both fields":  {retry.Config{Hint: "Should-Retry", DeadlineField: "Request-Timeout"}, get, 2},
	} {
		t.Run(name, func(t *testing.T) {
			rt := newRetrier(t, tt.cfg).Transport(next)
			bare := testing.AllocsPerRun(200, func() { tt.req.Clone(tt.req.Context()) })
			got := testing.AllocsPerRun(200, func() {
				if _, err := rt.RoundTrip(tt.req); err != nil {
					t.Fatal(err)
				}
			})
			t.Logf("%v beyond the %v of Clone", got-bare, bare)
			require.LessOrEqual(t, got, bare+tt.beyond)
		})
	}
}

// A body with GetBody is not copied.
func TestAllocatedBytesOfALargeBody(t *testing.T) {
	resp := answer(200)
	rt := newRetrier(
		t,
		retry.Config{},
	).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		return resp, nil
	}))
	req := request(t, "POST", bytes.NewReader(make([]byte, 64<<10)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		_, err := rt.RoundTrip(req)
		require.NoError(t, err)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, (after.TotalAlloc-before.TotalAlloc)/100, uint64(8<<10))
}

func TestDeadlineAllocates(t *testing.T) {
	h := newDeadline(
		t,
		retry.DeadlineConfig{Field: "Request-Timeout"},
	).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "x")
	}))
	r := httptest.NewRequest("GET", "/", nil)
	w := nobody{http.Header{}}
	require.LessOrEqual(t, testing.AllocsPerRun(200, func() { h.ServeHTTP(w, r) }), 9.0)
}

type nobody struct{ header http.Header }

func (n nobody) Header() http.Header             { return n.header }
func (nobody) Write(p []byte) (int, error)       { return len(p), nil }
func (nobody) WriteString(s string) (int, error) { return len(s), nil }
func (nobody) WriteHeader(int)                   {}
