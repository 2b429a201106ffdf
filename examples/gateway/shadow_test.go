package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/versioning"
)

// A seen upstream keeps the headers and bodies of the requests that it got.
type seen struct {
	mu       sync.Mutex // guards the fields below
	requests []string   // methods, paths and bodies
	headers  []http.Header
}

func (s *seen) add(r *http.Request) {
	body := new(strings.Builder)
	_ = r.Write(body)
	_, text, _ := strings.Cut(body.String(), "\r\n\r\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI()+" "+text)
	s.headers = append(s.headers, r.Header.Clone())
}

func (s *seen) all() ([]string, []http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...), append([]http.Header{}, s.headers...)
}

// watched starts an upstream that answers with a JSON of a price and a number that is never the
// same.
func watched(t *testing.T, price int) (*seen, string) {
	s := &seen{}
	b := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			s.add(r)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"price": %d, "at": %d}`, price, time.Now().UnixNano())
		})})
	return s, b.Addr
}

// shadowed is a configuration whose route / has a shadow with more keys.
func shadowed(v1, v2, more string) string {
	return fmt.Sprintf("upstreams: {v1: {hosts: [%q]}, v2: {hosts: [%q]}}\n"+
		"routes: [{upstream: v1, shadow: {upstream: v2, %s}}]", v1, v2, more)
}

func awaitShadow(t *testing.T, g *live, ready func(s *shadowStatus) bool) *shadowStatus {
	t.Helper()
	var now *shadowStatus
	require.Eventually(t, func() bool {
		now = trials(t, g)["/"].Shadow
		require.NotNil(t, now)
		return ready(now)
	}, 20*time.Second, 2*time.Millisecond)
	return now
}

func TestAShadowComparesAnswersThatNobodyGets(t *testing.T) {
	old, v1 := watched(t, 10)
	candidate, v2 := watched(t, 11)
	const keys = "credentials: strip, secret_fields: [X-Key], learn: 1"
	g := start(t, shadowed(v1, v2, keys))
	c := client(t)
	const n = 60
	for i := range n {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/a%%2fb?n=%d", g.url, i), nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer secret")
		req.Header.Set("Cookie", "session=secret")
		req.Header.Set("X-Key", "secret")
		req.Header.Set("X-Other", "other")
		_, body := do(t, c, req)
		require.Contains(t, body, `"price": 10`)
		awaitShadow(t, g, func(s *shadowStatus) bool { return s.Report.Compared == uint64(i+1) })
	}
	shown := awaitShadow(t, g, func(s *shadowStatus) bool { return s.Stats.Bytes == 0 })
	require.EqualValues(t, n, shown.Report.Learned)
	noisy := map[string]bool{}
	for _, p := range shown.Report.Paths {
		noisy[p.Path] = p.Noisy
	}
	require.Equal(t, map[string]bool{"price": false, "at": true}, noisy)
	require.NotZero(t, shown.Report.Differing)
	require.Equal(t, "number", shown.Report.Samples[0].Candidate, "values are not shown")
	require.NotZero(t, shown.Report.Candidate.P50)

	copies, headers := candidate.all()
	require.Len(t, copies, n)
	for i, h := range headers {
		require.Equal(t, fmt.Sprintf("GET /a%%2fb?n=%d ", i), copies[i])
		require.Equal(t, "1", h.Get(versioning.ShadowField))
		require.Equal(t, "other", h.Get("X-Other"))
		require.NotEmpty(t, h.Get("X-Request-Id"))
		require.Empty(t, h["Authorization"])
		require.Empty(t, h["Cookie"])
		require.Empty(t, h["X-Key"])
	}
	_, headers = old.all()
	require.Len(t, headers, 2*n)
	secrets := 0
	for _, h := range headers {
		require.Equal(t, h.Get("Authorization") == "", h.Get(versioning.ShadowField) == "1",
			"a copy is marked and has no secrets, whoever gets it")
		if h.Get("Authorization") != "" {
			secrets++
		}
	}
	require.Equal(t, n, secrets)

	// A reload keeps what was found, and other hosts of the candidate get the copies then.
	other, v3 := watched(t, 10)
	reloadText(t, g, shadowed(v1, v3, keys))
	require.EqualValues(t, n, trials(t, g)["/"].Shadow.Report.Compared)
	get(t, c, g.url)
	awaitShadow(t, g, func(s *shadowStatus) bool { return s.Report.Compared == n+1 })
	copies, _ = other.all()
	require.Len(t, copies, 1)
	reloadText(t, g, shadowed(v1, v3, "credentials: send"))
	require.Zero(t, trials(t, g)["/"].Shadow.Report.Compared)
}

func TestBodiesAreCopiedForMethodsThatAreNamed(t *testing.T) {
	_, v1 := watched(t, 10)
	candidate, v2 := watched(t, 10)
	g := start(t, shadowed(v1, v2, "credentials: send, methods: [POST], max_body: 1KiB, learn: 1"))
	c := client(t)
	for _, tt := range []struct{ method, body string }{
		{"POST", "a=1"}, {"PUT", "a=2"}, {"POST", strings.Repeat("x", 2000)},
	} {
		req, err := http.NewRequest(tt.method, g.url+"/form", strings.NewReader(tt.body))
		require.NoError(t, err)
		req.Header.Set("Idempotency-Key", "k")
		resp, _ := do(t, c, req)
		require.Equal(t, 200, resp.StatusCode)
	}
	shown := awaitShadow(t, g, func(s *shadowStatus) bool {
		return s.Report.Compared == 1 && s.Stats.Requests["method"] == 1 && s.Stats.Requests["too_large"] == 1
	})
	require.Zero(t, shown.Report.Learned, "what is not safe is not asked for twice")
	copies, headers := candidate.all()
	require.Equal(t, []string{"POST /form a=1"}, copies)
	require.Equal(t, "k", headers[0].Get("Idempotency-Key"))
}

// TestV08_ClientsMarkNoCopies: an upstream that takes a request for a copy may leave undone what it
// asks for.
func TestV08_ClientsMarkNoCopies(t *testing.T) {
	got, v1 := watched(t, 10)
	candidate, v2 := watched(t, 10)
	g := start(t, "server: {trusted_proxies: [127.0.0.1]}\n"+shadowed(v1, v2, "credentials: strip"))
	c := client(t)
	for _, name := range []string{"Trivet-Shadow", "trivet_shadow", "TRIVET-SHADOW", "Trivet.Shadow"} {
		req, err := http.NewRequest(http.MethodGet, g.url, nil)
		require.NoError(t, err)
		req.Header[name] = []string{"1"}
		do(t, c, req)
	}
	awaitShadow(t, g, func(s *shadowStatus) bool { return s.Stats.Requests["learning"] == 4 })
	_, headers := got.all()
	for _, h := range headers {
		if h.Get(versioning.ShadowField) == "1" {
			continue // the shadow's own, which learns
		}
		for name := range h {
			require.False(t, spells(name, versioning.ShadowField), name)
		}
	}
	copies, _ := candidate.all()
	require.Len(t, copies, 4, "who marks a request does not escape the copy")
}

// A rollout gives the canary requests that are compared with stable's, and the shadow copies
// stable's only: what it learns with is no part of the rollout.
func TestAShadowBesideARollout(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	v3 := backend.Start(t, backend.Config{Name: "v3"})
	text := strings.Replace(trial(v1.Addr, v2.Addr, byUser+", steps: [{weight: 0.5, for: 1h}]",
		", shadow: {upstream: v3, credentials: strip, learn: 1}"),
		"upstreams: {", fmt.Sprintf("upstreams: {v3: {hosts: [%q]}, ", v3.Addr), 1)
	g := start(t, text)
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
	answers := visit(t, client(t), g.url, 0, 100)
	awaitShadow(t, g, func(s *shadowStatus) bool { return s.Report.Compared == uint64(answers["v1"]) })
	require.EqualValues(t, answers["v1"], v3.Requests())
	require.EqualValues(t, 2*answers["v1"], v1.Requests())
	require.EqualValues(t, answers["v2"], v2.Requests())
	stats := trials(t, g)["/"].Rollout.Stats
	require.EqualValues(t, 100, stats.Requests["stable"]+stats.Requests["canary"])
}

func TestACandidateThatIsDownHurtsNobody(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	g := start(t, shadowed(v1.Addr, "127.0.0.1:1", "credentials: strip"))
	for range 20 {
		resp, body := get(t, client(t), g.url)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "v1", strings.TrimSpace(body))
	}
	shown := awaitShadow(t, g, func(s *shadowStatus) bool { return s.Report.Compared == 20 })
	require.Equal(t, "status", shown.Report.Paths[len(shown.Report.Paths)-1].Path)
}

func TestFaultsOfShadowsAreNamed(t *testing.T) {
	for more, want := range map[string]string{
		"sample: 0.5":                              `credentials: "" is not one of: send, strip`,
		"credentials: keep":                        `credentials: "keep" is not one of: send, strip`,
		"credentials: send, sample: 2":             "sample: must be a share such as 0.25",
		"credentials: send, methods: [a b]":        `methods[0]: "a b" is not a method such as POST`,
		"credentials: send, max_body: -1KiB":       "max_body: must be positive",
		"credentials: send, max_bytes: -1KiB":      "max_bytes: must be positive",
		"credentials: send, workers: -1":           "workers: must be positive",
		"credentials: send, timeout: -1s":          "timeout: must be positive",
		"credentials: send, learn: 7":              "learn: must be a share such as 0.25",
		"credentials: send, secret_fields: [a b]":  `secret_fields: "a b" is not the name of a field`,
		"credentials: send, sample: 1, queue: 100": "queue: unknown key",
	} {
		_, err := parseConfig("f", []byte(shadowed("127.0.0.1:1", "127.0.0.1:2", more)))
		require.ErrorContains(t, err, "f:2: routes[0].shadow."+want, more)
	}
	text := shadowed("127.0.0.1:1", "127.0.0.1:2", "credentials: strip")
	other := strings.Replace(text, "shadow: {upstream: v2", "shadow: {upstream: v3", 1)
	_, err := parseConfig("f", []byte(other))
	require.EqualError(t, err, `f:2: routes[0].shadow.upstream: "v3" is not one of the upstreams: v1, v2`)
	_, err = parseConfig("f", []byte(strings.Replace(text, "{upstream: v1, shadow",
		"{versions: {list: [{version: \"1\", upstream: v1}], sources: {path: /v}}, shadow", 1)))
	require.EqualError(t, err, "f:2: routes[0].shadow: a route with versions has no upstream to compare with")
	require.Equal(t, "shadow-a-b--", shadowName("a/b é"))
	require.Len(t, shadowName(strings.Repeat("a", 100)), 64)
}

// A shadow that a reload leaves as it is sends copies as the settings of its upstream say from then
// on.
func TestACandidateGoesByItsNewSettings(t *testing.T) {
	_, v1 := watched(t, 10)
	candidate, v2 := watched(t, 10)
	text := func(path string) string {
		return fmt.Sprintf("upstreams: {v1: {hosts: [%q]}, v2: {hosts: [%q], path: %s}}\n"+
			"routes: [{upstream: v1, shadow: {upstream: v2, credentials: strip, learn: 1e-9}}]", v1, v2, path)
	}
	g := start(t, text("/old"))
	c := client(t)
	for i, path := range []string{"/old", "/new"} {
		if i > 0 {
			reloadText(t, g, text(path))
		}
		get(t, c, g.url+"/x")
		require.Eventually(t, func() bool {
			requests, _ := candidate.all()
			return len(requests) == i+1
		}, 20*time.Second, 2*time.Millisecond)
		requests, _ := candidate.all()
		require.Equal(t, "GET "+path+"/x ", requests[i])
	}
}
