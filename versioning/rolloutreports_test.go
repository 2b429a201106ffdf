package versioning_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// What users of other rollouts and mirrors have reported, tried here.

// A cookie for one path ties the client to no arm elsewhere (fluxcd/flagger#1339).
func TestTheCookieIsForAllPaths(t *testing.T) {
	cfg := rolloutOf(0.5)
	cfg.Missing = versioning.MissingCookie
	h := newRollout(t, cfg).Handler(newArm("stable"), newArm("canary"))
	for range 50 {
		w := serve(h, request("GET", "/deep/in/the/site"))
		cookies := w.Result().Cookies()
		require.Len(t, cookies, 1)
		require.Equal(t, "/", cookies[0].Path)
		require.Empty(t, cookies[0].Domain, "no other host gets it")
		for _, path := range []string{"/", "/deep", "/elsewhere"} {
			r := request("GET", path)
			r.AddCookie(cookies[0])
			again := serve(h, r)
			require.Equal(t, w.Body.String(), again.Body.String())
			require.Empty(t, again.Result().Cookies())
		}
	}
}

// Between the last step and the promotion nobody meets the old release
// (argoproj/argo-rollouts#1718).
func TestThePromotionGivesStableNothing(t *testing.T) {
	cfg := rolloutOf(1)
	cfg.Manual = true
	r := newRollout(t, cfg)
	require.NoError(t, r.Promote(t.Context()))
	stable, canary := newArm("stable"), newArm("canary")
	h := r.Handler(stable, canary)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			req := request("GET", "/", "User", strconv.Itoa(i))
			for {
				select {
				case <-stop:
					return
				default:
					h.ServeHTTP(&nullWriter{header: http.Header{}}, req)
				}
			}
		})
	}
	more := func() {
		n := canary.served.Load()
		served := func() bool { return canary.served.Load() > n+100 }
		require.Eventually(t, served, time.Minute, time.Millisecond)
	}
	more()
	require.NoError(t, r.Promote(t.Context()))
	require.Equal(t, versioning.PhasePromoted, r.State().Phase)
	more()
	close(stop)
	load.Wait()
	require.Zero(t, stable.served.Load())
}

// An aborted release can be tried again, and one that comes in the middle of another is
// (argoproj/argo-rollouts#3120 and #1690).
func TestReleasesThatFollowEachOther(t *testing.T) {
	cfg := rolloutOf(0.5)
	r := newRollout(t, cfg)
	require.NoError(t, r.Rollback(t.Context(), "aborted"))
	require.NoError(t, r.Retry(t.Context()))
	require.Equal(t, 0.5, r.State().Weight)
	require.NoError(t, r.Pause(t.Context()))
	cfg.Release = "v3"
	require.NoError(t, r.Reload(cfg))
	require.Equal(t, versioning.PhaseRunning, r.State().Phase)
	require.Equal(t, "v3", r.State().Release)
	require.Equal(t, 0.5, r.State().Weight)
	require.Equal(t, []string{"v2"}, r.State().Past)
}

// Checks that only reached the old release promoted a broken one (argoproj/argo-rollouts#1700):
// here the requests of canary itself count, and without enough of them nothing ends.
func TestRequestsToStableProveNothing(t *testing.T) {
	cfg := rolloutOf(0.5)
	cfg.Steps[0].MinTime = -1
	r := newRollout(t, cfg)
	stable, canary := newArm("stable"), newArm("canary")
	h := r.Handler(stable, canary)
	user := ""
	for i := 0; user == ""; i++ {
		if serve(h, request("GET", "/", "User", strconv.Itoa(i))).Body.String() == "stable" {
			user = strconv.Itoa(i)
		}
	}
	for range 1000 {
		serve(h, request("GET", "/", "User", user))
	}
	seen := func() bool { return r.Verdict().Stable.Requests >= 1000 }
	require.Eventually(t, seen, time.Minute, time.Millisecond)
	v := r.Verdict()
	require.Equal(t, versioning.Hold, v.Decision)
	require.Contains(t, strings.Join(v.Missing, " "), "requests to canary: ")
	require.Equal(t, 0.5, r.State().Weight)
}

// A mirror that is slow blocks the next request of the connection (nginx/nginx-gateway-fabric#533,
// apache/apisix#6536), and large bodies vanish without a trace (istio/istio#32394).
func TestAMirrorThatHangsBlocksNoConnection(t *testing.T) {
	hang := make(chan struct{})
	cfg := shadowOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	cfg.Methods = []string{"POST"}
	s, err := versioning.NewShadow(cfg)
	require.NoError(t, err)
	defer func() {
		close(hang)
		require.NoError(t, s.Close(context.Background()))
	}()
	var served atomic.Int64
	srv := server(t, false, s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
		served.Add(1)
	})))
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for _, size := range []int{0, 10, 2 << 20, 10} {
		_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size,
			strings.Repeat("x", size))
		require.NoError(t, err)
		resp, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(size), string(body))
	}
	require.EqualValues(t, 4, served.Load())
	require.EqualValues(t, 1, s.Stats().Requests["too_large"])
}
