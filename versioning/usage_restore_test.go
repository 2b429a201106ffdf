package versioning_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// A version that nobody watched is not removable because others were watched for long: one that was
// added since, one that was away for a while, or one that has another name now.
func TestRestoreDoesNotVouchForOtherVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _ := ledgered(t, versioning.Config{Versions: named("2", "3")})
		time.Sleep(40 * day)
		require.True(t, v.Removable("2").Removable)
		var saved bytes.Buffer
		require.NoError(t, v.Save(&saved))
		next, _ := ledgered(t, versioning.Config{Versions: named("1", "2", "3", "4")})
		start := time.Now()
		require.NoError(t, next.Restore(&saved))
		require.True(t, next.Removable("2").Removable)
		for _, added := range []string{"1", "4"} {
			require.True(t, next.Removable(added).Since.Equal(start), added)
		}
		require.Equal(t, "it is watched for too short a time", next.Removable("1").Reason)
		require.True(t, next.Report().Since.Equal(start.Add(-40*day)))

		require.NoError(t, next.Save(&saved))
		renamed, _ := ledgered(t, versioning.Config{Versions: named("1.0", "2", "3", "4")})
		require.NoError(t, renamed.Restore(&saved))
		require.False(t, renamed.Removable("1.0").Removable)
	})
}

// Of the time between Save and New nobody knows anything. A restart may take that long, but an old
// snapshot does not make anything removable.
func TestRestoreAfterALongTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v, h := ledgered(t, versioning.Config{})
		serve(h, request("GET", "/v1/users/7", "Client", "acme"))
		time.Sleep(10 * day)
		var saved bytes.Buffer
		require.NoError(t, v.Save(&saved))
		for _, tt := range []struct {
			pause  time.Duration
			begins bool
		}{{23 * time.Hour, false}, {2 * time.Hour, true}, {90 * day, true}} {
			time.Sleep(tt.pause)
			next, _ := ledgered(t, versioning.Config{})
			began := time.Now()
			require.NoError(t, next.Restore(bytes.NewReader(saved.Bytes())))
			r := next.Removable("1")
			require.False(t, r.Removable)
			require.True(t, r.LastSeen.Equal(start), "what was seen stays known")
			if !tt.begins {
				began = start
			}
			require.True(t, r.Since.Equal(began), tt.pause)
		}
	})
}

// A request that ends while Removable looks is in flight or in the ledger, and never in neither.
func TestRemovableWhileRequestsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVersions(t, versioning.Config{
			Versions: named("1", "2"), Sources: []versioning.Source{versioning.Query("v")}, Watch: day,
			Client: func(r *http.Request) (string, bool) { return r.URL.Query().Get("c"), true },
		})
		served, end := make(chan struct{}), make(chan struct{})
		h := v.Resolve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("wait") {
				served <- struct{}{}
				<-end
			}
		}))
		for i := range 3000 { // so that looking takes a while
			serve(h, request("GET", fmt.Sprint("/?v=2&c=", i)))
		}
		for range 300 {
			time.Sleep(2 * day)
			done := make(chan struct{})
			go func() {
				defer close(done)
				serve(h, request("GET", "/?v=1&wait"))
			}()
			<-served
			go func() { end <- struct{}{} }()
			require.False(t, v.Removable("1").Removable)
			<-done
			require.Equal(t, "it is in use", v.Removable("1").Reason)
		}
	})
}
