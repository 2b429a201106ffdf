package versioning_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// What handlers and caches inside see is their own header: the fields of a version come when the
// response goes out, also after a panic that a middleware outside answers.
func TestFieldsComeAtTheEnd(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: []versioning.Version{{Name: "1", Deprecated: day1}, {Name: "2"}}, Echo: "Spoken",
		Sources: []versioning.Source{versioning.Header("V")},
		Pin:     func(*http.Request) (string, bool) { return "1", true },
	})
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Empty(t, w.Header())
		w.Header().Add("Cache-Control", "max-age=60")
		if r.URL.Path == "/panic" {
			panic("oops")
		}
	}))
	want := http.Header{
		"Vary": {"V, Authorization"}, "Deprecation": {"@1577836800"}, "Spoken": {"1"},
		"Cache-Control": {"max-age=60"},
	}
	require.Equal(t, want, serve(h, request("GET", "/")).Result().Header)
	w := httptest.NewRecorder()
	require.PanicsWithValue(t, "oops", func() { h.ServeHTTP(w, request("GET", "/panic")) })
	require.Equal(t, want, w.Header())
}

// Select inside of Middleware finds the path cut already, and does not cut another segment.
func TestSelectInsideOfMiddleware(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v")},
	})
	h, err := v.Select(map[string]http.Handler{"1": telling, "2": telling})
	require.NoError(t, err)
	require.Equal(t, "2 path /v2/x", serve(v.Middleware(h), request("GET", "/v2/v2/x")).Body.String())
	w := serve(v.Middleware(v.Convert(h)), request("GET", "/v2/v2/x"))
	require.Equal(t, "2 path /v2/x", w.Body.String())
	// Whoever asked still has its own URL.
	r := request("GET", "/v1/x")
	serve(v.Middleware(h), r)
	require.Equal(t, "/v1/x", r.URL.Path)
}
