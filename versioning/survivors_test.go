package versioning_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// An object with many members has an index of them, which changes of the object keep right.
func TestObjectsWithManyMembers(t *testing.T) {
	var text bytes.Buffer
	for i := range 40 {
		fmt.Fprintf(&text, `,"m%d":%d`, i, i)
	}
	text.Bytes()[0] = '{'
	text.WriteByte('}')
	o := versioning.NewObject()
	require.NoError(t, o.UnmarshalJSON(text.Bytes()))
	number := func(name string) string { return fmt.Sprint(o.Get(name)) }
	require.Equal(t, "39", number("m39"))

	require.True(t, o.Delete("m0"))
	require.Equal(t, "39", number("m39"))
	require.Nil(t, o.Get("m0"))

	require.True(t, o.Rename("m1", "first"))
	require.Equal(t, "1", number("first"))
	require.False(t, o.Has("m1"))

	o.Set("last", json.Number("99"))
	o.Set("later", json.Number("100"))
	require.Equal(t, "99", number("last"))
	require.Equal(t, "100", number("later"))
	require.Equal(t, "38", number("m38"))
	o.Set("last", json.Number("0"))
	require.Equal(t, "0", number("last"))
	require.Equal(t, 41, o.Len())
}

// Spaces and tabs stand between the tags of a condition.
func TestTabsBetweenTags(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	serve(v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.Equal(t, `"x", W/"y"`, r.Header.Get("If-None-Match"))
	})), request("GET", "/v1/", "If-None-Match", "\"x-1\",\tW/\"y-1\" ,\t\"z-9\""))
}

// What found no place in the ledger was seen too.
func TestLastSeenBeyondMaxKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, h := ledgered(t, versioning.Config{MaxKeys: 1})
		serve(h, request("GET", "/v1/users/7", "Client", "a"))
		time.Sleep(day)
		serve(h, request("GET", "/v1/users/7", "Client", "b"))
		require.True(t, v.Removable("1").LastSeen.Equal(time.Now()))
	})
}

// A clock that went back makes nothing of a snapshot newer than now.
func TestRestoreAfterTheClockWentBack(t *testing.T) {
	var saved bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		v, h := ledgered(t, versioning.Config{MaxKeys: 1})
		time.Sleep(40 * day)
		serve(h, request("GET", "/v1/users/7", "Client", "a"))
		serve(h, request("GET", "/v2/users/7", "Client", "b")) // finds no place
		require.NoError(t, v.Save(&saved))
	})
	synctest.Test(t, func(t *testing.T) {
		v, _ := ledgered(t, versioning.Config{})
		require.NoError(t, v.Restore(&saved))
		for _, version := range []string{"1", "2"} {
			require.True(t, v.Removable(version).LastSeen.Equal(time.Now()), version)
		}
	})
}

// Some servers take a backslash for a slash, also in front of dots.
func TestV07_BackslashesBeforeDots(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Path("/v")},
	})
	for _, path := range []string{`/v2/a\..\v1/x`, `/v2/a\../x`, `/v2/a\..`, `/v2/a\.;b`} {
		r := request("GET", "/")
		r.URL.Path = path
		require.Equal(t, 400, serve(v.Resolve(telling), r).Code, path)
	}
}

// Floor takes today's date, which is no day that nobody knows.
func TestFloorOfToday(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01
		v := newVersions(t, versioning.Config{
			Versions: named("1999-01-01", "1999-06-01"), Match: versioning.Floor,
			Sources: []versioning.Source{versioning.Header("V")},
		})
		for date, code := range map[string]int{"1999-12-31": 200, "2000-01-01": 200, "2000-01-02": 400} {
			require.Equal(t, code, serve(v.Resolve(telling), request("GET", "/", "V", date)).Code, date)
		}
	})
}

// A version with nothing but a date of its deprecation is deprecated from then on.
func TestDeprecatedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVersions(t, versioning.Config{
			Versions: []versioning.Version{{Name: "1", Deprecated: time.Now().Add(time.Hour)}, {Name: "2"}},
			Sources:  []versioning.Source{versioning.Header("V")},
		})
		for _, want := range []versioning.Status{versioning.Active, versioning.Deprecated} {
			serve(v.Resolve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				resolved, _ := versioning.FromContext(r.Context())
				require.Equal(t, want, resolved.Status)
			})), request("GET", "/", "V", "1"))
			time.Sleep(time.Hour)
		}
	})
}

// A 101 is the end of a response's header, though it is a 1xx.
func TestFieldsOfAnUpgrade(t *testing.T) {
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Header("V")}, Echo: "Spoken",
	})
	w := &sentHeader{nullWriter: nullWriter{header: http.Header{}}}
	v.Resolve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(101)
	})).ServeHTTP(w, request("GET", "/", "V", "2"))
	require.Equal(t, "2", w.sent.Get("Spoken"))
}

// A sentHeader remembers the header as it was when it was sent.
type sentHeader struct {
	nullWriter
	sent http.Header
}

func (w *sentHeader) WriteHeader(int) { w.sent = w.header.Clone() }

// A response without a body has no type either, also where net/http would not see to it.
func TestNoTypeWithoutABody(t *testing.T) {
	v := chained(t, versioning.Config{}, withStatus(200, 204))
	w := serve(v.Middleware(answering("application/json", "{}")), request("GET", "/v1/"))
	require.Equal(t, 204, w.Code)
	require.NotContains(t, w.Header(), "Content-Type")
	require.NotContains(t, w.Header(), "Content-Length")
	require.Empty(t, w.Body.String())
}
