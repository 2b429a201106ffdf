package benchmarks_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gregjones/httpcache"

	"github.com/trivet-go/trivet/cache"
)

// cacheFields are the fields of the responses that are cached here, and those that a hit adds.
var (
	cacheFields = [...]string{
		"Content-Type", "application/json", "Cache-Control", "max-age=3600", "Etag", `"abcdef"`,
		"Date", time.Now().UTC().Format(http.TimeFormat),
	}
	hitFields = [...]string{"Age", "1", "Cache-Status", "Trivet; hit; ttl=3599"}
)

// sized answers with size bytes, fields with Header.Set, and one Write.
func sized(size int, fields ...string) http.Handler {
	body := bytes.Repeat([]byte("x"), size)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for i := 0; i < len(fields); i += 2 {
			h.Set(fields[i], fields[i+1])
		}
		h.Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(body)
	})
}

// cachedAndBare returns a handler whose answers are hits, and one that sends the same without a
// cache.
func cachedAndBare(b *testing.B, size int) (cached, bare http.Handler) {
	c, err := cache.New(cache.Config{})
	if err != nil {
		b.Fatal(err)
	}
	cached = c.Middleware(sized(size, cacheFields[:]...))
	cached.ServeHTTP(httptest.NewRecorder(), cacheRequest())
	return cached, sized(size, append(cacheFields[:], hitFields[:]...)...)
}

func cacheRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://example.com/products/17?page=2", nil)
	r.Header.Set("User-Agent", "Mozilla/5.0")
	r.Header.Set("Accept", "*/*")
	r.Header.Set("Accept-Encoding", "gzip, br")
	return r
}

// reportRatio reports the medians of ours and of the base, and those of the paired ratios with the
// spread.
func reportRatio(b *testing.B, base string, bases, ours []float64) {
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / bases[i]
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(medianOf(bases), base+"-ns")
	b.ReportMetric(medianOf(ours), "trivet-ns")
	b.ReportMetric(medianOf(ratios), "ratio")
	b.ReportMetric(slices.Min(ratios), "ratio-min")
	b.ReportMetric(slices.Max(ratios), "ratio-max")
}

// nsEach returns how long each of n calls of f takes.
func nsEach(n int, f func()) float64 {
	began := time.Now()
	for range n {
		f()
	}
	return float64(time.Since(began)) / float64(n)
}

// BenchmarkHTTPCacheHit compares a hit through Middleware with a bare handler that sends the same,
// without a network. An iteration is a pair of blocks: -benchtime 10x.
func BenchmarkHTTPCacheHit(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run("size="+strconv.Itoa(size), func(b *testing.B) {
			cached, bare := cachedAndBare(b, size)
			w, r := nullResponse{http.Header{}}, cacheRequest()
			call := func(h http.Handler) func() {
				return func() {
					clear(w.Header())
					h.ServeHTTP(w, r)
				}
			}
			var bases, ours []float64
			for b.Loop() {
				bases = append(bases, nsEach(50_000, call(bare)))
				ours = append(ours, nsEach(50_000, call(cached)))
			}
			reportRatio(b, "bare", bases, ours)
			b.ReportMetric(testing.AllocsPerRun(1000, call(cached)), "trivet-allocs")
		})
	}
}

// BenchmarkHTTPCacheTransportHit compares a hit through Transport, body read, with
// gregjones/httpcache.
func BenchmarkHTTPCacheTransportHit(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run("size="+strconv.Itoa(size), func(b *testing.B) {
			origin := roundTripFunc(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				sized(size, cacheFields[:]...).ServeHTTP(w, r)
				resp := w.Result()
				resp.Request = r
				return resp, nil
			})
			c, err := cache.New(cache.Config{Private: true})
			if err != nil {
				b.Fatal(err)
			}
			r, err := http.NewRequest(http.MethodGet, "http://example.com/products/17?page=2", nil)
			if err != nil {
				b.Fatal(err)
			}
			rival := httpcache.NewMemoryCacheTransport()
			rival.Transport = origin
			call := func(rt http.RoundTripper) func() {
				return func() {
					resp, err := rt.RoundTrip(r)
					if err != nil {
						panic(err)
					}
					if n, err := io.Copy(io.Discard, resp.Body); n != int64(size) || err != nil {
						panic(fmt.Sprint(n, err))
					}
					resp.Body.Close()
				}
			}
			mine, theirs := call(c.Transport(origin)), call(rival)
			mine()
			theirs()
			var bases, ours []float64
			for b.Loop() {
				bases = append(bases, nsEach(5_000, theirs))
				ours = append(ours, nsEach(5_000, mine))
			}
			reportRatio(b, "gregjones", bases, ours)
			b.ReportMetric(testing.AllocsPerRun(1000, mine), "trivet-allocs")
			b.ReportMetric(testing.AllocsPerRun(1000, theirs), "gregjones-allocs")
		})
	}
}

// BenchmarkHTTPCacheColdKey sends 1,000 requests at once for a key that nobody has asked for.
func BenchmarkHTTPCacheColdKey(b *testing.B) {
	c, err := cache.New(cache.Config{})
	if err != nil {
		b.Fatal(err)
	}
	var calls atomic.Int64
	answer := sized(1<<10, cacheFields[:]...)
	h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		time.Sleep(20 * time.Millisecond)
		answer.ServeHTTP(w, r)
	}))
	for n := 0; b.Loop(); n++ {
		calls.Store(0)
		var served atomic.Int64
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+strconv.Itoa(n), nil))
				if w.Code == http.StatusOK && w.Body.Len() == 1<<10 {
					served.Add(1)
				}
			})
		}
		wg.Wait()
		if calls.Load() != 1 || served.Load() != 1000 {
			b.Fatalf("%d origin requests, %d of 1000 served", calls.Load(), served.Load())
		}
	}
	b.ReportMetric(1, "origin-requests")
}

// BenchmarkHTTPCacheScaling compares how much more two processors serve than one, with hits and
// with the bare handler.
func BenchmarkHTTPCacheScaling(b *testing.B) {
	cached, bare := cachedAndBare(b, 1<<10)
	rate := func(h http.Handler, procs int) float64 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		const n = 200_000
		began := time.Now()
		var wg sync.WaitGroup
		for range procs {
			wg.Go(func() {
				w, r := nullResponse{http.Header{}}, cacheRequest()
				for range n {
					clear(w.Header())
					h.ServeHTTP(w, r)
				}
			})
		}
		wg.Wait()
		return float64(n*procs) / time.Since(began).Seconds()
	}
	var bases, ours, shares []float64
	for b.Loop() {
		base := rate(bare, 2) / rate(bare, 1)
		mine := rate(cached, 2) / rate(cached, 1)
		bases, ours, shares = append(bases, base), append(ours, mine), append(shares, mine/base)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(medianOf(bases), "bare-times-one")
	b.ReportMetric(medianOf(ours), "trivet-times-one")
	b.ReportMetric(medianOf(shares), "ratio")
	b.ReportMetric(slices.Min(shares), "ratio-min")
	b.ReportMetric(slices.Max(shares), "ratio-max")
}

// BenchmarkHTTPCacheMutexes fails if the mutex profile of hits on two processors has an entry of
// the cache's.
func BenchmarkHTTPCacheMutexes(b *testing.B) {
	cached, _ := cachedAndBare(b, 1<<10)
	runtime.SetMutexProfileFraction(1)
	defer runtime.SetMutexProfileFraction(0)
	b.RunParallel(func(pb *testing.PB) {
		w, r := nullResponse{http.Header{}}, cacheRequest()
		for pb.Next() {
			clear(w.Header())
			cached.ServeHTTP(w, r)
		}
	})
	var profile bytes.Buffer
	if err := pprof.Lookup("mutex").WriteTo(&profile, 1); err != nil {
		b.Fatal(err)
	}
	// A record ends before the next "@". The runtime's own locks, which an allocation can wait for,
	// have no frame of sync's.
	for record := range strings.SplitSeq(profile.String(), "@") {
		if strings.Contains(record, "sync.(*") && strings.Contains(record, "trivet/cache.") {
			b.Fatalf("hits wait for a lock of the cache's:\n%s", record)
		}
	}
}

// BenchmarkHTTPCacheKeys asks for 10 million keys, each once, through a store of 64 MiB. It reports
// the live heap beyond that of an empty cache, as a share of the bound, after 1, 2, 5 and 10
// million.
func BenchmarkHTTPCacheKeys(b *testing.B) {
	const bound = 64 << 20
	for b.Loop() {
		before := heap()
		store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: bound})
		if err != nil {
			b.Fatal(err)
		}
		c, err := cache.New(cache.Config{Store: store})
		if err != nil {
			b.Fatal(err)
		}
		h := c.Middleware(sized(1<<10, cacheFields[:]...))
		w, r := nullResponse{http.Header{}}, cacheRequest()
		for n := 1; n <= 10_000_000; n++ {
			clear(w.Header())
			r.URL.Path = "/products/" + strconv.Itoa(n)
			h.ServeHTTP(w, r)
			switch n {
			case 1_000_000, 2_000_000, 5_000_000, 10_000_000:
				b.ReportMetric(float64(heap()-before)/bound, fmt.Sprintf("bounds-at-%dM", n/1_000_000))
			}
		}
		runtime.KeepAlive(c)
	}
}

// BenchmarkHTTPCacheServed compares the processor time that a server uses for a request over HTTP:
// one that serves hits, and one with a bare handler. Each server is a process of its own.
func BenchmarkHTTPCacheServed(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run("size="+strconv.Itoa(size), func(b *testing.B) {
			bare, cached := startCacheServer(b, "bare", size), startCacheServer(b, "cached", size)
			const n = 5000
			var bases, ours []float64
			for b.Loop() {
				bases = append(bases, bare.cpuEach(b, n))
				ours = append(ours, cached.cpuEach(b, n))
			}
			reportRatio(b, "bare-cpu", bases, ours)
		})
	}
}

const cacheServerEnv = "TRIVET_CACHE_SERVER"

// cacheServer runs in a process that startCacheServer has started. It prints its URL, and ends with
// its standard input.
func cacheServer() {
	kind, text, ok := strings.Cut(os.Getenv(cacheServerEnv), " ")
	if !ok {
		return
	}
	size, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	handler := sized(size, append(cacheFields[:], hitFields[:]...)...)
	if kind == "cached" {
		c, err := cache.New(cache.Config{})
		if err != nil {
			panic(err)
		}
		handler = c.Middleware(sized(size, cacheFields[:]...))
	}
	fmt.Println(httptest.NewServer(handler).URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

type cacheServerProcess struct {
	url string
	pid int
}

func startCacheServer(b *testing.B, kind string, size int) *cacheServerProcess {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), cacheServerEnv+"="+kind+" "+strconv.Itoa(size))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	p := &cacheServerProcess{pid: cmd.Process.Pid}
	if _, err := fmt.Fscanln(stdout, &p.url); err != nil {
		b.Fatal(err)
	}
	p.cpuEach(b, 2000) // warm
	return p
}

// cpuEach sends n requests, eight at a time, and returns the server's processor time for each in
// ns.
func (p *cacheServerProcess) cpuEach(b *testing.B, n int) float64 {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	before := p.cpu(b)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				resp, err := client.Get(p.url + "/products/17")
				if err != nil {
					panic(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	return float64(p.cpu(b)-before) / float64(n/8*8)
}

// cpu returns the processor time of all of the process's threads, which Linux counts in ns.
func (p *cacheServerProcess) cpu(b *testing.B) (ns int64) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil || len(files) == 0 {
		b.Fatalf("no schedstat of process %d: %v", p.pid, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		var on int64
		if _, err := fmt.Sscan(string(text), &on); err != nil {
			b.Fatal(err)
		}
		ns += on
	}
	return ns
}
