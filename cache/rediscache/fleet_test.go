package rediscache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// soak reports whether the tests shall take their full time.
func soak() bool { return os.Getenv("TRIVET_SOAK") == "1" }

// generous is a Config whose budgets no busy machine exceeds.
var generous = rediscache.Config{Prefix: "shop", Timeout: 30 * time.Second, PurgeTimeout: 30 * time.Second}

func newStore(t testing.TB, c redis.UniversalClient, cfg rediscache.Config) *rediscache.Store {
	t.Helper()
	s, err := rediscache.New(c, cfg)
	require.NoError(t, err)
	return s
}

func newCache(t testing.TB, cfg cache.Config) *cache.Cache {
	t.Helper()
	c, err := cache.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

// An origin signs each answer by its URL and the generation that the URL has.
type origin struct {
	fields []string // names and values in turn
	delay  func()   // before it answers; may be nil

	calls atomic.Int64
	mu    sync.Mutex // guards the field below
	gens  map[string]int
}

func newOrigin(fields ...string) *origin {
	return &origin{fields: fields, gens: make(map[string]int)}
}

func (o *origin) generation(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gens[path]
}

// change begins a new generation of path, and returns it.
func (o *origin) change(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gens[path]++
	return o.gens[path]
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.calls.Add(1)
	generation := o.generation(r.URL.Path)
	if o.delay != nil {
		o.delay()
	}
	w.Header().Set("Cache-Control", "max-age=600")
	w.Header().Set("Surrogate-Key", "tag"+strings.ReplaceAll(r.URL.Path, "/", "-"))
	for i := 0; i < len(o.fields); i += 2 {
		w.Header().Set(o.fields[i], o.fields[i+1])
	}
	_, _ = io.WriteString(w, signed(r.URL.Path, generation))
}

func signed(path string, generation int) string {
	return strings.Repeat(fmt.Sprintf("%s@%d;", path, generation), 1+len(path)*17%29)
}

// generationOf returns the generation that an answer for path is of; it fails if it is none at all.
func generationOf(path, body string) (int, error) {
	var generation int
	first, _, _ := strings.Cut(body, ";")
	if _, err := fmt.Sscanf(first, path+"@%d", &generation); err != nil {
		return 0, fmt.Errorf("%q for %s: %w", first, path, err)
	}
	if body != signed(path, generation) {
		return 0, fmt.Errorf("%q for %s is damaged", first, path)
	}
	return generation, nil
}

// get asks h for path and checks the signature.
func get(t testing.TB, h http.Handler, path string) (generation int, status string) {
	t.Helper()
	generation, status, err := ask(h, path)
	require.NoError(t, err)
	return generation, status
}

func ask(h http.Handler, path string) (generation int, status string, err error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://example.com"+path, nil))
	if w.Code != http.StatusOK {
		return 0, "", fmt.Errorf("%s: status %d", path, w.Code)
	}
	generation, err = generationOf(path, w.Body.String())
	return generation, w.Header().Get("Cache-Status"), err
}

func hit(status string) bool { return strings.Contains(status, "; hit") }

// A process is what each of several processes has.
type process struct {
	client redis.UniversalClient
	far    *rediscache.Store
	tiered *cache.Tiered
	cache  *cache.Cache
	h      http.Handler
	stop   func()
}

// startFleet starts n processes in front of one origin; clients makes a client for each.
func startFleet(
	t testing.TB, n int, clients func() redis.UniversalClient, cfg rediscache.Config,
	tier cache.TieredConfig, origin http.Handler,
) []*process {
	t.Helper()
	fleet := make([]*process, n)
	for i := range fleet {
		near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		p := &process{client: clients()}
		p.far = newStore(t, p.client, cfg)
		tier.Near, tier.Far = near, p.far
		p.tiered, err = cache.NewTiered(tier)
		require.NoError(t, err)
		p.cache = newCache(t, cache.Config{Store: p.tiered, Wait: time.Minute})
		p.h = p.cache.Middleware(origin)
		fleet[i] = p
	}
	return fleet
}

// run keeps the subscriptions of fleet up.
func run(t testing.TB, fleet ...*process) {
	t.Helper()
	for _, p := range fleet {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = p.tiered.Run(ctx)
		}()
		p.stop = sync.OnceFunc(func() {
			cancel()
			<-ended
		})
		t.Cleanup(p.stop)
	}
	connected(t, fleet...)
}

func connected(t testing.TB, fleet ...*process) {
	t.Helper()
	for _, p := range fleet {
		require.Eventually(t, func() bool {
			s := p.tiered.Stats()
			return s.Connected && s.Confirmed
		}, time.Minute, time.Millisecond)
	}
}

// onServer returns what makes clients of a server.
func onServer(t testing.TB, s *server) func() redis.UniversalClient {
	return func() redis.UniversalClient {
		c := redis.NewClient(&redis.Options{
			Addr: s.Addr, DialTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
			PoolTimeout: time.Minute,
		})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

// givingUp returns what makes clients that give up early, for servers that are ill.
func givingUp(t testing.TB, s *server) func() redis.UniversalClient {
	return func() redis.UniversalClient { return s.client(t) }
}

// slow is a TieredConfig whose times no busy machine exceeds.
var slow = cache.TieredConfig{NearTTL: time.Minute, Wait: time.Minute}
