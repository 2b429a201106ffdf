package versioningtest_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/versioning"
	"github.com/trivet-go/trivet/versioning/versioningtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names is the change between the versions of the fixtures: a user's name became an object.
func names() versioning.Change {
	return versioning.Change{
		Version: "2026-01-01", Name: "name-is-an-object",
		RequestBody: versioning.JSON(func(o *versioning.Object) error {
			name := versioning.NewObject()
			for _, part := range []string{"first", "last"} {
				name.Set(part, o.Get(part))
				o.Delete(part)
			}
			o.Set("name", name)
			return nil
		}),
		ResponseBody: versioning.JSON(func(o *versioning.Object) error {
			for _, part := range []string{"first", "last"} {
				o.Set(part, o.Object("name").Get(part))
			}
			o.Delete("name")
			return nil
		}),
	}
}

func versions(t *testing.T, changes ...versioning.Change) *versioning.Versions {
	t.Helper()
	v, err := versioning.New(versioning.Config{
		Versions: []versioning.Version{{Name: "2025-01-01"}, {Name: "2026-01-01"}},
		Sources:  []versioning.Source{versioning.Header("Api-Version")}, Echo: "Api-Version",
		Changes: changes,
	})
	require.NoError(t, err)
	return v
}

func TestRun(t *testing.T) {
	schema := versioning.Change{Version: "2026-01-01", Name: "schema",
		Schema: func(*versioning.Object) error { return nil }}
	versioningtest.Run(t, versions(t, names(), schema), os.DirFS("testdata"), "*.json")
}

func fixture(t *testing.T) (f versioningtest.Fixture) {
	t.Helper()
	text, err := os.ReadFile("testdata/user.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &f))
	return f
}

// Whatever differs from the recording is told.
func TestCheckFindsFaults(t *testing.T) {
	for want, spoil := range map[string]func(f *versioningtest.Fixture, c *versioning.Change){
		"the client's response: the body is": func(_ *versioningtest.Fixture, c *versioning.Change) {
			c.ResponseBody = versioning.JSON(func(o *versioning.Object) error { o.Delete("id"); return nil })
		},
		"the client's response: Etag is": func(f *versioningtest.Fixture, _ *versioning.Change) {
			f.Result.Header = map[string]string{"Etag": `"x"`}
		},
		"the client's response: Api-Version is": func(f *versioningtest.Fixture, _ *versioning.Change) {
			f.Result.Header = map[string]string{"Api-Version": ""}
		},
		"the client's response: the status is 200, not 201": func(f *versioningtest.Fixture,
			_ *versioning.Change) {
			f.Result.Status = 201
		},
		"the handler's request: the URL is /users/7, not /": func(f *versioningtest.Fixture,
			_ *versioning.Change) {
			f.Handler.URL = "/"
		},
		"the handler's request: it is GET, not PUT": func(f *versioningtest.Fixture, _ *versioning.Change) {
			f.Handler.Method = "PUT"
		},
		"the request was refused: 400": func(f *versioningtest.Fixture, _ *versioning.Change) {
			f.Client.Header = nil
		},
		"what the client got, sent back: the handler's request": func(f *versioningtest.Fixture,
			c *versioning.Change) {
			c.RequestBody = versioning.Body{}
		},
		"is no JSON": func(f *versioningtest.Fixture, _ *versioning.Change) {
			f.Answer.Body, f.Answer.Text, f.WriteBack = nil, "text", nil
		},
	} {
		f, change := fixture(t), names()
		spoil(&f, &change)
		faults := strings.Join(f.Check(versions(t, change), nil), "\n")
		require.Contains(t, faults, want)
	}
	f := fixture(t)
	require.Empty(t, f.Check(versions(t, names()), nil))
}

// A stream that a change cannot convert is a fault of its fixture, and a change that panics is told
// as it panicked.
func TestCheckOfStreamsThatBreakOff(t *testing.T) {
	f := versioningtest.Fixture{
		Client: versioningtest.Message{URL: "/", Header: map[string]string{"Api-Version": "2025-01-01"}},
		Answer: versioningtest.Message{Text: "{}\n", Header: map[string]string{
			"Content-Type": "application/x-ndjson",
		}},
	}
	broken := versioning.Change{Version: "2026-01-01", Name: "broken",
		ResponseBody: versioning.JSON(func(*versioning.Object) error { return errors.New("broken") })}
	require.Contains(t, strings.Join(f.Check(versions(t, broken), nil), ""), "it broke off")
	broken.ResponseBody = versioning.JSON(func(*versioning.Object) error { panic("oops") })
	require.PanicsWithValue(t, "oops", func() { f.Check(versions(t, broken), nil) })
}

func TestUnused(t *testing.T) {
	other := versioning.Change{Version: "2026-01-01", Name: "other", Routes: []string{"/other"},
		Request: func(*http.Request) error { return nil }}
	v := versions(t, names(), other)
	ran := map[string]bool{}
	f := fixture(t)
	require.Empty(t, f.Check(v, func(change string) { ran[change] = true }))
	require.Equal(t, []string{"other"}, versioningtest.Unused(v, ran))
}
