package versioning_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/versioning"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newVersions(t testing.TB, cfg versioning.Config) *versioning.Versions {
	t.Helper()
	v, err := versioning.New(cfg)
	require.NoError(t, err)
	return v
}

// named returns versions with these names.
func named(names ...string) []versioning.Version {
	list := make([]versioning.Version, len(names))
	for i, name := range names {
		list[i].Name = name
	}
	return list
}

// allSources is one source of each kind that needs no function.
func allSources() []versioning.Source {
	return []versioning.Source{
		versioning.Query("api-version"), versioning.MediaType("version"), versioning.Header("X-Api-Version"),
		versioning.VendorType("application/vnd.example.v"), versioning.Host("v*.api.test"),
		versioning.Path("/v"),
	}
}

// request returns a request whose header has the given fields, name after value.
func request(method, target string, fields ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

// serve runs one request through h without a network.
func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// telling writes which version it was called for, and the path that it got.
var telling = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	resolved, _ := versioning.FromContext(r.Context())
	_, _ = io.WriteString(w, resolved.Version+" "+resolved.Source+" "+r.URL.EscapedPath())
})

// A problemDoc is a problem document as clients read it.
type problemDoc struct {
	Type      string   `json:"type"`
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Requested string   `json:"requested"`
	Supported []string `json:"supported"`
	Latest    string   `json:"latest"`
	Sunset    string   `json:"sunset"`
	Successor string   `json:"successor"`
}

func readProblem(t testing.TB, w *httptest.ResponseRecorder) (p problemDoc) {
	t.Helper()
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(t, w.Code, p.Status)
	return p
}

// server starts a server of HTTP/1.1, or of HTTP/2 with TLS.
func server(t testing.TB, h2 bool, h http.Handler) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = h2
	if h2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// protocols runs a test with each.
func protocols(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "h1", true: "h2"}[h2], func(t *testing.T) { f(t, h2) })
	}
}
