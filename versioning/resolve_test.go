package versioning_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

func TestSources(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2", "2.1", "10"), Sources: allSources(), Default: versioning.Oldest,
	})
	h := v.Resolve(telling)
	for _, tt := range []struct {
		name string
		r    *http.Request
		want string
	}{
		{"path", request("GET", "/v2/users"), "2 path /v2/users"},
		{"path, the segment alone", request("GET", "/v2.1"), "2.1 path /v2.1"},
		{"path, a route that begins with v", request("GET", "/vehicles"), "1 default /vehicles"},
		{"host", request("GET", "http://v2.api.test/"), "2 host /"},
		{"host with port, case and final dot", request("GET", "http://V2.1.Api.Test.:8080/"), "2.1 host /"},
		{"another host", request("GET", "http://v2.api.test.evil/"), "1 default /"},
		{"header", request("GET", "/", "X-Api-Version", "10"), "10 header /"},
		{"parameter", request("GET", "/", "Accept", "application/json;version=2"), "2 media_type /"},
		{"quoted", request("GET", "/", "Accept", `text/html, application/json; Version="2\.1"`),
			"2.1 media_type /"},
		{"vendor tree", request("GET", "/", "Accept", "Application/vnd.Example.v2+json"), "2 media_type /"},
		{"another vendor type", request("GET", "/", "Accept", "application/vnd.example.video+json"),
			"1 default /"},
		{"body's type", request("POST", "/", "Content-Type", "application/json;version=2"),
			"2 media_type /"},
		{"query", request("GET", "/?a=1&api%2Dversion=2.1&b"), "2.1 query /"},
		{"nothing", request("GET", "/?q=api-version"), "1 default /"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := serve(h, tt.r)
			require.Equal(t, tt.want, w.Body.String())
			require.Equal(t, "X-Api-Version, Accept", w.Header().Get("Vary"))
		})
	}
}

// V01: whatever the order in the configuration, one precedence; and two sources that differ are
// refused, or the first wins.
func TestV01_SourcesThatDisagree(t *testing.T) {
	fields := []string{"X-Api-Version", "3", "Accept", "application/json;version=4"}
	cfg := versioning.Config{
		Versions: named("1", "2", "3", "4", "5", "6", "7"),
		Sources: append(allSources(), versioning.Func(func(r *http.Request) (string, bool) {
			return "6", r.URL.Query().Has("f")
		})),
		Pin: func(*http.Request) (string, bool) { return "7", true },
	}
	h := newVersions(t, cfg).Resolve(telling)
	cfg.Conflict = versioning.FirstWins
	first := newVersions(t, cfg).Resolve(telling)
	for _, tt := range []struct {
		r    *http.Request
		wins string
	}{
		{request("GET", "http://v2.api.test/v1/x?api-version=5&f", fields...), "1 path /v1/x"},
		{request("GET", "http://v2.api.test/x?api-version=5&f", fields...), "2 host /x"},
		{request("GET", "/x?api-version=5&f", fields...), "3 header /x"},
		{request("GET", "/x?api-version=5&f", fields[2:]...), "4 media_type /x"},
		{request("GET", "/x?api-version=5&f"), "5 query /x"},
		{request("GET", "/x?f"), "6 function /x"},
		{request("GET", "/x"), "7 pin /x"},
	} {
		require.Equal(t, tt.wins, serve(first, tt.r).Body.String())
		w := serve(h, tt.r)
		if strings.Contains(tt.wins, "function") || strings.Contains(tt.wins, "pin") {
			require.Equal(t, tt.wins, w.Body.String(), "nothing disagrees: a pin is no claim of the request")
			continue
		}
		require.Equal(t, 400, w.Code)
		require.True(t, strings.HasSuffix(readProblem(t, w).Type, "#conflict"))
	}
	// Sources that agree are not refused, nor those of which one accepts several versions.
	w := serve(h, request("GET", "/v2/x?api-version=2", "X-Api-Version", "2.0", "Accept",
		"application/json;version=3, application/json;version=2;q=0.1"))
	require.Equal(t, "2 path /v2/x", w.Body.String())
	// Of a body and what the client would like, the body is as it is.
	both := request("POST", "/", "Content-Type", "application/json;version=2", "Accept",
		"application/json;version=3")
	require.Equal(t, 400, serve(h, both).Code)
	require.Equal(t, "2 media_type /", serve(first, both).Body.String())
}

// V02: nobody can choose which of two is read.
func TestV02_DuplicatesAreRefused(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: allSources(), Default: versioning.Oldest,
	})
	for name, r := range map[string]*http.Request{
		"two fields":           request("GET", "/", "X-Api-Version", "1", "X-Api-Version", "2"),
		"two fields, equal":    request("GET", "/", "X-Api-Version", "1", "X-Api-Version", "1"),
		"two in one field":     request("GET", "/", "X-Api-Version", "1, 2"),
		"two parameters":       request("GET", "/?api-version=1&api-version=2"),
		"two, one is escaped":  request("GET", "/?api-version=1&api%2dversion=2"),
		"two, one is empty":    request("GET", "/?api-version=1&api-version"),
		"two in a media range": request("GET", "/", "Accept", "application/json;version=1;version=2"),
		"two in Content-Type":  request("POST", "/", "Content-Type", "a/b;version=1;VERSION=2"),
		"two Content-Types":    request("POST", "/", "Content-Type", "a/b;version=1", "Content-Type", "a/b"),
		"two in one of them":   request("POST", "/", "Content-Type", "a/b;version=1, a/b;version=2"),
	} {
		w := serve(v.Resolve(telling), r)
		require.Equal(t, 400, w.Code, name)
		require.True(t, strings.HasSuffix(readProblem(t, w).Type, "#duplicate"), name)
	}
	r := request("GET", "/")
	r.URL.RawQuery = "api-version=1;api-version=2" // others cut here
	require.Equal(t, 400, serve(v.Resolve(telling), r).Code)
}

// V03: a cache that obeys Vary, or takes Key into its key, never mixes versions.
func TestV03_VaryAndKey(t *testing.T) {
	keyed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := versioning.Key(r)
		require.True(t, ok)
		w.Header().Set("X-Key", key)
	})
	_, ok := versioning.Key(request("GET", "/"))
	require.False(t, ok)
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: allSources(), Default: versioning.Oldest,
		Pin: func(r *http.Request) (string, bool) {
			return r.Header.Get("Authorization"), r.Header.Get("Authorization") != ""
		},
	})
	w := serve(v.Resolve(keyed), request("GET", "/", "X-Api-Version", "2"))
	require.Equal(t, "2", w.Header().Get("X-Key"))

	for name, tt := range map[string]struct {
		outer, handler string // Vary that others set
		fields         []string
		want           []string
		control        string
	}{
		"nothing there": {"", "", []string{"X-Api-Version", "2"}, []string{"X-Api-Version, Accept"}, ""},
		"merged": {"Origin", "", []string{"X-Api-Version", "2"}, []string{"Origin",
			"X-Api-Version, Accept"}, ""},
		"set anew": {"", "Accept-Encoding", []string{"X-Api-Version", "2"},
			[]string{"Accept-Encoding", "X-Api-Version, Accept"}, ""},
		"partly there": {"", "accept", []string{"X-Api-Version", "2"}, []string{"accept",
			"X-Api-Version"}, ""},
		"never twice": {"", "Accept, x-api-version", []string{"X-Api-Version", "2"},
			[]string{"Accept, x-api-version"}, ""},
		"star stays": {"", "*", []string{"X-Api-Version", "2"}, []string{"*"}, ""},
		"pinned": {"", "", []string{"Authorization", "2"},
			[]string{"X-Api-Version, Accept, Authorization"}, "private"},
		"pin was asked": {"", "", nil, []string{"X-Api-Version, Accept, Authorization"}, ""},
		"refused by pin": {"", "", []string{"Authorization", "9"},
			[]string{"X-Api-Version, Accept, Authorization"}, "no-store"},
		"refused": {"Origin", "", []string{"X-Api-Version", "9"}, []string{"Origin",
			"X-Api-Version, Accept"}, "no-store"},
	} {
		for _, writes := range []bool{false, true} {
			w := httptest.NewRecorder()
			if tt.outer != "" {
				w.Header().Set("Vary", tt.outer)
			}
			v.Resolve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.handler != "" {
					w.Header().Set("Vary", tt.handler)
				}
				if writes {
					w.WriteHeader(404)
				}
			})).ServeHTTP(w, request("GET", "/", tt.fields...))
			require.Equal(t, tt.want, w.Result().Header["Vary"], name)
			require.Equal(t, tt.control, w.Result().Header.Get("Cache-Control"), name)
		}
	}
	// A version in the path or the query varies by nothing.
	plain := newVersions(t, versioning.Config{
		Versions: named("1"), Sources: []versioning.Source{versioning.Path("/v"), versioning.Query("v")},
	})
	require.Empty(t, serve(plain.Resolve(telling), request("GET", "/v1/")).Header()["Vary"])
}

// V04: an authorization that stands inside is in force whichever version asks, and an old version
// that ended is no way around it.
func TestV04_NoDowngradeAroundAPolicy(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /admin", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) })
	v := newVersions(t, versioning.Config{
		Versions: []versioning.Version{
			{Name: "1", Sunset: time.Now().Add(-time.Hour)}, {Name: "2"}, {Name: "3"},
		},
		Sources: allSources(), Default: versioning.Oldest,
	})
	h := v.Middleware(mux)
	for target, want := range map[string]int{
		"/admin": 403, "/v2/admin": 403, "/v3/admin": 403, "/v1/admin": 410, "/admin?api-version=1": 410,
		"/admin?api-version=2": 403,
	} {
		require.Equal(t, want, serve(h, request("GET", target)).Code, target)
	}
}

// V06: what is no version is neither the default nor the newest one.
func TestV06_UnknownVersions(t *testing.T) {
	for _, names := range [][]string{{"1", "2", "2.1"}, {"2025-01-01", "2026-01-01"}, {"old", "new"}} {
		v := newVersions(t, versioning.Config{
			Versions: named(names...), Sources: allSources(), Default: versioning.Current,
		})
		h := v.Resolve(telling)
		for _, text := range []string{
			"", " ", "9", "3.0", "latest", "Latest", "2.0 ", " 2", "2 ", "v2", "02", "2.01", "2.", ".2",
			"2.1.1", "+2", "-2",
			"2e0", "1e3", "0x2", "२", "٢", "2٢", "99999999999999999999", "2\x00", "2\n", "\xff",
			"2025-13-01", "2025-02-30",
			"2025-1-1", "2025-01-01T00:00:00Z", "2099-01-01", "0000-00-00", "NEW", "2,1",
			strings.Repeat("2", 10000), "1.99999999999999999999",
		} {
			r := request("GET", "/")
			r.Header["X-Api-Version"] = []string{text}
			w := serve(h, r)
			require.Equal(t, 400, w.Code, "header %q", text)
			p := readProblem(t, w)
			require.Equal(t, names, p.Supported)
			require.LessOrEqual(t, len(p.Requested), 70*3)

			r = request("GET", "/x")
			r.URL.Path = "/v" + text + "/x"
			first, _ := utf8.DecodeRuneInString(text)
			meant := unicode.IsDigit(first) || strings.EqualFold(text, "latest") // the others are routes
			if meant && names[0] != "old" {
				w = serve(h, r)
				require.Contains(t, []int{400, 404}, w.Code, "path %q", text)
			}
		}
	}
}

// V07: what Resolve reads in a path is what the handlers behind it read there.
func TestV07_RoundaboutPaths(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/{rest...}", func(w http.ResponseWriter, r *http.Request) {
		resolved, _ := versioning.FromContext(r.Context())
		fmt.Fprint(w, resolved.Version, " ", r.URL.EscapedPath(), " ", r.URL.Path)
	})
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v")},
		Default: versioning.Oldest,
	})
	h := v.Middleware(mux)
	for target, want := range map[string]string{
		"/v2/users":              "2 /users /users",
		"/v2/a%2fb":              "2 /a%2fb /a/b",
		"/v2/%2e%2ehidden":       "2 /%2e%2ehidden /..hidden",
		"/v2":                    "2 / /",
		"/v2/":                   "2 / /",
		"/x/v2/y":                "1 /x/v2/y /x/v2/y",
		"/%78/v2":                "1 /%78/v2 /x/v2",
		"/v2/%2e%2e/v1/admin":    "",
		"/v2/%2e%2E%2fv1/admin":  "",
		"/v2/..%5cv1/admin":      "",
		"/v2/..;x=1/v1/admin":    "",
		"/v2/../v1/admin":        "",
		"/v2/./admin":            "",
		"/./v2/admin":            "",
		"/%2e/v2/admin":          "",
		"/%76%32/admin":          "",
		"/v%32/admin":            "",
		"/v2%2fadmin":            "",
		"/v2%2f..%2fv1%2fadmin/": "",
		"/v2;x=1/admin":          "",
	} {
		w := serve(h, request("GET", target))
		if want == "" {
			require.Contains(t, []int{400, 404}, w.Code, target)
			continue
		}
		require.Equal(t, 200, w.Code, target)
		require.Equal(t, want, w.Body.String(), target)
	}
	// An empty segment is none: the mux sends the client to the path without it.
	w := serve(h, request("GET", "//v2/admin"))
	require.Equal(t, "/v2/admin", w.Header().Get("Location"))
	// CONNECT and OPTIONS * have no path.
	r := request("OPTIONS", "/")
	r.URL.Path = "*"
	require.Equal(t, "1 default *", serve(v.Resolve(telling), r).Body.String())
}

// V08: nothing that a client sends says which version was resolved, but for the sources.
func TestV08_FieldsOfOursAreNotRead(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Query("v")},
		Default: versioning.Oldest, Echo: "Api-Version", Supported: "Api-Supported-Versions",
	})
	w := serve(v.Resolve(telling), request("GET", "/", "Api-Version", "2", "X-Api-Version", "2",
		"Trivet-Version", "2", "X-Trivet-Version", "2", "Api-Supported-Versions", "3", "Accept",
		"application/json;version=2"))
	require.Equal(t, "1 default /", w.Body.String())
	require.Equal(t, []string{"1"}, w.Header()["Api-Version"])
	require.Equal(t, []string{"1, 2"}, w.Header()["Api-Supported-Versions"])
	// Nor does a handler, or a server behind it, say so for us.
	w = serve(v.Resolve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Api-Version", "9")
		w.Header().Del("Api-Supported-Versions")
	})), request("GET", "/?v=2"))
	require.Equal(t, []string{"2"}, w.Header()["Api-Version"])
	require.Equal(t, []string{"1, 2"}, w.Header()["Api-Supported-Versions"])
}

// V10: an error that was negotiated is not another client's.
func TestV10_NegotiatedErrorsVary(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.MediaType("version")},
		Default: versioning.Oldest,
	})
	for _, r := range []*http.Request{
		request("GET", "/", "Accept", "application/json;version=9"),
		request("POST", "/", "Content-Type", "application/json;version=9"),
	} {
		w := serve(v.Resolve(telling), r)
		require.Equal(t, "Accept", w.Header().Get("Vary"))
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	}
}

// V11: a segment is a version as a whole or not at all.
func TestV11_WholeSegments(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "10"), Sources: []versioning.Source{versioning.Path("/v")},
		Default: versioning.Current,
	})
	h := v.Middleware(telling)
	require.Equal(t, "1 path /x", serve(h, request("GET", "/v1/x")).Body.String())
	require.Equal(t, "10 path /x", serve(h, request("GET", "/v10/x")).Body.String())
	for _, target := range []string{"/v100/x", "/v1x/x", "/v1-beta/x", "/v10.5/x"} {
		require.Contains(t, []int{400, 404}, serve(h, request("GET", target)).Code, target)
	}
	require.Equal(t, "10 default /version/1", serve(h, request("GET", "/version/1")).Body.String())
	words := newVersions(t, versioning.Config{
		Versions: named("v1", "v1beta"), Sources: []versioning.Source{versioning.Path("/")},
		Default: versioning.Current,
	}).Middleware(telling)
	require.Equal(t, "v1 path /x", serve(words, request("GET", "/v1/x")).Body.String())
	require.Equal(t, "v1beta path /x", serve(words, request("GET", "/v1beta/x")).Body.String())
	require.Equal(t, "v1beta default /v1b/x", serve(words, request("GET", "/v1b/x")).Body.String())
}

func TestAccept(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2", "3"),
		Sources: []versioning.Source{versioning.MediaType("version"),
			versioning.VendorType("application/vnd.example.v")},
		Default: versioning.Oldest,
	})
	h := v.Resolve(telling)
	for accept, want := range map[string]string{
		"application/json;version=2": "2",
		"application/json;version=2;q=0.5, application/json;version=3;q=0.501": "3",
		"application/json;version=1;q=0.5, application/json;version=2;q=0.500": "2", // the newest of equals
		"*/*;version=3, application/json;version=2":                            "2", // the more specific
		"application/*;version=2, */*;version=3":                               "2",
		"application/json;version=9, application/json;version=2;q=0.1":         "2", // what there is
		"application/json;version=9, */*;q=0.1":                                "1", // anything will do
		"application/json;version=9":                                           "406",
		"application/json;version=9, text/html;q=0":                            "406",
		"application/json;version=2;q=0":                                       "1",
		"application/json;version=1;q=0, */*":                                  "406",
		// the default is excluded
		"application/json;version=1;q=0, application/json;version=2;q=0.001": "2",
		"application/vnd.example.v3+json":                                    "3",
		"application/vnd.example.v9+json":                                    "406",
		"application/vnd.example.v3":                                         "3",
		"text/html, application/json;version=2;q=0.9":                        "2",
		"application/json;version=x":                                         "400",
		`application/json;a="q=1,x/y;version=3";version=2`:                   "2", // a comma in quotes
		"application/json;q=2;version=2":                                     "1",
		// cannot be read, so left out
		"application/json;q=1.001;version=2, application/json;version=3;q=0.1":  "3",
		";;,,/,a/,/b;version=2,a b;version=3,":                                  "1",
		`application/json;version="2`:                                           "1",
		"application/json;charset;version=2":                                    "1",
		"application/json ; version = 2":                                        "1",
		"application/json\t;\tversion=2 ; q=1 , ":                               "2",
		strings.Repeat("text/x;version=2;q=0.1,", 64) + "text/x;version=3":      "2", // bounded
		strings.Repeat("text/x,", 63) + "application/json;version=3, a/b;q=0.1": "3",
	} {
		w := serve(h, request("GET", "/", "Accept", accept))
		got := fmt.Sprint(w.Code)
		if w.Code == 200 {
			got, _, _ = strings.Cut(w.Body.String(), " ")
		}
		require.Equal(t, want, got, accept)
	}
	w := serve(h, request("POST", "/", "Content-Type", "application/json; charset=utf-8; version=9"))
	require.Equal(t, 415, w.Code)
	require.Equal(t, "application/json;version=1, application/json;version=2, application/json;version=3",
		w.Header().Get("Accept"))
	w = serve(h, request("POST", "/", "Content-Type", "application/vnd.example.v9+json"))
	require.Equal(t, 415, w.Code)
	require.Equal(t, "application/vnd.example.v1+json, application/vnd.example.v2+json, "+
		"application/vnd.example.v3+json", w.Header().Get("Accept"))
}

func TestMatch(t *testing.T) {
	day := func(offset int) string { return time.Now().UTC().AddDate(0, 0, offset).Format(time.DateOnly) }
	for _, tt := range []struct {
		names []string
		floor bool
		text  string
		want  string // "" if refused
	}{
		{[]string{"2024-01-01", "2025-01-01"}, true, "2024-12-31", "2024-01-01"},
		{[]string{"2024-01-01", "2025-01-01"}, true, "2025-01-01", "2025-01-01"},
		{[]string{"2024-01-01", "2025-01-01"}, true, "2025-01-02", "2025-01-01"},
		{[]string{"2024-01-01", "2025-01-01"}, true, "2023-12-31", ""}, // before the first
		{[]string{"2024-01-01", "2025-01-01"}, true, day(-1), "2025-01-01"},
		{[]string{"2024-01-01", "2025-01-01"}, true, day(2), ""}, // nobody knows what it will mean
		{[]string{"2024-01-01", day(30)}, true, day(30), day(30)},
		{[]string{"2024-01-01", "2025-01-01"}, false, "2024-12-31", ""},
		{[]string{"1", "1.3", "2", "2.4"}, true, "1.2", "1"},
		{[]string{"1", "1.3", "2", "2.4"}, true, "1.0", "1"},
		{[]string{"1", "1.3", "2", "2.4"}, true, "2.3", "2"},
		{[]string{"1", "1.3", "2", "2.4"}, true, "1.9", ""}, // has what 1.3 has not
		{[]string{"1", "1.3", "2", "2.4"}, true, "2.5", ""},
		{[]string{"1", "1.3", "3"}, true, "2", ""},
		{[]string{"1.2", "3"}, true, "0.1", ""},
		{[]string{"1", "2"}, false, "1.0", "1"},
		{[]string{"1", "2"}, false, "1.1", ""},
	} {
		cfg := versioning.Config{Versions: named(tt.names...),
			Sources: []versioning.Source{versioning.Header("V")}}
		if tt.floor {
			cfg.Match = versioning.Floor
		}
		w := serve(newVersions(t, cfg).Resolve(telling), request("GET", "/", "V", tt.text))
		if tt.want == "" {
			require.Equal(t, 400, w.Code, "%v", tt)
			require.True(t, strings.HasSuffix(readProblem(t, w).Type, "#unsupported"))
		} else {
			require.Equal(t, tt.want+" header /", w.Body.String(), "%v", tt)
		}
	}
}

func TestDefaults(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	versions := []versioning.Version{{Name: "1", Sunset: past}, {Name: "2", Deprecated: past}, {Name: "3"}}
	for def, want := range map[versioning.Default]string{
		"": "400", versioning.Require: "400", versioning.Oldest: "2", versioning.Current: "3",
		versioning.Fixed("3"): "3", versioning.Fixed("1"): "410",
	} {
		v := newVersions(t, versioning.Config{
			Versions: versions, Default: def, Sources: []versioning.Source{versioning.Query("v")},
		})
		w := serve(v.Resolve(telling), request("GET", "/"))
		got := fmt.Sprint(w.Code)
		if w.Code == 200 {
			got, _, _ = strings.Cut(w.Body.String(), " ")
		}
		require.Equal(t, want, got, def)
	}
}
