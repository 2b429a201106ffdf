package versioning_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

func TestDocument(t *testing.T) {
	const base = `{"openapi":"3.1.0","info":{"title":"Users","version":"3"},"x-n":1.00,"paths":{` +
		`"/users":{"parameters":[],"get":{"x":1},"x-y":{}},"/a":{"post":{},"$ref":"#"}}}`
	var order []string
	schema := func(version, name string) versioning.Change {
		return versioning.Change{Version: version, Name: name, Schema: func(doc *versioning.Object) error {
			order = append(order, name)
			doc.Object("paths").Delete("/" + name)
			return nil
		}}
	}
	bad := versioning.Change{Version: "2", Name: "bad", Schema: func(doc *versioning.Object) error {
		return failIf(doc.Has("x-fail"))
	}}
	v := newVersions(t, versioning.Config{
		Versions: []versioning.Version{
			{Name: "1", Deprecated: day1, Sunset: day1.AddDate(1, 0, 0)}, {Name: "2", Deprecated: day1},
			{Name: "3"},
		},
		Sources: []versioning.Source{versioning.Query("v")},
		Changes: []versioning.Change{schema("3", "a"), schema("2", "first"), schema("2", "second"), bad},
	})
	strip := strings.NewReplacer("\n", "", " ", "")
	document := func(version string) string {
		out, err := v.Document([]byte(base), version)
		require.NoError(t, err)
		return strip.Replace(string(out))
	}
	require.Equal(t, strip.Replace(base), document("3"))
	require.Empty(t, order)
	require.Equal(t, `{"openapi":"3.1.0","info":{"title":"Users","version":"2"},"x-n":1.00,"paths":{`+
		`"/users":{"parameters":[],"get":{"x":1,"deprecated":true},"x-y":{}}}}`, document("2"))
	order = nil
	require.Contains(t, document("1"), `"get":{"x":1,"deprecated":true,"x-sunset":"2021-01-01"}`)
	require.Equal(t, []string{"a", "second", "first"}, order, "the latest first")

	_, err := v.Document([]byte(base), "9")
	require.ErrorIs(t, err, versioning.ErrUnsupported)
	for _, text := range []string{"", "[]", "{", "{}"} {
		_, err = v.Document([]byte(text), "1")
		require.Error(t, err)
	}
	_, err = v.Document([]byte(`{"info":{},"x-fail":1}`), "1")
	require.ErrorContains(t, err, "change bad: secret reason")
	require.Error(t, errors.Unwrap(err))
}
