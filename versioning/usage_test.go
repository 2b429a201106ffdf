package versioning_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

const day = 24 * time.Hour

// ledgered returns Versions 1 to 3 whose clients are named by a field, and their middleware around
// a mux.
func ledgered(t testing.TB, cfg versioning.Config) (*versioning.Versions, http.Handler) {
	t.Helper()
	if cfg.Versions == nil {
		cfg.Versions = named("1", "2", "3")
	}
	cfg.Sources = []versioning.Source{versioning.Path("/v"), versioning.Query("v")}
	cfg.Client = func(r *http.Request) (string, bool) {
		return r.Header.Get("Client"), r.Header.Get("Client") != ""
	}
	v := newVersions(t, cfg)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /wait", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	return v, v.Middleware(mux)
}

func TestRemovable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v, h := ledgered(t, versioning.Config{Internal: func(r *http.Request) bool {
			return r.Header.Get("Client") == "monitor"
		}})
		r := v.Removable("1")
		require.False(t, r.Removable)
		require.Equal(t, "it is watched for too short a time", r.Reason)
		require.True(t, r.Since.Equal(start))
		require.True(t, r.LastSeen.IsZero())

		time.Sleep(day)
		serve(h, request("GET", "/v1/users/7", "Client", "acme"))
		serve(h, request("GET", "/users/8?v=1", "Client", "acme"))
		serve(h, request("GET", "/v1/users/7"))
		serve(h, request("GET", "/v1/users/7", "Client", "monitor"))
		time.Sleep(28*day + 23*time.Hour)
		require.False(t, v.Removable("1").Removable, "not before Watch, whatever was used")
		require.False(t, v.Removable("2").Removable)
		time.Sleep(time.Hour)
		require.True(t, v.Removable("2").Removable)
		r = v.Removable("1")
		require.False(t, r.Removable)
		require.Equal(t, "it is in use", r.Reason)
		require.Equal(t, []string{"", "acme"}, r.Clients)
		require.EqualValues(t, 3, r.Requests)
		require.True(t, r.LastSeen.Equal(start.Add(day)))
		require.False(t, v.Removable("3").Removable, "the head")
		require.False(t, v.Removable("4").Removable)

		time.Sleep(day)
		serve(h, request("GET", "/v1/users/7", "Client", "monitor"))
		r = v.Removable("1")
		require.True(t, r.Removable, "internal requests are no use")
		require.Empty(t, r.Reason)
		require.Empty(t, r.Clients)
		require.True(t, r.LastSeen.Equal(start.Add(day)))
	})
}

// A stream that lasts longer than Watch is use, and its end is when it was last seen.
func TestRequestsInFlightAreUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, h := ledgered(t, versioning.Config{})
		r := request("GET", "/v1/wait", "Client", "acme")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			serve(h, r.WithContext(ctx))
		}()
		time.Sleep(40 * day)
		require.Equal(t, "requests are in flight", v.Removable("1").Reason)
		cancel()
		<-done
		require.Equal(t, "it is in use", v.Removable("1").Reason)
		time.Sleep(30 * day)
		require.True(t, v.Removable("1").Removable)
	})
}

// Requests of a version that has ended are use too.
func TestRefusedRequestsAreUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, h := ledgered(t, versioning.Config{
			Versions: []versioning.Version{{Name: "1", Sunset: time.Now().Add(-day)}, {Name: "2"}},
			Watch:    day,
		})
		time.Sleep(2 * day)
		require.True(t, v.Removable("1").Removable)
		require.Equal(t, 410, serve(h, request("GET", "/v1/users/7", "Client", "acme")).Code)
		require.Equal(t, 404, serve(h, request("GET", "/v9/users/7", "Client", "acme")).Code)
		require.Equal(t, []string{"acme"}, v.Removable("1").Clients)
	})
}

// Beyond MaxKeys nothing is forgotten and nobody is told that a version may go.
func TestLedgerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, h := ledgered(t, versioning.Config{MaxKeys: 10, Watch: day})
		time.Sleep(2 * day)
		for i := range 1000 {
			serve(h, request("GET", "/v2/users/7", "Client", fmt.Sprint(i)))
		}
		require.Equal(t, 10, v.Stats().Keys)
		require.EqualValues(t, 990, v.Stats().Overflowed)
		require.EqualValues(t, 1000, v.Removable("2").Requests)
		time.Sleep(2 * day)
		for _, version := range []string{"1", "2"} {
			require.Equal(t, "there are more keys than MaxKeys", v.Removable(version).Reason)
		}
		// A key is bounded too.
		long, g := ledgered(t, versioning.Config{})
		serve(g, request("GET", "/v2/users/7", "Client", strings.Repeat("x", 10000)))
		require.Len(t, long.Removable("2").Clients[0], 128)
	})
}

func TestReport(t *testing.T) {
	past := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	v, h := ledgered(t, versioning.Config{Versions: []versioning.Version{
		{Name: "1", Deprecated: past, Successor: "/v2"}, {Name: "2"},
	}})
	serve(h, request("GET", "/v1/users/7", "Client", "acme"))
	serve(h, request("GET", "/v1/users/8", "Client", "acme"))
	serve(h, request("GET", "/v1/nowhere", "Client", "<b>"))
	w := serve(v.ReportHandler(), request("GET", "/"))
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.NotContains(t, w.Body.String(), "<b>")
	var report versioning.Report
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &report))
	require.Equal(t, 2, report.Keys)
	one := report.Versions[0]
	require.Equal(t, "1", one.Version)
	require.Equal(t, versioning.Deprecated, one.Status)
	require.True(t, one.Deprecated.Equal(past))
	require.Nil(t, one.Sunset)
	require.Equal(t, "/v2", one.Successor)
	require.Len(t, one.Usage, 2)
	require.Equal(t, "<b>", one.Usage[0].Client, "the latest first")
	require.Equal(t, "GET /users/{id}", one.Usage[1].Route)
	require.EqualValues(t, 2, one.Usage[1].Requests)
	require.Equal(t, 405, serve(v.ReportHandler(), request("POST", "/")).Code)
}

func TestSaveAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v, h := ledgered(t, versioning.Config{MaxKeys: 2})
		time.Sleep(20 * day)
		for _, client := range []string{"a", "b", "c"} {
			serve(h, request("GET", "/v1/users/7", "Client", client))
		}
		serve(h, request("GET", "/v2/users/7", "Client", "b"))
		var saved bytes.Buffer
		require.NoError(t, v.Save(&saved))

		time.Sleep(day)
		next, g := ledgered(t, versioning.Config{MaxKeys: 100, Versions: named("1", "3")})
		serve(g, request("GET", "/v1/users/7", "Client", "a"))
		require.NoError(t, next.Restore(bytes.NewReader(saved.Bytes())))
		r := next.Removable("1")
		require.True(t, r.Since.Equal(start))
		require.EqualValues(t, 4, r.Requests)
		require.Equal(t, []string{"a", "b"}, r.Clients)
		require.True(t, r.LastSeen.Equal(start.Add(21*day)))
		require.Equal(t, "there are more keys than MaxKeys", r.Reason, "that is remembered")
		usage := next.Report().Versions[0].Usage
		require.Equal(t, "a", usage[0].Client)
		require.EqualValues(t, 2, usage[0].Requests)
		require.True(t, usage[0].First.Equal(start.Add(20*day)))

		// What is damaged anywhere changes nothing.
		fresh, _ := ledgered(t, versioning.Config{})
		for i := range saved.Len() {
			bad := bytes.Clone(saved.Bytes())
			bad[i] ^= 1
			require.ErrorIs(t, fresh.Restore(bytes.NewReader(bad)), versioning.ErrSnapshot)
			require.ErrorIs(t, fresh.Restore(bytes.NewReader(saved.Bytes()[:i])), versioning.ErrSnapshot)
		}
		require.Zero(t, fresh.Stats().Keys)
		broken := errors.New("broken")
		require.ErrorIs(t, fresh.Restore(iotest.ErrReader(broken)), broken)
		require.ErrorIs(t, fresh.Save(failingWriter{broken}), broken)

		// A clock that went back makes nothing newer than now.
		require.NoError(t, fresh.Restore(bytes.NewReader(saved.Bytes())))
		require.False(t, fresh.Removable("1").LastSeen.After(time.Now()))
	})
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestLedgerIsSafeForConcurrentUse(t *testing.T) {
	v, h := ledgered(t, versioning.Config{MaxKeys: 50})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				serve(h, request("GET", "/v1/users/7", "Client", fmt.Sprint((g+i)%60)))
				if i%20 == 0 {
					v.Report()
					_ = v.Save(io.Discard)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 800, v.Removable("1").Requests)
	require.Equal(t, 50, v.Stats().Keys)
}
