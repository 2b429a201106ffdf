package versioning_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// Two Versions, one inside the other, do not take one another's version for theirs.
func TestNestedVersions(t *testing.T) {
	outer := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Header("A")},
		Changes: []versioning.Change{{
			Version: "2", Name: "outer", Request: func(r *http.Request) error {
				r.Header.Add("Ran", "outer")
				return nil
			},
		}},
	})
	inner := newVersions(t, versioning.Config{
		Versions: named("x", "y"), Sources: []versioning.Source{versioning.Header("B")},
	})
	h := outer.Resolve(inner.Resolve(outer.Convert(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Ran", r.Header.Get("Ran"))
			telling(w, r)
		}))))
	w := serve(h, request("GET", "/", "A", "1", "B", "y"))
	require.Equal(t, "y header /", w.Body.String())
	require.Equal(t, "outer", w.Header().Get("Ran"))
	require.Equal(t, []string{"B", "A"}, w.Header()["Vary"], "the inner one first")
}

func TestSkip(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v"),
			versioning.Header("V")},
		Skip: func(r *http.Request) bool { return r.URL.Path == "/v1/health" },
	})
	w := serve(v.Middleware(telling), request("GET", "/v1/health", "V", "9"))
	require.Equal(t, "  /v1/health", w.Body.String())
	require.Empty(t, w.Header()["Vary"])
}

func TestObserveAndStats(t *testing.T) {
	var events []versioning.Event
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Header("V")},
		Observe: func(_ context.Context, e versioning.Event) { events = append(events, e) },
	})
	serve(v.Resolve(telling), request("GET", "/", "V", "2"))
	serve(v.Resolve(telling), request("GET", "/", "V", "9"))
	require.Equal(t, []versioning.Event{
		{Kind: "request", Version: "2", Source: "header", Status: versioning.Active, Requested: "2"},
		{Kind: "request", Source: "header", Status: versioning.Unsupported, Requested: "9"},
	}, events)
	attrs := events[0].LogValue().Group()
	require.Equal(t, slog.String("event", "request"), attrs[0])
	require.Equal(t, "[event=request version=2 source=header status=active detail=[requested=2]]",
		fmt.Sprint(attrs))
	s := v.Stats()
	require.Equal(t, map[string]uint64{"1": 0, "2": 1}, s.Requests)
	require.EqualValues(t, 1, s.Refused["unsupported"])
}

// What a handler does with its writer works as on the bare one, through Resolve and Convert of the
// head version.
func TestResolveKeepsTheWriter(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		v := newVersions(t, versioning.Config{
			Versions: named("1"), Sources: []versioning.Source{versioning.Path("/v")},
		})
		srv := server(t, h2, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/abort":
				w.WriteHeader(200)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case "/hints":
				w.Header().Set("Link", "</a>; rel=preload")
				w.WriteHeader(103)
				w.Header().Set("Trailer", "X-T")
				fmt.Fprint(w, "body")
				w.Header().Set("X-T", "t")
			}
		})))
		resp, err := srv.Client().Get(srv.URL + "/v1/abort")
		if err == nil {
			_, err = resp.Body.Read(make([]byte, 1))
			require.NoError(t, resp.Body.Close())
		}
		require.Error(t, err)
		hints := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error { hints += code; return nil },
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+"/v1/hints", nil)
		resp, err = srv.Client().Do(req)
		require.NoError(t, err)
		b := make([]byte, 10)
		n, _ := resp.Body.Read(b)
		require.Equal(t, "body", string(b[:n]))
		_, _ = resp.Body.Read(b)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 103, hints)
		require.Equal(t, "t", resp.Trailer.Get("X-T"))
	})
}

func TestPatternIsPassedBack(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("x") })
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v"),
			versioning.Header("V")},
		Changes: []versioning.Change{rename("2", "a", "b")},
	})
	for _, r := range []*http.Request{request("GET", "/v1/users/7"), request("GET", "/users/7", "V", "1"),
		request("GET", "/v2/users/7")} {
		serve(v.Middleware(mux), r)
		require.Equal(t, "GET /users/{id}", r.Pattern)
	}
	r := request("GET", "/v1/panic")
	require.PanicsWithValue(t, "x", func() { serve(v.Middleware(mux), r) })
	require.Equal(t, "GET /panic", r.Pattern)
}

func TestLocationIsGivenBack(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v")},
		Default: versioning.Current,
	})
	for location, want := range map[string]string{
		"/users/7":                      "/v2/users/7",
		"/users/7?next=/a#b":            "/v2/users/7?next=/a#b",
		"/":                             "/v2/",
		"/v1/users/7":                   "/v1/users/7", // the handler means that version
		"/version":                      "/v2/version",
		"users/7":                       "users/7",
		"?page=2":                       "?page=2",
		"":                              "",
		"//other.test/users":            "//other.test/users",
		"https://other.test/users":      "https://other.test/users",
		"http://example.com/users":      "http://example.com/v2/users",
		"https://example.com:443/users": "https://example.com:443/v2/users",
		"http://example.com:81/users":   "http://example.com:81/users",
		"http://EXAMPLE.com":            "http://EXAMPLE.com",
		"mailto:a@example.com":          "mailto:a@example.com",
		"ftp://example.com/x":           "ftp://example.com/x",
		"%zz":                           "%zz",
	} {
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", location)
			w.Header().Set("Content-Location", location)
			w.WriteHeader(201)
		})
		selected, err := v.Select(map[string]http.Handler{"1": handler, "2": handler})
		require.NoError(t, err)
		for _, h := range []http.Handler{v.Middleware(handler), selected} {
			w := serve(h, request("GET", "/v2/x"))
			require.Equal(t, want, w.Header().Get("Location"))
			require.Equal(t, want, w.Header().Get("Content-Location"))
			w = serve(h, request("GET", "/x"))
			require.Equal(t, location, w.Header().Get("Location"), "nothing was taken, nothing is given")
		}
	}
	// A mux that cleans a path sends the client to the right one.
	mux := http.NewServeMux()
	mux.HandleFunc("/tree/", func(http.ResponseWriter, *http.Request) {})
	require.Equal(t, "/v2/tree/", serve(v.Middleware(mux), request("GET",
		"/v2/tree")).Header().Get("Location"))
	require.Equal(t, "/v2/tree/", serve(v.Middleware(mux), request("GET",
		"/v2//tree/")).Header().Get("Location"))
}

func TestSelect(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v")},
		Skip: func(r *http.Request) bool { return r.URL.Path == "/health" },
	})
	mark := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, name, r.URL.EscapedPath(), " ")
			telling(w, r)
		})
	}
	h, err := v.Select(map[string]http.Handler{"1": mark("one"), "2": mark("two")})
	require.NoError(t, err)
	for _, h := range []http.Handler{h, v.Resolve(h)} {
		require.Equal(t, "one/a%2Fb 1 path /a%2Fb", serve(h, request("GET", "/v1/a%2Fb")).Body.String())
		require.Equal(t, "two/ 2 path /", serve(h, request("GET", "/v2")).Body.String())
		require.Equal(t, "two/health   /health", serve(h, request("GET", "/health")).Body.String())
		require.Equal(t, 404, serve(h, request("GET", "/v3/")).Code)
	}
	_, err = v.Select(map[string]http.Handler{"1": mark("one"), "3": mark("three")})
	require.ErrorContains(t, err, "2: has no handler")
	require.ErrorContains(t, err, "3: is not one of Config.Versions")
	require.PanicsWithValue(t, "versioning: nil handler", func() {
		_, _ = v.Select(map[string]http.Handler{"1": nil, "2": mark("two")})
	})
}
