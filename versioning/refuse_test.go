package versioning_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

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
