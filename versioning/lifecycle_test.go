package versioning_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

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

// Each moment of a version's life belongs to one side: a brownout and a deprecation begin at
// theirs, and a brownout and a version have ended at theirs. Of brownouts that overlap the last end
// counts.
func TestMomentsOfAVersionsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
		h := newVersions(t, versioning.Config{
			Versions: []versioning.Version{
				{Name: "1", Sunset: at(8)},
				{Name: "2", Deprecated: at(1), Sunset: at(10), Brownouts: []versioning.Brownout{
					{From: at(2), Until: at(5)}, {From: at(3), Until: at(4)},
				}},
				{Name: "3"},
			},
			Sources: []versioning.Source{versioning.Query("v")}, Supported: "Supported",
		}).Resolve(telling)
		ask := func(version string) *httptest.ResponseRecorder {
			return serve(h, request("GET", "/?v="+version))
		}
		till := func(moment time.Time) { time.Sleep(time.Until(moment)) }
		till(at(2).Add(-1))
		require.Equal(t, 200, ask("2").Code)
		till(at(2))
		require.Equal(t, 410, ask("2").Code)
		till(at(3))
		require.Equal(t, "7200", ask("2").Header().Get("Retry-After"), "not the shorter one's end")
		till(at(5).Add(-1))
		require.Equal(t, 410, ask("2").Code)
		till(at(5))
		require.Equal(t, 200, ask("2").Code)

		till(at(8).Add(-1))
		require.Equal(t, "1, 2, 3", ask("3").Header().Get("Supported"))
		require.Equal(t, 200, ask("1").Code)
		till(at(8))
		require.Equal(t, 410, ask("1").Code)
		require.Equal(t, "2, 3", ask("3").Header().Get("Supported"))
		till(at(10))
		require.Equal(t, "3", ask("3").Header().Get("Supported"))
	})
}
