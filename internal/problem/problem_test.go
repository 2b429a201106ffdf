package problem_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/problem"
)

func TestWrite(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Etag", `"of the body that is not sent"`)
	problem.Write(w, problem.Details{
		Type: "https://example.org/full", Title: "Full", Status: http.StatusServiceUnavailable, Detail: "try later",
		Extensions: map[string]any{"limit": 3, "title": "loses"},
	})
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Empty(t, w.Header().Get("Etag"))
	require.JSONEq(t, `{"type":"https://example.org/full","title":"Full","status":503,"detail":"try later","limit":3}`, w.Body.String())
}

func TestWriteDropsExtensionsThatJSONCannotExpress(t *testing.T) {
	w := httptest.NewRecorder()
	problem.Write(w, problem.Details{Title: "Full", Status: 503, Extensions: map[string]any{"f": func() {}}})
	require.JSONEq(t, `{"title":"Full","status":503}`, w.Body.String())
}

func TestRetryAfterRoundsUp(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "", 0: "", 1: "1", time.Second: "1", time.Second + 1: "2", 1<<63 - 1: "9223372037",
	} {
		h := http.Header{}
		problem.RetryAfter(h, d)
		require.Equal(t, want, h.Get("Retry-After"), d)
	}
}
