package problem_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/problem"
)

func TestWrite(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Etag", `"of the body that is not sent"`)
	problem.Write(w, problem.Details{
		Type:       "https://example.org/full",
		Title:      "Full",
		Status:     http.StatusServiceUnavailable,
		Detail:     "try later",
		Extensions: map[string]any{"limit": 3, "title": "loses"},
	})
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Empty(t, w.Header().Get("Etag"))
	require.JSONEq(t,
		`{"type":"https://example.org/full","title":"Full","status":503,"detail":"try later","limit":3}`,
		w.Body.String())
}

// A handler may have set fields that shared caches obey before Cache-Control. They must not make a
// cache keep the problem document.
func TestWriteIsNotCached(t *testing.T) {
	w := httptest.NewRecorder()
	for _, name := range []string{
		"Cache-Control", "CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control",
	} {
		w.Header().Set(name, "max-age=3600")
	}
	w.Header().Set("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")
	problem.Write(w, problem.Details{Title: "Full", Status: 503})
	require.Equal(t, http.Header{
		"Cache-Control":          {"no-store"},
		"Content-Type":           {"application/problem+json"},
		"X-Content-Type-Options": {"nosniff"},
	}, w.Header())
}

func TestWriteOverBothProtocols(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			t.Run("proto="+proto+"/method="+method, func(t *testing.T) {
				refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					// Fields that the handler set for another body must not describe this one.
					w.Header().Set("Content-Length", "3")
					w.Header().Set("Content-Encoding", "br")
					w.Header().Set("Content-Range", "bytes 0-2/9")
					w.Header().Set("Trailer", "Digest")
					w.Header().Set("X-Request-Id", "kept")
					w.Header().Set("Retry-After", "2")
					problem.Write(w, problem.Details{Title: "Full", Status: 503})
				})
				srv := httptest.NewUnstartedServer(refuse)
				if srv.EnableHTTP2 = proto == "HTTP/2.0"; srv.EnableHTTP2 {
					srv.StartTLS()
				} else {
					srv.Start()
				}
				defer srv.Close()
				req, err := http.NewRequest(method, srv.URL, nil)
				require.NoError(t, err)
				resp, err := srv.Client().Do(req)
				require.NoError(t, err)
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, proto, resp.Proto)
				require.Equal(t, 503, resp.StatusCode)
				require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
				require.Equal(t, "2", resp.Header.Get("Retry-After"))
				require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
				require.Equal(t, "kept", resp.Header.Get("X-Request-Id"))
				for _, gone := range []string{"Content-Encoding", "Content-Range"} {
					require.NotContains(t, resp.Header, gone)
				}
				require.Empty(t, resp.Trailer)
				if method == "HEAD" {
					require.Empty(t, body)
				} else {
					require.Equal(t, `{"status":503,"title":"Full"}`+"\n", string(body))
					require.Equal(t, int64(len(body)), resp.ContentLength)
				}
			})
		}
	}
}

func TestWriteDropsExtensionsThatJSONCannotExpress(t *testing.T) {
	w := httptest.NewRecorder()
	problem.Write(w, problem.Details{Title: "Full", Status: 503, Extensions: map[string]any{"f": func() {}}})
	require.JSONEq(t, `{"title":"Full","status":503}`, w.Body.String())
}
