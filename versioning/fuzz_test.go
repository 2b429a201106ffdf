package versioning_test

import (
	"bytes"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

var answers = []int{200, 400, 404, 406, 410, 415}

// Whatever stands in Accept, the answer is a version or a refusal, and a range that package mime
// reads means what it reads.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{
		"application/json;version=2", `a/b;version="2";q=0.5, */*;q=0`, "application/vnd.example.v2+json",
		`a/b;x="\",y/z;version=1`, ";;,", "a/b;q=1.0000;version=1", "a/b; version=1 ;q=0.1,a/b;version=2",
		"application/vnd.example.v2", "*/*;version=9,a/b", "\x00/\xff;version=٢",
	} {
		f.Add(seed)
	}
	v, err := versioning.New(versioning.Config{
		Versions: named("1", "2", "2.1"), Default: versioning.Oldest,
		Sources: []versioning.Source{versioning.MediaType("version"),
			versioning.VendorType("application/vnd.example.v")},
	})
	require.NoError(f, err)
	h := v.Middleware(telling)
	f.Fuzz(func(t *testing.T, accept string) {
		w := serve(h, request("GET", "/", "Accept", accept))
		require.Contains(t, answers, w.Code)
		require.Equal(t, "Accept", w.Header().Get("Vary"))
		serve(h, request("POST", "/", "Content-Type", accept))
		// One range, as package mime reads it.
		_, params, err := mime.ParseMediaType(accept)
		if err != nil || strings.ContainsAny(accept, ",*%") || len(params) != 1 || params["version"] == "" ||
			strings.Contains(strings.ToLower(accept), "vnd.") || !strings.Contains(accept, "/") {
			return
		}
		switch text := params["version"]; {
		case slices.Contains([]string{"1", "2", "2.1"}, text):
			require.Equal(t, text+" media_type /", w.Body.String())
		default:
			require.Contains(t, []int{200, 400, 406}, w.Code)
			require.False(t, w.Code == 200 && strings.Contains(w.Body.String(), "media_type") &&
				text != "1.0" && text != "2.0")
		}
	})
}

// Whatever the path, the handler gets the rest of it and no other version than the one that a mux
// would route by.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/v2/users", "/v2/%2e%2e/v1/admin", "/v2%2fusers", "/%762/x", "//v1", "/v2", "/v2/", "/v2//x",
		"/v1/..;/v2",
		"/v٢/x", "/vehicles", "/v2.1/a%2Fb", "/v10", "*", "/v2?api-version=1",
	} {
		f.Add(seed)
	}
	v, err := versioning.New(versioning.Config{
		Versions: named("1", "2", "2.1"), Sources: []versioning.Source{versioning.Path("/v")},
		Default: versioning.Oldest,
	})
	require.NoError(f, err)
	// The mux is the judge: it matches the first segment by its own reading.
	mux := http.NewServeMux()
	mux.HandleFunc("/{first}/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("First", r.PathValue("first"))
	})
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(u.EscapedPath(), "/") {
			return
		}
		newRequest := func() *http.Request {
			copied := *u
			return &http.Request{Method: "GET", URL: &copied, Header: http.Header{}, Host: "x"}
		}
		var got *http.Request
		var resolved versioning.Resolved
		w := serve(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r
			resolved, _ = versioning.FromContext(r.Context())
		})), newRequest())
		require.Contains(t, answers, w.Code)
		judge := serve(mux, newRequest())
		first := judge.Header().Get("First")
		if got == nil {
			return // refused
		}
		switch resolved.Source {
		case "path":
			require.Equal(t, u.EscapedPath(),
				strings.TrimSuffix("/v"+resolved.Requested+got.URL.EscapedPath(),
					missingSlash(u.EscapedPath(), resolved.Requested)))
			require.Equal(t, u.Path, strings.TrimSuffix("/v"+resolved.Requested+got.URL.Path,
				missingSlash(u.Path, resolved.Requested)))
			if judge.Code == 200 {
				require.Equal(t, "v"+resolved.Requested, first)
			}
		default:
			require.Equal(t, u.EscapedPath(), got.URL.EscapedPath())
			require.NotContains(t, []string{"v1", "v2", "v2.1"}, first)
		}
	})
}

// missingSlash is the slash that a path lacks which has the version and nothing else.
func missingSlash(path, version string) string {
	if path == "/v"+version {
		return "/"
	}
	return ""
}

// Restore takes what Save wrote, and nothing else; it never panics.
func FuzzRestore(f *testing.F) {
	v, h := ledgered(f, versioning.Config{})
	serve(h, request("GET", "/v1/users/7", "Client", "acme"))
	var saved bytes.Buffer
	require.NoError(f, v.Save(&saved))
	f.Add(saved.Bytes())
	f.Add([]byte("trivetVU\x00\x01{}\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		fresh, _ := ledgered(t, versioning.Config{MaxKeys: 10})
		if err := fresh.Restore(bytes.NewReader(text)); err != nil {
			require.ErrorIs(t, err, versioning.ErrSnapshot)
			require.Zero(t, fresh.Stats().Keys)
		}
	})
}
