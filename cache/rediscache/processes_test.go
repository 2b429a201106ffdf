package rediscache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// The environment of a process that is a member of a fleet, and not a test: the addresses of its
// Redis and of its origin.
const (
	memberOf     = "TRIVET_TEST_FLEET_REDIS"
	memberOrigin = "TRIVET_TEST_FLEET_ORIGIN"
)

// memberTTL is the NearTTL of the processes.
const memberTTL = 500 * time.Millisecond

// serveFleet serves what origin has until its standard input ends. It says its address on standard
// output.
func serveFleet(addr, origin string) {
	client := redis.NewClient(&redis.Options{
		Addr: addr, DialTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		MaxRetries: -1, DialerRetries: 1, // a server that is gone is gone
	})
	far, err1 := rediscache.New(client, generous)
	near, err2 := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	tiered, err3 := cache.NewTiered(cache.TieredConfig{Near: near, Far: far, NearTTL: memberTTL})
	c, err4 := cache.New(cache.Config{Store: tiered, Wait: time.Minute})
	target, err5 := url.Parse(origin)
	ln, err6 := net.Listen("tcp", "127.0.0.1:0")
	for _, err := range []error{err1, err2, err3, err4, err5, err6} {
		if err != nil {
			log.Fatal(err)
		}
	}
	go func() { log.Fatal(tiered.Run(context.Background())) }()
	mux := http.NewServeMux()
	mux.Handle("/", c.Middleware(httputil.NewSingleHostReverseProxy(target)))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if s := tiered.Stats(); !s.Connected || !s.Confirmed {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /purge", func(w http.ResponseWriter, r *http.Request) {
		if err := c.PurgeURL(r.Context(), "http://"+r.Host+r.FormValue("path"), cache.Hard); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	go func() { log.Fatal(http.Serve(ln, mux)) }()
	fmt.Println(ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A realProcess is a member of a fleet that was started for this test.
type realProcess struct {
	url     string
	client  *http.Client
	process *os.Process
}

func startProcess(t *testing.T, redis, origin string) *realProcess {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), memberOf+"="+redis, memberOrigin+"="+origin)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		require.NoError(t, cmd.Wait())
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	p := &realProcess{url: "http://" + strings.TrimSpace(addr), process: cmd.Process,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}},
	}
	t.Cleanup(p.client.CloseIdleConnections)
	require.Eventually(t, func() bool {
		status, _, err := p.do(http.MethodGet, "/ready")
		return err == nil && status == http.StatusOK
	}, time.Minute, time.Millisecond)
	return p
}

func (p *realProcess) do(method, target string) (status int, body string, err error) {
	r, err := http.NewRequest(method, p.url+target, nil)
	if err != nil {
		return 0, "", err
	}
	r.Host = "shop.test"
	resp, err := p.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// ask gets path, and checks the answer's signature.
func (p *realProcess) ask(path string) (generation int, err error) {
	status, body, err := p.do(http.MethodGet, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: status %d", path, status)
	}
	if err != nil {
		return 0, err
	}
	return generationOf(path, body)
}

// TestC63_PurgesUnderLoad: four processes purge what the others serve. No answer is older than what
// was purged before it was asked for, beyond the bound; none is wrong.
func TestC63_PurgesUnderLoad(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	s := httptest.NewServer(origin)
	defer s.Close()
	fleet := make([]*realProcess, 4)
	for i := range fleet {
		fleet[i] = startProcess(t, server.Addr, s.URL)
	}
	purges := 60
	if soak() {
		purges = 1000
	}
	const paths = 10
	var wg sync.WaitGroup
	var answers atomic.Int64
	done := make(chan struct{})
	for _, p := range fleet {
		wg.Go(func() {
			pause := time.NewTicker(time.Millisecond)
			defer pause.Stop()
			for {
				select {
				case <-done:
					return
				case <-pause.C:
				}
				if _, err := p.ask(fmt.Sprint("/", rand.IntN(paths))); err != nil {
					t.Error(err)
				}
				answers.Add(1)
			}
		})
	}
	purge := func(by *realProcess, path string) (took time.Duration) {
		want := origin.change(path)
		status, text, err := by.do(http.MethodPost, "/purge?path="+path)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, text)
		from := time.Now()
		for _, p := range fleet {
			require.Eventually(t, func() bool {
				generation, err := p.ask(path)
				return err == nil && generation >= want
			}, time.Minute, 100*time.Microsecond)
		}
		took = time.Since(from)
		for _, p := range fleet { // and it stays so
			generation, err := p.ask(path)
			require.NoError(t, err)
			require.GreaterOrEqual(t, generation, want)
		}
		return took
	}
	var took []time.Duration
	for i := range purges {
		took = append(took, purge(fleet[i%4], fmt.Sprint("/", i%paths)))
	}

	// Redis dies with a purge that three of them have not learned of, since they are stopped.
	want := origin.change("/0")
	for _, p := range fleet[1:] {
		require.NoError(t, p.process.Signal(syscall.SIGSTOP))
	}
	status, text, err := fleet[0].do(http.MethodPost, "/purge?path=/0")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, text)
	purged := time.Now()
	server.Kill()
	var last time.Duration
	for _, p := range fleet {
		require.NoError(t, p.process.Signal(syscall.SIGCONT))
		for asked := time.Now(); ; asked = time.Now() {
			generation, err := p.ask("/0")
			require.NoError(t, err)
			if generation >= want {
				break
			}
			last = asked.Sub(purged)
			require.Less(t, last, memberTTL)
		}
	}
	close(done)
	wg.Wait()
	t.Logf("Redis killed: the last old answer %v after the purge (bar %v)", last, memberTTL)
	slices.Sort(took)
	t.Logf("%d purges until the last of 4 processes: p50 %v, p99 %v (bar 50ms); %d answers beside",
		purges, took[len(took)/2], took[len(took)*99/100], answers.Load())
}
