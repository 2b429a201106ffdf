package versioning_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// Browsers accept signed exchanges with a parameter v, which is no version of an API
// (dotnet/aspnet-api-versioning#657, #887).
func TestRangesThatMeanSomethingElse(t *testing.T) {
	const chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8," +
		"application/signed-exchange;v=b3;q=0.7"
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Default: versioning.Oldest,
		Sources: []versioning.Source{versioning.MediaType("v"), versioning.Query("api-version")},
	})
	h := v.Resolve(telling)
	require.Equal(t, "1 default /", serve(h, request("GET", "/", "Accept", chrome)).Body.String())
	require.Equal(t, "2 query /", serve(h, request("GET", "/?api-version=2", "Accept", chrome)).Body.String())
	for accept, want := range map[string]string{
		"a/b;v=b3, a/b;v=2":       "2 media_type /",
		"a/b;v=b3;q=0, */*;q=0.1": "1 default /",
		"a/b;v=b3;q=0, a/b;v=9":   "406 unsupported",
		"a/b;v=b3, a/b;v=9":       "406 unsupported",
		"a/b;v=9, a/b;v=b3":       "406 unsupported",
		"a/b;v=b3, a/b;q=0":       "400 malformed",
		"a/b;v=9;q=0":             "1 default /", // which does not want what there is not
	} {
		w := serve(h, request("GET", "/", "Accept", accept))
		got := w.Body.String()
		if w.Code != 200 {
			_, why, _ := strings.Cut(readProblem(t, w).Type, "#")
			got = w.Result().Status[:4] + why
		}
		require.Equal(t, want, got, accept)
	}
}

func preflight(target string) *http.Request {
	return request("OPTIONS", target, "Origin", "https://app.test", "Access-Control-Request-Method", "GET",
		"Access-Control-Request-Headers", "api-version")
}

// A browser asks first, without the field that names the version (dotnet/aspnet-api-versioning#173,
// micronaut-core#9375). It is answered, and is no use of the version that answers.
func TestPreflightsNameNoVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []versioning.Event
		cfg := versioning.Config{
			Versions: named("1", "2"), Watch: day,
			Sources: []versioning.Source{versioning.Header("Api-Version"), versioning.Path("/v")},
			Observe: func(_ context.Context, e versioning.Event) { events = append(events, e) },
		}
		v := newVersions(t, cfg)
		h := v.Middleware(telling)
		time.Sleep(2 * day)
		require.Equal(t, "2 preflight /users", serve(h, preflight("/users")).Body.String())
		require.Equal(t, "preflight", events[0].Source)
		require.Equal(t, 404, serve(h, preflight("/v3/users")).Code)
		require.Equal(t, 400, serve(h, request("OPTIONS", "/users")).Code, "that is no preflight")
		require.Equal(t, 400, serve(h, request("OPTIONS", "/", "Origin", "https://app.test")).Code)
		r := preflight("/")
		r.Header.Del("Origin")
		require.Equal(t, 400, serve(h, r).Code)
		r = preflight("/")
		r.Method = "GET"
		require.Equal(t, 400, serve(h, r).Code)
		require.Equal(t, "1 path /users", serve(h, preflight("/v1/users")).Body.String())

		cfg.Default = versioning.Oldest
		v = newVersions(t, cfg)
		time.Sleep(2 * day)
		require.Equal(t, "1 preflight /", serve(v.Middleware(telling), preflight("/")).Body.String())
		require.True(t, v.Removable("1").Removable)
		serve(v.Middleware(telling), request("GET", "/"))
		require.False(t, v.Removable("1").Removable)
	})
}

// Caches keep 404 and 410 without being told to, so answers of one's own are not stored either.
func TestRefusalsOfOnesOwnAreNotStored(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: []versioning.Version{{Name: "1", Sunset: day1}, {Name: "2"}, {Name: "3"}},
		Sources:  []versioning.Source{versioning.Path("/v")}, MaxBody: 1,
		Changes: []versioning.Change{rename("3", "a", "b")},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			w.WriteHeader(410)
		},
	})
	h := v.Middleware(http.NotFoundHandler())
	for _, target := range []string{"/v1/x", "/v9/x", "/x"} {
		w := httptest.NewRecorder()
		w.Header().Set("Cache-Control", "max-age=60") // set outside, for all routes
		h.ServeHTTP(w, request("GET", target))
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"), target)
	}
	r := httptest.NewRequest("POST", "/v2/x", strings.NewReader(`{"a":1}`))
	r.Header.Set("Content-Type", "application/json")
	w := serve(h, r)
	require.Equal(t, 410, w.Code)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}

// A pin with an empty list of fields varies by credentials, as documented, and one that looks at
// something else, such as an address, varies by everything.
func TestPinVary(t *testing.T) {
	for want, list := range map[string][]string{"Authorization": {}, "*": {"*"}, "X-Account": {"x-account"}} {
		v := newVersions(t, versioning.Config{
			Versions: named("1", "2"), PinVary: list,
			Pin: func(*http.Request) (string, bool) { return "1", true },
		})
		require.Equal(t, want, serve(v.Resolve(telling), request("GET", "/")).Header().Get("Vary"))
	}
}

// Of brownouts that overlap the client waits for the last to end.
func TestOverlappingBrownouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		v := newVersions(t, versioning.Config{
			Versions: []versioning.Version{{Name: "1", Deprecated: now, Brownouts: []versioning.Brownout{
				{From: now, Until: now.Add(2 * time.Hour)}, {From: now, Until: now.Add(time.Hour)},
			}}, {Name: "2"}},
			Sources: []versioning.Source{versioning.Query("v")},
		})
		w := serve(v.Resolve(telling), request("GET", "/?v=1"))
		require.Equal(t, "7200", w.Header().Get("Retry-After"))
	})
}

// A cache inside of two Versions keeps what both found apart.
func TestKeyOfNestedVersions(t *testing.T) {
	outer := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Header("A")},
	})
	inner := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Header("B")},
	})
	keys := map[string]bool{}
	h := outer.Resolve(inner.Resolve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		key, ok := versioning.Key(r)
		require.True(t, ok)
		keys[key] = true
	})))
	for _, a := range []string{"1", "2"} {
		for _, b := range []string{"1", "2"} {
			serve(h, request("GET", "/", "A", a, "B", b))
		}
	}
	require.Len(t, keys, 4)
}

// A semicolon matters only where someone could see the parameter behind it.
func TestSemicolonsInQueries(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Query("v")},
		Default: versioning.Oldest,
	})
	for query, want := range map[string]int{
		"q=love;hate": 200, "v2=x;y": 200, "q=a;v=2": 400, "v=2;q=a": 400, "q=a;%76=2": 400, ";v": 400,
		"q=a%3bv=2": 200,
	} {
		r := request("GET", "/")
		r.URL.RawQuery = query
		require.Equal(t, want, serve(v.Resolve(telling), r).Code, query)
	}
}

// A route that begins with a digit is no version because versions may stand there.
func TestLocationOfARouteThatLooksLikeAVersion(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/")},
	})
	for location, want := range map[string]string{
		"/2024/x": "/1/2024/x", "/404": "/1/404", "/2/x": "/2/x", "/2.0": "/2.0", "/x": "/1/x",
	} {
		w := serve(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", location)
		})), request("GET", "/1/a"))
		require.Equal(t, want, w.Header().Get("Location"))
	}
}

// The name of a client is the same after a restart, whatever bytes it has.
func TestClientsThatAreNoText(t *testing.T) {
	v, h := ledgered(t, versioning.Config{})
	for _, client := range []string{"\xff\xfe", strings.Repeat("ä", 100)} {
		serve(h, request("GET", "/v1/users/7", "Client", client))
	}
	before := v.Removable("1").Clients
	require.Len(t, before, 2)
	var saved bytes.Buffer
	require.NoError(t, v.Save(&saved))
	require.NoError(t, v.Restore(&saved))
	require.Equal(t, before, v.Removable("1").Clients)
}

func TestYearsAreThoseOfTheFields(t *testing.T) {
	west := time.FixedZone("", -5*3600)
	_, err := versioning.New(versioning.Config{Versions: []versioning.Version{
		{Name: "1", Sunset: time.Date(9999, 12, 31, 22, 0, 0, 0, west)}, {Name: "2"},
	}, Default: versioning.Oldest})
	require.ErrorContains(t, err, "Versions[0].Sunset")
}

// A range whose weight is there twice cannot be read. It is left out.
func TestWeightsThatAreThereTwice(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.MediaType("version")},
	})
	w := serve(v.Resolve(telling), request("GET", "/", "Accept",
		"a/b;version=2;q=1;q=0.9, a/b;version=1;q=0.5"))
	require.Equal(t, "1 media_type /", w.Body.String())
}

// A brownout has its first moment and has not its last one.
func TestBoundsOfABrownout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(time.Hour)
		v := newVersions(t, versioning.Config{
			Versions: []versioning.Version{
				{Name: "1", Sunset: from.Add(day), Brownouts: []versioning.Brownout{
					{From: from, Until: from.Add(time.Hour)},
				}},
				{Name: "2"},
			},
			Sources: []versioning.Source{versioning.Query("v")},
		})
		h := v.Resolve(telling)
		for _, step := range []struct {
			wait time.Duration
			code int
		}{{0, 200}, {time.Hour - 1, 200}, {1, 410}, {time.Hour - 1, 410}, {1, 200}} {
			time.Sleep(step.wait)
			require.Equal(t, step.code, serve(h, request("GET", "/?v=1")).Code)
		}
	})
}

// The list of supported versions is as of now, however many of them end.
func TestSupportedIsUpToDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		v := newVersions(t, versioning.Config{
			Versions: []versioning.Version{
				{Name: "1", Sunset: now.Add(time.Hour)}, {Name: "2", Sunset: now.Add(3 * time.Hour)},
				{Name: "3", Sunset: now.Add(2 * time.Hour)}, {Name: "4"},
			},
			Sources: []versioning.Source{versioning.Query("v")}, Supported: "Supported",
		})
		for _, want := range []string{"1, 2, 3, 4", "2, 3, 4", "2, 4", "4"} {
			w := serve(v.Resolve(telling), request("GET", "/?v=4"))
			require.Equal(t, want, w.Header().Get("Supported"))
			time.Sleep(time.Hour)
		}
	})
}

// Locations without a host that are not on this one stay as they are.
func TestLocationsWithoutAHost(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v")},
	})
	for _, location := range []string{"///x", "file:/x", "app:///x", "mailto:x@y", "?q", "x", ""} {
		w := serve(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", location)
		})), request("GET", "/v1/a"))
		require.Equal(t, location, w.Header().Get("Location"))
	}
}

// A message goes down through the changes from the latest to the first.
func TestOrderOfDown(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"), rename("", "b", "c"))
	got, err := v.Down(t.Context(), "1", []byte(`{"c":1}`))
	require.NoError(t, err)
	require.Equal(t, `{"a":1}`, string(got))
}

// What is encoded cannot be read, in a stream neither.
func TestEncodedStreamsAreNotConverted(t *testing.T) {
	encoded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte("\x1f\x8b\r\n\r"))
	})
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	require.Equal(t, 500, serve(v.Middleware(encoded), request("GET", "/v1/")).Code)
	v = chained(t, versioning.Config{OnError: versioning.Pass}, rename("", "a", "b"))
	w := serve(v.Middleware(encoded), request("GET", "/v1/"))
	require.Equal(t, "\x1f\x8b\r\n\r", w.Body.String())
}

// A handler that redirects to the path which it got redirects to no other host, since the client's
// path named none.
func TestPathsWithSlashesRedirectToNoHost(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	redirecting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Path+"/")
	})
	selected, err := v.Select(map[string]http.Handler{"1": redirecting, "2": redirecting})
	require.NoError(t, err)
	for _, h := range []http.Handler{v.Middleware(redirecting), v.Resolve(v.Convert(redirecting)), selected} {
		for target, want := range map[string]string{
			"/v1//evil.test": "/v1//evil.test/", "/v2//evil.test": "/v2//evil.test/",
			"/v2/%2fevil.test": "/v2//evil.test/", "/v2/x": "/v2/x/",
		} {
			require.Equal(t, want, serve(h, request("GET", target)).Header().Get("Location"))
		}
	}
	// What is another host without that stays one.
	w := serve(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "//cdn.test/x")
	})), request("GET", "/v2/x"))
	require.Equal(t, "//cdn.test/x", w.Header().Get("Location"))
}

// The fields of early hints are those of the handler at that time, and no part of what follows.
func TestFieldsOfEarlyHints(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	srv := server(t, false, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a>; rel=preload")
		w.Header().Add("Set-Cookie", "c=1")
		w.WriteHeader(103)
		w.Header().Set("Link", "</b>; rel=preload")
		w.WriteHeader(200)
	})))
	resp, err := srv.Client().Get(srv.URL + "/v1/")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, []string{"</b>; rel=preload"}, resp.Header["Link"])
	require.Equal(t, []string{"c=1"}, resp.Header["Set-Cookie"])
}
