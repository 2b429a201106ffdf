package versioning_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// Validators of one version are none of another, and what a client of an old version says of them
// reaches the handler as the head's.
func TestValidators(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	var seen http.Header
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", r.Header.Get("Tag"))
		w.Header().Set("Content-Digest", "sha-256=:x:")
		w.Header().Set("Repr-Digest", "sha-256=:x:")
		w.Header().Set("Digest", "x")
		w.Header().Set("Content-MD5", "x")
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("Content-Length", "7")
		if r.Header.Get("If-None-Match") == r.Header.Get("Tag") && r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
			return
		}
		_, _ = io.WriteString(w, `{"b":1}`)
	}))
	for tag, want := range map[string]string{
		`"abc"`: `"abc-1"`, `W/"abc"`: `W/"abc-1"`, `"a,b"`: `"a,b-1"`, "": "", `abc`: `abc`, `"`: `"`,
		`""`:      `"-1"`,
		`"abc-1"`: `"abc-1-1"`,
	} {
		w := serve(h, request("GET", "/v1/", "Tag", tag))
		require.Equal(t, want, w.Header().Get("ETag"))
		for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-MD5",
			"Accept-Ranges"} {
			require.Empty(t, w.Header().Get(name))
		}
		require.Equal(t, fmt.Sprint(w.Body.Len()), w.Header().Get("Content-Length"))
		w = serve(h, request("GET", "/v2/", "Tag", tag))
		require.Equal(t, tag, w.Header().Get("ETag"))
		require.NotEmpty(t, w.Header().Get("Content-Digest"))
		if strings.HasSuffix(want, `-1"`) {
			w = serve(h, request("GET", "/v1/", "Tag", tag, "If-None-Match", want))
			require.Equal(t, 304, w.Code)
			require.Equal(t, want, w.Header().Get("ETag"))
		}
	}
	for _, tt := range []struct{ name, value, want string }{
		{"If-None-Match", `"a-1", W/"b-1","c", "d-2"`, `"a", W/"b"`},
		{"If-None-Match", `"c"`, ""},
		{"If-None-Match", `*`, `*`},
		{"If-None-Match", `"a,b-1"`, `"a,b"`},
		{"If-None-Match", `"a-1`, `"a-1`},
		{"If-Match", `"a-1"`, `"a"`},
		{"If-Match", `"a"`, `""`}, // it is not ours, so it does not hold
		{"If-Match", `*`, `*`},
		{"Range", "bytes=0-1", ""},
		{"If-Range", `"a-1"`, ""},
		{"Accept-Encoding", "gzip", ""},
	} {
		serve(h, request("GET", "/v1/", tt.name, tt.value))
		require.Equal(t, tt.want, seen.Get(tt.name), "%v", tt)
		serve(h, request("GET", "/v2/", tt.name, tt.value))
		require.Equal(t, tt.value, seen.Get(tt.name), "the head version's is left alone")
	}
	// Where no body is converted, ranges stay, and so do tags where no body ever is.
	routed := rename("", "a", "b")
	routed.Routes = []string{"/json"}
	h2 := chained(t, versioning.Config{}, routed).Middleware(h0(&seen))
	w := serve(h2, request("GET", "/v1/file", "Range", "bytes=0-1", "If-Range", `"a-1"`,
		"Accept-Encoding", "gzip"))
	require.Equal(t, "bytes=0-1", seen.Get("Range"))
	require.Equal(t, `"a"`, seen.Get("If-Range"))
	require.Equal(t, "gzip", seen.Get("Accept-Encoding"))
	require.Equal(t, `"t-1"`, w.Header().Get("ETag"), "a version's tags are alike on all routes")
	serve(h2, request("GET", "/v1/file", "If-Range", `"a"`))
	require.Equal(t, `""`, seen.Get("If-Range"))
	serve(h2, request("GET", "/v1/file", "If-Range", `Tue, 30 Jun 2020 00:00:00 GMT`))
	require.Equal(t, `Tue, 30 Jun 2020 00:00:00 GMT`, seen.Get("If-Range"))
	headers := chained(t, versioning.Config{}, versioning.Change{
		Name: "h", Request: func(*http.Request) error { return nil },
	}).Middleware(h0(&seen))
	w = serve(headers, request("GET", "/v1/file", "If-Match", `"t"`))
	require.Equal(t, `"t"`, seen.Get("If-Match"))
	require.Equal(t, `"t"`, w.Header().Get("ETag"))
}

func h0(seen *http.Header) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*seen = r.Header
		w.Header().Set("ETag", `"t"`)
	})
}

// DESIGN: what is set outside is under what the handler sets, and not a change's to see or to lose.
func TestHeaderMaps(t *testing.T) {
	change := rename("", "a", "b")
	var seen http.Header
	change.Response = func(r *versioning.Response) error {
		seen = r.Header.Clone()
		r.Header.Del("X-Request-Id")
		r.Header.Del("Link")
		r.Header.Set("X-New", "changed")
		return nil
	}
	v := chained(t, versioning.Config{}, change)
	for _, contentType := range []string{"application/json", "text/plain", "application/jsonl"} {
		w := httptest.NewRecorder()
		h := w.Header()
		h.Set("X-Request-Id", "id")
		h.Set("Ratelimit", "r=1")
		h.Set("X-Over", "outer")
		h.Set("X-Gone", "outer")
		h.Set("Link", "<outer>; rel=x")
		h.Set("Vary", "Origin")
		h.Set("Set-Cookie", "outer=1")
		v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			require.Equal(t, "id", w.Header().Get("X-Request-Id"), "it sees what is set already")
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("X-Over", "handler")
			w.Header().Del("X-Gone")
			w.Header().Add("Link", "<handler>; rel=y")
			w.Header().Add("Vary", "Accept-Encoding")
			w.Header().Add("Set-Cookie", "handler=1")
			_, _ = io.WriteString(w, `{"b":1}`)
			w.Header().Set("X-Late", "1")
		})).ServeHTTP(w, request("GET", "/", "V", "1"))
		require.Equal(t, http.Header{
			"Content-Type": {contentType}, "X-Over": {"handler"}, "Link": {"<handler>; rel=y"},
			"Vary": {"Accept-Encoding"}, "Set-Cookie": {"handler=1"},
		}, seen)
		got := w.Result().Header
		got.Del("Content-Length")
		require.Equal(t, http.Header{
			"X-Request-Id": {"id"}, "Ratelimit": {"r=1"}, "X-Over": {"handler"}, "X-New": {"changed"},
			"Link": {"<outer>; rel=x"}, "Vary": {"Origin", "Accept-Encoding", "V"},
			"Set-Cookie": {"outer=1", "handler=1"}, "Content-Type": {contentType},
		}, got)
	}
}

func TestHeadAndContentLength(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "longer", "b"))
	protocols(t, func(t *testing.T, h2 bool) {
		srv := server(t, h2, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Content-Length", "7")
			if r.URL.Path == "/body" || r.Method == "GET" {
				_, _ = io.WriteString(w, `{"b":1}`)
			}
		})))
		for _, method := range []string{"GET", "HEAD"} {
			for path, length := range map[string]string{"/body": "12", "/none": ""} {
				req, _ := http.NewRequest(method, srv.URL+"/v1"+path, nil)
				resp, err := srv.Client().Do(req)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, `"x-1"`, resp.Header.Get("ETag"))
				if method == "GET" {
					require.Equal(t, `{"longer":1}`, string(body))
					length = "12"
				}
				require.Equal(t, length, resp.Header.Get("Content-Length"), method+path)
			}
		}
	})
}
