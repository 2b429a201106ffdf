package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oasdiff/oasdiff/diff"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/versioning"
	"github.com/trivet-go/trivet/versioning/versioningtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestVersions(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out))
	for _, line := range []string{
		`acme asks POST /v2025-01-15/people: 201 in version "2025-01-15", ` +
			"until Tue, 31 Dec 2199 00:00:00 GMT, at /v2025-01-15/people/1\n" +
			`  {"id":1,"name":"Ada Lovelace"}`,
		`acme asks GET /people/1: 200 in version "2025-01-15", until Tue, 31 Dec 2199 00:00:00 GMT` + "\n" +
			`  {"id":1,"name":"Ada Lovelace"}`,
		`globex asks GET /people: 200 in version "2025-09-01"` + "\n" +
			`  [{"id":1,"name":{"first":"Ada","last":"Lovelace"}}]`,
		`initech asks GET /users: 200 in version "2026-06-01"` + "\n" +
			`  {"data":[{"id":1,"name":{"first":"Ada","last":"Lovelace"}}],"total":1}`,
		`acme asks GET /v2024-01-01/people: 404 in version ""`,
		`acme asks GET /v2025-01-15/people: 400 in version ""`,
		`acme's webhook: {"id":1,"name":"Ada Lovelace"}`,
		`may 2025-01-15 be removed? false, it is watched for too short a time; used by [acme]`,
	} {
		require.Contains(t, out.String(), line)
	}
}

func TestRecordedExchanges(t *testing.T) {
	v, err := newVersions(changes())
	require.NoError(t, err)
	versioningtest.Run(t, v, os.DirFS("testdata"), "fixture-*.json")
}

// differences returns how the document that changes make of the head's differs from the one that
// was published with the first version.
func differences(t *testing.T, changes []versioning.Change) *diff.Diff {
	t.Helper()
	v, err := newVersions(changes)
	require.NoError(t, err)
	made, err := v.Document(openAPI, january)
	require.NoError(t, err)
	published, err := os.ReadFile("testdata/openapi-2025-01-15.json")
	require.NoError(t, err)
	var docs [2]*openapi3.T
	for i, text := range [][]byte{published, made} {
		docs[i], err = openapi3.NewLoader().LoadFromData(text)
		require.NoError(t, err)
	}
	d, err := diff.Get(diff.NewConfig(), docs[0], docs[1])
	require.NoError(t, err)
	return d
}

// The changes account for every difference between the documents of the first and the last version.
func TestChangesAreComplete(t *testing.T) {
	require.True(t, differences(t, changes()).Empty())
	for i, c := range changes() {
		d := differences(t, slices.Delete(changes(), i, i+1))
		require.False(t, d.Empty(), "without %s nothing is found", c.Name)
	}
}
