package versioning_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
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

// A brownout is to be noticed: clients that name no version do not get the next one meanwhile.
func TestOldestInABrownout(t *testing.T) {
	now := time.Now()
	v := newVersions(t, versioning.Config{
		Versions: []versioning.Version{
			{Name: "1", Deprecated: now.Add(-time.Hour), Brownouts: []versioning.Brownout{
				{From: now.Add(-time.Minute), Until: now.Add(time.Hour)},
			}},
			{Name: "2"},
		},
		Sources: []versioning.Source{versioning.Query("v")}, Default: versioning.Oldest,
	})
	require.Equal(t, 410, serve(v.Resolve(telling), request("GET", "/")).Code)
}

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

// The table of doc.go, row by row.
func TestAnswers(t *testing.T) {
	const sunset = "2020-06-30T00:00:00Z"
	end, err := time.Parse(time.RFC3339, sunset)
	require.NoError(t, err)
	cfg := versioning.Config{
		Versions: []versioning.Version{
			{Name: "2020-01-01", Sunset: end, Successor: "https://api.test/new"},
			{Name: "2021-01-01"},
			{Name: "2022-01-01", Brownouts: []versioning.Brownout{{From: time.Now().Add(-time.Hour),
				Until: time.Now().Add(time.Hour)}},
				Deprecated: end},
			{Name: "2023-01-01"},
		},
		Sources: append(allSources(), versioning.Func(func(r *http.Request) (string, bool) {
			return r.Header.Get("F"), r.Header.Get("F") != ""
		}, "F")),
		Supported: "Api-Versions", Match: versioning.Floor,
		Pin: func(r *http.Request) (string, bool) { return r.Header.Get("Pin"), r.Header.Get("Pin") != "" },
	}
	v := newVersions(t, cfg)
	future := time.Now().AddDate(1, 0, 0).Format(time.DateOnly)
	for _, tt := range []struct {
		name      string
		r         *http.Request
		code      int
		kind      string
		requested string
	}{
		{"none", request("GET", "/"), 400, "missing", ""},
		{"malformed in the path", request("GET", "/v2020-1-1/x"), 400, "malformed", "2020-1-1"},
		{"malformed in the host", request("GET", "http://v9.api.test/"), 400, "malformed", "9"},
		{"malformed in the header", request("GET", "/", "X-Api-Version", "x"), 400, "malformed", "x"},
		{"malformed in Accept", request("GET", "/", "Accept", "a/b;version=x"), 400, "malformed", "x"},
		{"malformed in Content-Type", request("PUT", "/", "Content-Type", "a/b;version=x"), 400,
			"malformed", "x"},
		{"malformed in the query", request("GET", "/?api-version=x"), 400, "malformed", "x"},
		{"malformed by function", request("GET", "/", "F", "x"), 400, "malformed", "x"},
		{"malformed pin", request("GET", "/", "Pin", "x"), 400, "malformed", "x"},
		{"duplicate", request("GET", "/?api-version=1&api-version=1"), 400, "duplicate", "1"},
		{"conflict", request("GET", "/v2021-01-01/?api-version=2023-01-01"), 400, "conflict", "2023-01-01"},
		{"unknown in the path", request("GET", "/v2019-01-01/x"), 404, "unsupported", "2019-01-01"},
		{"unknown in the host", request("GET", "http://v2019-01-01.api.test/"), 404, "unsupported",
			"2019-01-01"},
		{"unknown in the header", request("GET", "/", "X-Api-Version", "2019-01-01"), 400,
			"unsupported", "2019-01-01"},
		{"unknown in Accept", request("GET", "/", "Accept", "a/b;version=2019-01-01"), 406,
			"unsupported", "2019-01-01"},
		{"unknown in Content-Type", request("PUT", "/", "Content-Type", "a/b;version=2019-01-01"), 415,
			"unsupported", "2019-01-01"},
		{"unknown in the query", request("GET", "/?api-version=2019-01-01"), 400, "unsupported",
			"2019-01-01"},
		{"unknown by function", request("GET", "/", "F", "2019-01-01"), 400, "unsupported", "2019-01-01"},
		{"unknown pin", request("GET", "/", "Pin", "2019-01-01"), 400, "unsupported", "2019-01-01"},
		{"future in the path", request("GET", "/v"+future+"/x"), 404, "unsupported", future},
		{"future in the header", request("GET", "/", "X-Api-Version", future), 400, "unsupported", future},
		{"future in Accept", request("GET", "/", "Accept", "a/b;version="+future), 406, "unsupported",
			future},
		{"future in Content-Type", request("PUT", "/", "Content-Type", "a/b;version="+future), 415,
			"unsupported", future},
		{"after sunset", request("GET", "/v2020-01-01/x"), 410, "gone", "2020-01-01"},
		{"after sunset, by floor", request("GET", "/?api-version=2020-03-01"), 410, "gone", "2020-03-01"},
		{"after sunset, pinned", request("GET", "/", "Pin", "2020-01-01"), 410, "gone", "2020-01-01"},
		{"brownout", request("GET", "/?api-version=2022-01-01"), 410, "brownout", "2022-01-01"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := serve(v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				t.Error("the handler was called")
			})), tt.r)
			require.Equal(t, tt.code, w.Code)
			p := readProblem(t, w) // which is no-store
			require.Equal(t, "https://github.com/trivet-go/trivet/tree/main/versioning#"+tt.kind, p.Type)
			require.NotEmpty(t, p.Title)
			require.Equal(t, tt.requested, p.Requested)
			require.Equal(t, []string{"2021-01-01", "2022-01-01", "2023-01-01"}, p.Supported)
			require.Equal(t, "2023-01-01", p.Latest)
			require.Equal(t, "2021-01-01, 2022-01-01, 2023-01-01", w.Header().Get("Api-Versions"))
			require.Contains(t, w.Header().Get("Vary"), "X-Api-Version, Accept, F")
			require.Equal(t, tt.code == 415, w.Header().Get("Accept") != "")
			require.Equal(t, tt.kind == "brownout", w.Header().Get("Retry-After") != "")
			if tt.kind == "gone" {
				require.Equal(t, sunset, p.Sunset)
				require.Equal(t, "https://api.test/new", p.Successor)
				require.Equal(t, []string{`<https://api.test/new>; rel="successor-version"`},
					w.Header()["Link"])
				require.Equal(t, "Tue, 30 Jun 2020 00:00:00 GMT", w.Header().Get("Sunset"))
			}
		})
	}
}

func TestRefusedError(t *testing.T) {
	var got error
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Header("V")},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			got = err
			w.WriteHeader(418)
		},
	})
	for text, want := range map[string]error{
		"": versioning.ErrMissing, "x": versioning.ErrMalformed, "9": versioning.ErrUnsupported,
		"1,2": versioning.ErrDuplicate,
	} {
		r := request("GET", "/")
		if text != "" {
			r.Header.Set("V", text)
		}
		w := serve(v.Resolve(telling), r)
		require.Equal(t, 418, w.Code)
		require.Equal(t, "V", w.Header().Get("Vary"))
		require.ErrorIs(t, got, want)
		refused, ok := got.(*versioning.RefusedError)
		require.True(t, ok)
		require.Equal(t, text, refused.Requested)
		require.Equal(t, "2", refused.Latest)
	}
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

func TestNewRejects(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ok := []versioning.Source{versioning.Header("V")}
	for field, cfg := range map[string]versioning.Config{
		"Versions: there are none":        {Sources: ok},
		"Versions[0].Name":                {Versions: named("a b"), Sources: ok},
		"Versions: the names are not all": {Versions: named("1", "2025-13-01"), Sources: ok},
		`Versions: "1" is not newer`:      {Versions: named("2", "1"), Sources: ok},
		`Versions: "1.0" is not newer`:    {Versions: named("1", "1.0"), Sources: ok},
		`Versions: "a" is there twice`:    {Versions: named("a", "a"), Sources: ok},
		"Versions[0].Sunset: is before Depre": {Versions: []versioning.Version{{Name: "1",
			Deprecated: at, Sunset: at.Add(-1)}}, Sources: ok},
		"Versions[0].Brownouts: need": {Versions: []versioning.Version{{Name: "1",
			Brownouts: []versioning.Brownout{{at, at.Add(1)}}}}, Sources: ok},
		"Versions[0].Brownouts: one ends": {Versions: []versioning.Version{{Name: "1", Sunset: at,
			Brownouts: []versioning.Brownout{{at.Add(-1), at.Add(-1)}}}}, Sources: ok},
		"Versions[0].Brownouts: one is after": {Versions: []versioning.Version{{Name: "1", Sunset: at,
			Brownouts: []versioning.Brownout{{at.Add(-1), at.Add(1)}}}}, Sources: ok},
		"Versions[0].Brownouts: one is before": {Versions: []versioning.Version{{Name: "1", Deprecated: at,
			Brownouts: []versioning.Brownout{{at.Add(-1), at.Add(1)}}}}, Sources: ok},
		"Versions[0].Links": {Versions: []versioning.Version{{Name: "1", Successor: "a>b"}},
			Sources: ok},
		"Sources[0]: is empty": {Versions: named("1"), Sources: []versioning.Source{{}}},
		"Sources[0]: the prefix": {Versions: named("1"),
			Sources: []versioning.Source{versioning.Path("/api/v")}},
		"Sources[0]: the patter": {Versions: named("1"),
			Sources: []versioning.Source{versioning.Host("api.test")}},
		"Sources[0]: \"\" is no": {Versions: named("1"), Sources: []versioning.Source{versioning.Header("")}},
		"Sources[0]: the host": {Versions: named("1"),
			Sources: []versioning.Source{versioning.Header("host")}},
		"Sources[0]: \"q\"": {Versions: named("1"),
			Sources: []versioning.Source{versioning.MediaType("q")}},
		"Sources[0]: \"x\"": {Versions: named("1"),
			Sources: []versioning.Source{versioning.VendorType("x")}},
		"Sources[0]: the functi": {Versions: named("1"), Sources: []versioning.Source{versioning.Func(nil)}},
		"Sources[0]: the parame": {Versions: named("1"), Sources: []versioning.Source{versioning.Query("")}},
		"Conflict":               {Versions: named("1"), Sources: ok, Conflict: "x"},
		"Match: \"x\"":           {Versions: named("1"), Sources: ok, Match: "x"},
		"Match: words":           {Versions: named("a"), Sources: ok, Match: versioning.Floor},
		"Default: \"9\"":         {Versions: named("1"), Sources: ok, Default: versioning.Fixed("9")},
		"Default: \"x\"":         {Versions: named("1"), Sources: ok, Default: "x"},
		"Default: is required":   {Versions: named("1")},
		"Echo":                   {Versions: named("1"), Sources: ok, Echo: "a b"},
		"Supported":              {Versions: named("1"), Sources: ok, Echo: "A", Supported: "a"},
		"MaxBody":                {Versions: named("1"), Sources: ok, MaxBody: -1},
		"MaxItem":                {Versions: named("1"), Sources: ok, MaxItem: -1},
		"MaxKeys":                {Versions: named("1"), Sources: ok, MaxKeys: -1},
		"Watch":                  {Versions: named("1"), Sources: ok, Watch: -1},
		"PinVary[0]":             {Versions: named("1"), Sources: ok, PinVary: []string{""}},
	} {
		_, err := versioning.New(cfg)
		require.ErrorContains(t, err, "versioning: Config."+field)
	}
	v := newVersions(t, versioning.Config{Versions: named("1"), Sources: ok})
	for _, wrap := range []func(http.Handler) http.Handler{v.Resolve, v.Convert, v.Middleware} {
		require.PanicsWithValue(t, "versioning: nil handler", func() { wrap(nil) })
	}
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

// A3: Deprecation, Sunset and Link are well-formed, in their order, beside others' links, one field
// for each; whatever the handler does to them.
func TestLifecycleFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deprecated := time.Now().Add(24 * time.Hour) // may be in the future
		sunset := deprecated.Add(24 * time.Hour).In(time.FixedZone("", 3600))
		v := newVersions(t, versioning.Config{
			Versions: []versioning.Version{
				{Name: "1", Deprecated: deprecated, Sunset: sunset, Info: "https://api.test/deprecation",
					Successor: "/v2", Links: []versioning.Link{
						{Rel: "sunset", Target: "https://api.test/sunset"}, {Rel: "latest-version",
							Target: "/v3"},
						{Rel: "predecessor-version", Target: "/v0"}, {Rel: "alternate", Target: "/graphql"},
					}},
				{Name: "2"}, {Name: "3"},
			},
			Sources: []versioning.Source{versioning.Query("v")}, Echo: "Api-Version",
		})
		links := []string{
			`</v2>; rel="successor-version"`,
			`<https://api.test/deprecation>; rel="deprecation"`,
			`<https://api.test/sunset>; rel="sunset"`,
			`</v3>; rel="latest-version"`,
			`</v0>; rel="predecessor-version"`,
			`</graphql>; rel="alternate"`,
		}
		for name, handler := range map[string]func(w http.ResponseWriter){
			"leaves alone": func(http.ResponseWriter) {},
			"adds": func(w http.ResponseWriter) {
				w.Header().Add("Deprecation", "true")
				w.Header().Add("Sunset", "never")
			},
			"removes": func(w http.ResponseWriter) { clear(w.Header()) },
			"fails":   func(w http.ResponseWriter) { http.Error(w, "x", 500) },
		} {
			h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				handler(w)
				w.Header().Add("Link", "</style.css>; rel=preload")
			}))
			header := serve(h, request("GET", "/?v=1")).Result().Header
			require.Equal(t, []string{fmt.Sprintf("@%d", deprecated.Unix())}, header["Deprecation"], name)
			require.Equal(t, []string{sunset.UTC().Format(http.TimeFormat)}, header["Sunset"], name)
			require.Equal(t, []string{"1"}, header["Api-Version"])
			for _, link := range links {
				require.Contains(t, header["Link"], link, name)
			}
			if name != "fails" {
				require.Contains(t, header["Link"], "</style.css>; rel=preload", name)
				require.Len(t, header["Link"], 7)
			}
			if name != "adds" {
				require.Empty(t, serve(h, request("GET", "/?v=3")).Result().Header["Deprecation"])
			}
		}
		status := func() string {
			w := serve(v.Resolve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				resolved, _ := versioning.FromContext(r.Context())
				fmt.Fprint(w, resolved.Status)
			})), request("GET", "/?v=1"))
			if w.Code != 200 {
				return fmt.Sprint(w.Code)
			}
			return w.Body.String()
		}
		require.Equal(t, "active", status())
		time.Sleep(24 * time.Hour)
		require.Equal(t, "deprecated", status())
		time.Sleep(24*time.Hour - 1)
		require.Equal(t, "deprecated", status())
		time.Sleep(time.Nanosecond)
		require.Equal(t, "410", status())
	})
}

// Where the path names the version, its successor is the same path in the next one that is spoken.
func TestSuccessorInThePath(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	v := newVersions(t, versioning.Config{
		Versions: []versioning.Version{
			{Name: "1", Sunset: past}, {Name: "2", Sunset: past}, {Name: "3", Deprecated: past}, {Name: "4"},
		},
		Sources: []versioning.Source{versioning.Path("/v"), versioning.Query("v")},
	})
	w := serve(v.Middleware(telling), request("GET", "/v1/users/%3Cb%3E?q=%22"))
	require.Equal(t, 410, w.Code)
	require.Equal(t, []string{`</v3/users/%3Cb%3E>; rel="successor-version"`}, w.Header()["Link"])
	require.Equal(t, "/v3/users/%3Cb%3E", readProblem(t, w).Successor)
	w = serve(v.Middleware(telling), request("GET", "/v3/users"))
	require.Equal(t, []string{`</v4/users>; rel="successor-version"`}, w.Header()["Link"])
	require.Empty(t, serve(v.Middleware(telling), request("GET", "/v4/users")).Header()["Link"])
	require.Empty(t, serve(v.Middleware(telling), request("GET", "/users?v=3")).Header()["Link"])
}

// V09: a response that a cache inside Resolve holds carries no dates of the time when it was made,
// and is no way to a version that has ended meanwhile.
func TestV09_SunsetPassesWhileCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVersions(t, versioning.Config{
			Versions: []versioning.Version{{Name: "1", Sunset: time.Now().Add(time.Hour)}, {Name: "2"}},
			Sources:  []versioning.Source{versioning.Header("V")},
		})
		type entry struct {
			header http.Header
			body   string
		}
		stored := map[string]entry{}
		runs := 0
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			runs++
			w.Header().Set("Cache-Control", "max-age=86400")
			fmt.Fprint(w, "answer")
		})
		cached := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, _ := versioning.Key(r)
			e, ok := stored[key]
			if !ok {
				rec := httptest.NewRecorder()
				handler.ServeHTTP(rec, r)
				e = entry{rec.Result().Header, rec.Body.String()}
				stored[key] = e
			}
			for name, values := range e.header {
				w.Header()[name] = values
			}
			fmt.Fprint(w, e.body)
		})
		h := v.Resolve(cached)
		for range 2 {
			w := serve(h, request("GET", "/", "V", "1"))
			require.Equal(t, "answer", w.Body.String())
			require.Len(t, w.Header()["Sunset"], 1)
			require.Equal(t, []string{"V"}, w.Header()["Vary"])
		}
		require.Equal(t, 1, runs)
		require.NotContains(t, stored["1"].header, "Sunset")
		time.Sleep(time.Hour)
		w := serve(h, request("GET", "/", "V", "1"))
		require.Equal(t, 410, w.Code)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	})
}

func TestBrownoutsAndEnforce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var force *bool
		cfg := versioning.Config{
			Versions: []versioning.Version{
				{Name: "1", Sunset: start.Add(10 * time.Hour), Brownouts: []versioning.Brownout{
					{From: start.Add(time.Hour), Until: start.Add(time.Hour + 90*time.Second)},
				}},
				{Name: "2"},
			},
			Sources: []versioning.Source{versioning.Query("v")}, Supported: "Supported",
		}
		plain := newVersions(t, cfg).Resolve(telling)
		cfg.Enforce = func(version string, now time.Time) bool {
			require.Equal(t, "1", version)
			require.Equal(t, time.Now(), now)
			return *force
		}
		enforced := newVersions(t, cfg).Resolve(telling)
		code := func(h http.Handler) int { return serve(h, request("GET", "/?v=1")).Code }
		yes, no := true, false

		require.Equal(t, 200, code(plain))
		force = &yes // a rehearsal
		w := serve(enforced, request("GET", "/?v=1"))
		require.Equal(t, 410, w.Code)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.Empty(t, w.Header().Get("Retry-After"))
		require.Equal(t, "1, 2", w.Header().Get("Supported"))

		time.Sleep(time.Hour + 500*time.Millisecond)
		w = serve(plain, request("GET", "/?v=1"))
		require.Equal(t, 410, w.Code)
		require.Equal(t, "90", w.Header().Get("Retry-After"), "rounded up")
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.True(t, strings.HasSuffix(readProblem(t, w).Type, "#brownout"))
		force = &no
		require.Equal(t, 200, code(enforced))

		time.Sleep(90 * time.Second)
		require.Equal(t, 200, code(plain))
		require.Equal(t, "1, 2", serve(plain, request("GET", "/?v=2")).Header().Get("Supported"))

		time.Sleep(9 * time.Hour)
		require.Equal(t, 410, code(plain))
		require.Equal(t, "2", serve(plain, request("GET", "/?v=2")).Header().Get("Supported"))
		require.Equal(t, 200, code(enforced))
		require.Equal(t, "1, 2", serve(enforced, request("GET", "/?v=2")).Header().Get("Supported"))
		force = &yes
		require.Equal(t, 410, code(enforced))
		require.Equal(t, "2", serve(enforced, request("GET", "/?v=2")).Header().Get("Supported"))
	})
}
