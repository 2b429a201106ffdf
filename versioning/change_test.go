package versioning_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

func TestLinesOfRequests(t *testing.T) {
	v := chained(t, versioning.Config{MaxItem: 40}, rename("", "a", "b"))
	h := v.Middleware(echoing)
	send := func(body string) *httptest.ResponseRecorder {
		return serve(h, post("/v1/", body, "Content-Type", "application/x-ndjson", "Content-Length", "1"))
	}
	w := send("{\"a\":1}\n\n {\"a\":2} \r\n[1]\n{\"a\":3}")
	require.Equal(t, "{\"b\":1}\n\n {\"b\":2} \r\n[1]\n{\"b\":3}", w.Header().Get("X-Got"))
	require.Equal(t, "-1 ", w.Header().Get("X-Length"))
	require.Equal(t, "{\"a\":1}\n\n {\"a\":2} \r\n[1]\n{\"a\":3}", w.Body.String())
	require.Equal(t, 400, send("{\"a\":1}\nx\n").Code)
	require.Equal(t, 400, send(`{"a":"`+strings.Repeat("x", 40)+`"}`).Code)
	require.Equal(t, 200, send(strings.Repeat("{\"a\":1}\n", 1000)).Code)
	require.EqualValues(t, 2, v.Stats().Failures)
}

// The head version costs nothing: next is called with what came.
func TestHeadVersionPasses(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	var gotW http.ResponseWriter
	var gotR *http.Request
	convert := v.Convert(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { gotW, gotR = w, r }))
	serve(v.Resolve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		convert.ServeHTTP(w, r)
		require.Same(t, r, gotR)
		require.Same(t, w, gotW)
	})), request("GET", "/", "V", "2"))
	r := request("GET", "/")
	serve(convert, r)
	require.Same(t, r, gotR, "and so does what was not resolved")
}

func TestDown(t *testing.T) {
	routed := rename("", "b", "c")
	routed.Routes = []string{"/x"}
	message := rename("", "c", "d")
	message.Routes, message.Messages = []string{"/x"}, true
	v := chained(t, versioning.Config{}, rename("", "a", "b"), routed, message)
	for version, want := range map[string]string{"4": `{"d":1,"n":1.0}`, "3": `{"c":1,"n":1.0}`,
		"1": `{"c":1,"n":1.0}`} {
		got, err := v.Down(t.Context(), version, []byte(`{"d":1,"n":1.0}`))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	got, err := v.Down(t.Context(), "1", []byte(`{"b":1}`))
	require.NoError(t, err)
	require.Equal(t, `{"a":1}`, string(got))
	_, err = v.Down(t.Context(), "9", []byte(`{}`))
	require.ErrorIs(t, err, versioning.ErrUnsupported)
	_, err = v.Down(t.Context(), "1", []byte(`{`))
	require.ErrorIs(t, err, versioning.ErrConversion)
}

func TestNewRejectsChanges(t *testing.T) {
	do := func(*http.Request) error { return nil }
	for field, change := range map[string]versioning.Change{
		`Changes[0].Version: "9" is not`: {Version: "9", Name: "x", Request: do},
		`Changes[0].Version: "1" is the`: {Version: "1", Name: "x", Request: do},
		"Changes[0].Name":                {Version: "2", Request: do},
		"Changes[0]: changes nothing":    {Version: "2", Name: "x"},
		"Changes[0].Routes[1]": {Version: "2", Name: "x", Request: do, Routes: []string{"/a",
			"GET /a/{"}},
		"Changes[1].Name: \"x\" is tak": {Version: "2", Name: "x", Request: do},
	} {
		changes := []versioning.Change{change}
		if strings.HasPrefix(field, "Changes[1]") {
			changes = append(changes, change)
		}
		_, err := versioning.New(versioning.Config{
			Versions: named("1", "2"), Sources: []versioning.Source{versioning.Query("v")}, Changes: changes,
		})
		require.ErrorContains(t, err, "versioning: Config."+field)
	}
}
