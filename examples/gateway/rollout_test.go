package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/program"
	"github.com/trivet-go/trivet/versioning"
)

// trial is a configuration with the upstreams v1 and v2, and a route that tries v2 with more keys
// of the rollout and of the route.
func trial(v1, v2, rollout, route string) string {
	return fmt.Sprintf("upstreams: {v1: {hosts: [%q]}, v2: {hosts: [%q]}}\n"+
		"routes: [{upstream: v1, rollout: {name: shop, release: r2, canary: v2, %s}%s}]",
		v1, v2, rollout, route)
}

const (
	byUser = "by: header, header: X-User, missing: stable"
	half   = byUser + ", steps: [{weight: 0.5, for: off, requests: 20}]"
)

// trials returns what GET /rollouts shows.
func trials(t *testing.T, g *live) map[string]struct {
	Rollout *rolloutStatus
	Shadow  *shadowStatus
} {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/rollouts", nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	var shown map[string]struct {
		Rollout *rolloutStatus
		Shadow  *shadowStatus
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &shown), w.Body)
	return shown
}

// awaitTrial waits until the rollout of a route is in a phase with a weight.
func awaitTrial(t *testing.T, g *live, route string, phase versioning.Phase, weight float64) rolloutStatus {
	t.Helper()
	var now rolloutStatus
	require.Eventually(t, func() bool {
		shown := trials(t, g)[route].Rollout
		require.NotNil(t, shown)
		now = *shown
		return now.State.Phase == phase && now.State.Weight == weight
	}, eventually, 5*time.Millisecond)
	return now
}

// visit sends a request of each of n users from first on, and returns how often each body came.
func visit(t *testing.T, c *http.Client, url string, first, n int) map[string]int {
	t.Helper()
	answers := map[string]int{}
	for i := range n {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		require.NoError(t, err)
		req.Header.Set("X-User", fmt.Sprint("user ", first+i))
		_, body := do(t, c, req)
		answers[strings.TrimSpace(body)]++
	}
	return answers
}

// onRollout does an action on the rollout of the route /.
func onRollout(t *testing.T, g *live, want int, name string) string {
	t.Helper()
	status, text := act(g, "/rollouts", g.gateway.token, fmt.Sprintf(`{"route": "/", "action": %q}`, name))
	require.Equal(t, want, status, "%s: %s", name, text)
	return text
}

func TestAGoodReleaseGetsEverythingAndABadOneNothing(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	c := client(t)
	t.Run("good", func(t *testing.T) {
		g := start(t, trial(v1.Addr, v2.Addr, half, ""))
		awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
		require.Len(t, visit(t, c, g.url, 0, 200), 2) // the weight may rise meanwhile, and r2 be promoted
		require.Eventually(t, func() bool {
			return trials(t, g)["/"].Rollout.State.Weight == 1
		}, eventually, 5*time.Millisecond)
		visit(t, c, g.url, 0, 30)
		awaitTrial(t, g, "/", versioning.PhasePromoted, 1)
		require.Equal(t, map[string]int{"v2": 20}, visit(t, c, g.url, 0, 20))
	})
	t.Run("bad", func(t *testing.T) {
		v2.Set(backend.Behaviour{Status: 500})
		g := start(t, trial(v1.Addr, v2.Addr, half, ""))
		awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
		visit(t, c, g.url, 0, 200)
		shown := awaitTrial(t, g, "/", versioning.PhaseRolledBack, 0)
		reasons := []versioning.Reason{versioning.ReasonErrors, versioning.ReasonFloor}
		require.Contains(t, reasons, shown.State.Reason)
		require.NotEmpty(t, shown.Verdict.Text)
		require.Equal(t, map[string]int{"v1": 20}, visit(t, c, g.url, 0, 20))
	})
	t.Run("down", func(t *testing.T) {
		g := start(t, trial(v1.Addr, "127.0.0.1:1", half, ""))
		awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
		visit(t, c, g.url, 0, 200)
		awaitTrial(t, g, "/", versioning.PhaseRolledBack, 0)
		require.Equal(t, map[string]int{"v1": 20}, visit(t, c, g.url, 0, 20))
	})
}

func TestWhoHasAnArm(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	const steps = ", steps: [{weight: 0.5, for: 1h}]"
	for by, arms := range map[string]int{
		"by: address": 1, // of one client
		"by: request": 2,
		"by: cookie, cookie: session, missing: stable":     1,
		"by: header, header: X-Id, missing: per_request":   2,
		"by: header, header: X-Id, missing: cookie":        1, // its own, which it sends back
		"by: cookie, cookie: session, missing: cookie":     1,
		"by: cookie, cookie: id, missing: per_request":     1, // it sends that one
		"by: header, header: X-User, missing: cookie":      1,
		"by: header, header: X-User, missing: per_request": 1,
	} {
		t.Run(by, func(t *testing.T) {
			sticky := ""
			if strings.HasSuffix(by, "missing: cookie") {
				sticky = ", sticky: {name: arm, max_age: 1h, insecure: true}"
			}
			g := start(t, trial(v1.Addr, v2.Addr, by+sticky+steps, ""))
			awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
			answers, cookie := map[string]bool{}, ""
			for range 60 {
				req, err := http.NewRequest(http.MethodGet, g.url, nil)
				require.NoError(t, err)
				req.Header.Set("X-User", "one")
				req.AddCookie(&http.Cookie{Name: "id", Value: "one"})
				if cookie != "" {
					req.AddCookie(&http.Cookie{Name: "arm", Value: cookie})
				}
				resp, body := do(t, client(t), req)
				answers[body] = true
				for _, set := range resp.Cookies() {
					require.Empty(t, cookie, "it is set once")
					require.Equal(t, "arm", set.Name)
					require.Equal(t, 3600, set.MaxAge)
					require.False(t, set.Secure)
					cookie = set.Value
				}
			}
			require.Len(t, answers, arms)
			hasKey := strings.Contains(by, "X-User")
			require.Equal(t, sticky != "" && !hasKey, cookie != "")
		})
	}
}

func TestPeopleActOnRollouts(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	g := start(t, trial(v1.Addr, v2.Addr, byUser+", manual: true, steps: [{weight: 0.1}, {weight: 0.5}]",
		"}, {path: /none, upstream: v1"))
	c := client(t)
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0)
	is := func(phase versioning.Phase, weight float64) {
		t.Helper()
		state := trials(t, g)["/"].Rollout.State
		require.Equal(t, phase, state.Phase)
		require.Equal(t, weight, state.Weight)
	}
	for _, step := range []struct {
		action string
		status int
		phase  versioning.Phase
		weight float64
	}{
		{"promote", 204, versioning.PhaseRunning, 0.1},
		{"retry", 409, versioning.PhaseRunning, 0.1},
		{"resume", 409, versioning.PhaseRunning, 0.1},
		{"promote", 204, versioning.PhaseRunning, 0.5},
		{"pause", 204, versioning.PhasePaused, 0.5},
		{"pause", 409, versioning.PhasePaused, 0.5},
		{"resume", 204, versioning.PhaseRunning, 0.5},
		{"switch", 204, versioning.PhaseRunning, 1},
		{"promote", 204, versioning.PhasePromoted, 1},
		{"promote", 409, versioning.PhasePromoted, 1},
		{"rollback", 204, versioning.PhaseRolledBack, 0},
		{"rollback", 409, versioning.PhaseRolledBack, 0},
	} {
		text := onRollout(t, g, step.status, step.action)
		is(step.phase, step.weight)
		if step.status == 409 {
			require.Contains(t, text, "action: the release is "+string(step.phase))
		}
	}
	require.Equal(t, map[string]int{"v1": 20}, visit(t, c, g.url, 0, 20))
	require.Equal(t, "rolled back by a person", trials(t, g)["/"].Rollout.State.Text)
	onRollout(t, g, 204, "retry")
	is(versioning.PhaseRunning, 0)
	status, _ := act(g, "/rollouts", g.gateway.token,
		`{"route": "/", "action": "rollback", "text": "too red"}`)
	require.Equal(t, 204, status)
	require.Equal(t, "too red", trials(t, g)["/"].Rollout.State.Text)

	for body, field := range map[string]string{
		``:                                  "the body must be one JSON object with route and action",
		`{"route": "/", "action": "x"} {}`:  "more than one value",
		`{"rout": "/", "action": "retry"}`:  "rout",
		`{"action": "retry"}`:               "route: none with this name has a rollout",
		`{"route": "/none", "action": "x"}`: "route: none with this name has a rollout",
		`{"route": "/"}`:                    "action: is not one of: pause, promote, resume, retry, rollback",
		`{"route": "/", "action": "start"}`: "action: is not one of: pause, promote",
		`{"route": "/", "action": 1}`:       "action",

		`{"route": "/", "action": "retry", "text": "x"}`: "text: has a meaning only with rollback",
	} {
		status, text := act(g, "/rollouts", g.gateway.token, body)
		require.Equal(t, http.StatusBadRequest, status, body)
		require.Contains(t, text, field, body)
	}
	is(versioning.PhaseRolledBack, 0)
}

// Nobody acts on a rollout without the token, and no page in the operator's browser does.
func TestG16_ActionsOnRolloutsNeedTheToken(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	g := start(t, trial(v1.Addr, v1.Addr, half, ""))
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
	const body = `{"route": "/", "action": "rollback"}`
	for _, token := range []string{"", "x", g.gateway.token + "x"} {
		status, _ := act(g, "/rollouts", token, body)
		require.Equal(t, http.StatusUnauthorized, status)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "http://localhost/rollouts", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+g.gateway.token)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Equal(t, versioning.PhaseRunning, trials(t, g)["/"].Rollout.State.Phase)
}

func TestRolloutsOutliveReloads(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	v3 := backend.Start(t, backend.Config{Name: "v3"})
	of := func(weight string) string {
		return byUser + ", steps: [{weight: " + weight + ", for: 1h}]"
	}
	g := start(t, trial(v1.Addr, v2.Addr, of("0.5"), ""))
	c := client(t)
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
	before := visit(t, c, g.url, 0, 100)

	// Other steps, and another host of the canary: weight, arms and evidence stay.
	reloadText(t, g, trial(v1.Addr, v3.Addr, of("0.6"), ""))
	now := trials(t, g)["/"].Rollout
	require.Equal(t, versioning.PhaseRunning, now.State.Phase)
	require.Equal(t, 0.5, now.State.Weight)
	after := visit(t, c, g.url, 0, 100)
	require.Equal(t, before["v1"], after["v1"])
	require.Equal(t, before["v2"], after["v3"])
	require.Eventually(t, func() bool {
		v := trials(t, g)["/"].Rollout.Verdict
		return v.Stable.Requests+v.Canary.Requests == 200
	}, 20*time.Second, 5*time.Millisecond)

	// What was rolled back stays so: after a reload, at another route, and after it was gone.
	onRollout(t, g, 204, "rollback")
	for _, text := range []string{
		trial(v1.Addr, v2.Addr, of("0.5"), ""),
		trial(v1.Addr, v2.Addr, of("0.5"), ", path: /"),
		simple("", v1.Addr),
		trial(v1.Addr, v2.Addr, of("0.5"), ", methods: [GET]"),
	} {
		reloadText(t, g, text)
		require.Equal(t, map[string]int{"v1": 50}, visit(t, c, g.url, 0, 50))
	}
	shown := awaitTrial(t, g, "GET /", versioning.PhaseRolledBack, 0)
	require.Equal(t, "r2", shown.State.Release)

	// Another release begins at the first step.
	next := strings.Replace(trial(v1.Addr, v2.Addr, of("0.5"), ""), "r2", "r3", 1)
	reloadText(t, g, next)
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
	require.Len(t, visit(t, c, g.url, 0, 100), 2)

	// One that has followed another is not tried again.
	reloadText(t, g, trial(v1.Addr, v2.Addr, of("0.5"), ""))
	awaitTrial(t, g, "/", versioning.PhaseSuperseded, 0)
}

// What is only checked, or refused, tries nothing: a release that has begun counts as tried.
func TestACheckBeginsNoRollout(t *testing.T) {
	cfg, err := parseConfig("f", []byte(trial("127.0.0.1:1", "127.0.0.1:2", half, "")))
	require.NoError(t, err)
	g, err := newGateway(cfg, discardLog, io.Discard, io.Discard)
	require.NoError(t, err)
	defer g.close(t.Context())
	require.Nil(t, g.current.Load().splits["shop"].rollout)
	shared, err := g.rollouts.memory.Sync(t.Context(), "shop", versioning.RolloutReport{})
	require.NoError(t, err)
	require.Zero(t, shared.State)
	require.Empty(t, trials(t, &live{gateway: g}))

	g.start()
	bad := cfg
	bad.Upstreams = map[string]Upstream{}
	for name, u := range cfg.Upstreams {
		u.Health.Path = "no slash" // withDefaults would refuse it
		bad.Upstreams[name] = u
	}
	bad.Routes = []Route{cfg.Routes[0]}
	other := *cfg.Routes[0].Rollout
	other.Name = "other"
	bad.Routes[0].Rollout = &other
	require.Error(t, g.reload(bad))
	shared, err = g.rollouts.memory.Sync(t.Context(), "other", versioning.RolloutReport{})
	require.NoError(t, err)
	require.Zero(t, shared.State)
}

func TestReloadsOfRolloutsAndShadowsLeakNothing(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	texts := []string{
		trial(v1.Addr, v2.Addr, half, ", shadow: {upstream: v2, credentials: strip}"),
		trial(v1.Addr, v2.Addr, half, ", shadow: {upstream: v2, credentials: send}"),
		simple("", v1.Addr),
		strings.Replace(trial(v1.Addr, v2.Addr, half, ""), "shop", "other", 1),
	}
	g := start(t, texts[0])
	c := client(t)
	for i := range 100 {
		get(t, c, g.url)
		reloadText(t, g, texts[(i+1)%len(texts)])
	}
	registered := len(g.unregister)
	for range 4 {
		reloadText(t, g, texts[0])
	}
	require.Len(t, g.unregister, registered)
	require.Len(t, g.current.Load().splits, 1)
	// TestMain finds the goroutines of rollouts and shadows that were left behind.
}

func TestARollbackLeavesNothingInTheCache(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Handler: http.HandlerFunc(named("v1"))})
	v2 := backend.Start(t, backend.Config{Handler: http.HandlerFunc(named("v2"))})
	g := start(t, trial(v1.Addr, v2.Addr, byUser+", steps: [{weight: 0.5, for: 1h}]",
		", cache: {ttl: 1h, stale: 1h, stale_if_error: 1h}"))
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
	c := client(t)
	first, second := map[string]string{}, map[string]string{}
	all := func(answers map[string]string) {
		for i := range 100 {
			path := fmt.Sprint("/", i)
			for body := range visit(t, c, g.url+path, i, 1) {
				answers[path] = body
			}
		}
	}
	all(first)
	onRollout(t, g, 204, "rollback")
	require.Eventually(t, func() bool {
		all(second)
		for _, body := range second {
			if body == "v2" {
				return false
			}
		}
		return true
	}, 20*time.Second, 5*time.Millisecond)
	hits := 0
	for path, body := range first {
		require.Equal(t, "v1", second[path])
		if body == "v1" {
			hits++
		}
	}
	require.Greater(t, hits, 20)
	require.Less(t, hits, 80)
	require.EqualValues(t, 100, v1.Requests(), "what stable gave the cache has stayed there")
}

func TestACacheKeepsArmsApart(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Handler: http.HandlerFunc(named("v1"))})
	v2 := backend.Start(t, backend.Config{Handler: http.HandlerFunc(named("v2"))})
	const keys = "by: header, header: X-User, missing: cookie, steps: [{weight: 0.5, for: 1h}]"
	g := start(t, trial(v1.Addr, v2.Addr, keys+", apart: true", ", cache: {ttl: 1h}"))
	awaitTrial(t, g, "/", versioning.PhaseRunning, 0.5)
	c := client(t)
	answers := visit(t, c, g.url, 0, 100)
	require.InDelta(t, 50, answers["v2"], 30)
	require.Equal(t, answers, visit(t, c, g.url, 0, 100))
	require.EqualValues(t, 2, v1.Requests()+v2.Requests(), "the cache answers all others")
	resp, _ := get(t, c, g.url)
	require.Len(t, resp.Cookies(), 1, "it is the client's own, and not in the cache")

	// The same without keeping them apart: another cache, and everybody gets the first answer.
	reloadText(t, g, trial(v1.Addr, v2.Addr, keys, ", cache: {ttl: 1h}"))
	require.Len(t, visit(t, c, g.url, 0, 100), 1)
	require.EqualValues(t, 3, v1.Requests()+v2.Requests())

	_, err := parseConfig("f", []byte(trial("a:1", "b:1", keys+", apart: true", "")))
	require.EqualError(t, err, "f:2: routes[0].rollout.apart: needs a cache")
}

// named returns a handler that answers with a name and may be cached.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }
}

func TestGatewaysShareARolloutInRedis(t *testing.T) {
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Name: "v2"})
	redis := program.Redis(t)
	text := fmt.Sprintf("redis: {addr: %q, timeout: 1s}\n", redis.Addr) +
		trial(v1.Addr, v2.Addr, byUser+", store: redis, steps: [{weight: 0.5, for: 1h}]", "")
	a, b := start(t, text), start(t, text)
	awaitTrial(t, a, "/", versioning.PhaseRunning, 0.5)
	awaitTrial(t, b, "/", versioning.PhaseRunning, 0.5)
	c := client(t)
	require.Equal(t, visit(t, c, a.url, 0, 50), visit(t, c, b.url, 0, 50))
	onRollout(t, a, 204, "rollback")
	awaitTrial(t, b, "/", versioning.PhaseRolledBack, 0)
	require.Equal(t, map[string]int{"v1": 20}, visit(t, c, b.url, 0, 20))

	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/metrics", nil)
	newAdmin(a.gateway).Handler.ServeHTTP(w, r)
	require.Contains(t, w.Body.String(), "trivet_redisrollout_calls_total")

	// Another store knows nothing of it; back again, Redis does.
	reloadText(t, b, strings.Replace(text, "store: redis", "store: memory", 1))
	awaitTrial(t, b, "/", versioning.PhaseRunning, 0.5)
	reloadText(t, b, text)
	awaitTrial(t, b, "/", versioning.PhaseRolledBack, 0)
}

func TestFaultsOfRolloutsAreNamed(t *testing.T) {
	const steps = ", steps: [{weight: 0.5}]"
	for _, tt := range []struct{ more, want string }{
		{byUser, "steps: is required"},
		{byUser + ", steps: [{for: 1m}]", "steps[0].weight: 0 is not more than 0"},
		{byUser + ", steps: [{weight: 5}]", "steps[0].weight: must be a share such as 0.25"},
		{byUser + ", steps: [{weight: 0.5}, {weight: 0.2}]",
			"steps[1].weight: 0.2 is not more than the step"},
		{byUser + ", steps: [{weight: 0.5, for: 2h, deadline: 1h}]", "steps[0].deadline: 1h0m0s is not more"},
		{byUser + ", steps: [{weight: 0.5, for: 3000h}]", "steps[0].for: must be at most 2160h0m0s"},
		{byUser + ", steps: [{weight: 0.5, for: -5s}]", "steps[0].for: must be positive"},
		{byUser + ", steps: [{weight: 0.5, requests: many}]", "steps[0].requests: must be a whole number"},
		{"by: name" + steps, `by: "name" is not one of: address, header, cookie, request`},
		{"by: header" + steps, `header: "" is not the name of a header`},
		{"by: cookie, missing: stable" + steps, `cookie: "" is not the name of a cookie`},
		{"by: cookie, cookie: a" + steps, `missing: "" is not one of: stable, per_request, cookie`},
		{"by: address, missing: stable" + steps,
			"missing: has a meaning only with by: header and by: cookie"},
		{"by: address, header: A" + steps, "header: has a meaning only with by: header"},
		{byUser + ", cookie: a" + steps, "cookie: has a meaning only with by: cookie"},
		{byUser + ", sticky: {name: a}" + steps, "sticky: has a meaning only with missing: cookie"},
		{"by: cookie, cookie: a, missing: cookie, sticky: {name: a b}" + steps, "sticky.name: "},
		{"by: cookie, cookie: a, missing: cookie, sticky: {max_age: 5ms}" + steps,
			"sticky.max_age: 5ms is under 1 s"},
		{byUser + ", on_fail: panic" + steps, `on_fail: "panic" is not "roll_back" or "pause"`},
		{byUser + ", on_deadline: freeze" + steps, `on_deadline: "freeze" is not Pause or RollBack`},
		{byUser + ", alpha: 0.7" + steps, "alpha: 0.7 is not between 0 and 0.5"},
		{byUser + ", tolerance: 0.5" + steps, "tolerance: 0.5 is not a number of at least 1"},
		{byUser + ", floor: 2" + steps, "floor: must be a share such as 0.25"},
		{byUser + ", tag_field: a b" + steps, `tag_field: "a b" is not the name of a field`},
		{byUser + ", store: redis" + steps, "store: there is no redis.addr"},
		{byUser + ", store: disk" + steps, `store: "disk" is not one of: redis, memory`},
	} {
		_, err := parseConfig("f", []byte(trial("127.0.0.1:1", "127.0.0.1:2", tt.more, "")))
		require.ErrorContains(t, err, "f:2: routes[0].rollout."+tt.want, tt.more)
	}
	good := trial("127.0.0.1:1", "127.0.0.1:2", half, "")
	for _, tt := range []struct{ old, replacement, want string }{
		{"name: shop", "name: a b", `f:2: routes[0].rollout.name: "a b" is not 1 to 64 letters`},
		{"release: r2", `release: ""`, `f:2: routes[0].rollout.release: "" is not 1 to 64 letters`},
		{"canary: v2", "canary: v3",
			`f:2: routes[0].rollout.canary: "v3" is not one of the upstreams: v1, v2`},
		{"upstream: v1,", "versions: {list: [{version: \"1\", upstream: v1}], sources: {path: /v}},",
			"f:2: routes[0].rollout: a route with versions has no upstream to compare with"},
		{"routes: [{upstream: v1,", "routes: [{upstream: v1, path: /b, rollout: {name: shop, release: r2, " +
			"canary: v2, " + half + "}}, {upstream: v1,",
			"f:2: routes[1].rollout.name: another rollout has this name"},
		{"{upstream: v1,", "{upstream: v1, cache: {}, ", ""},
	} {
		_, err := parseConfig("f", []byte(strings.Replace(good, tt.old, tt.replacement, 1)))
		if tt.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, tt.want)
	}
	text := trial("127.0.0.1:1", "127.0.0.1:2", half+", tag_field: X-Tag", ", cache: {}")
	_, err := parseConfig("f", []byte(text))
	require.EqualError(t, err,
		"f:2: routes[0].rollout.tag_field: the cache reads Surrogate-Key and Cache-Tag")
}

// An upstream that begins its answer and then does nothing is at fault, and a client that takes
// nothing is not.
func TestAnswersThatStandStillAreErrors(t *testing.T) {
	hang := make(chan struct{})
	v1 := backend.Start(t, backend.Config{Name: "v1"})
	v2 := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/large" {
				for r.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return
					}
				}
				return
			}
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		})})
	defer close(hang)
	g := start(t, "server: {stall_timeout: 200ms}\n"+
		trial(v1.Addr, v2.Addr, "by: request, on_fail: pause, steps: [{weight: 1, for: 1h}]", ""))
	awaitTrial(t, g, "/", versioning.PhaseRunning, 1)
	ended := func() versioning.ArmReport {
		var now versioning.ArmReport
		require.Eventually(t, func() bool {
			shown := trials(t, g)["/"].Rollout
			now = shown.Verdict.Canary
			return shown.Stats.InFlight["canary"] == 0 &&
				now.Requests+now.Canceled == shown.Stats.Requests["canary"]
		}, 20*time.Second, 10*time.Millisecond)
		return now
	}
	resp, err := client(t).Get(g.url)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	require.Error(t, err)
	require.Equal(t, "half", string(text))
	got := ended()
	require.EqualValues(t, 1, got.Failed)

	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return trials(t, g)["/"].Rollout.Stats.Requests["canary"] == 2 },
		20*time.Second, time.Millisecond)
	got = ended()
	require.EqualValues(t, 1, got.Failed)
	require.EqualValues(t, 1, got.Canceled)
}

// A rollout goes on over a reload unless its state is to be kept elsewhere: then it begins anew,
// and the old one ends.
func TestARolloutWithAnotherStoreBeginsAnew(t *testing.T) {
	g := start(t, simple("", "127.0.0.1:1"))
	cfg, err := parseConfig("f", []byte(trial("127.0.0.1:1", "127.0.0.1:2", half, "")))
	require.NoError(t, err)
	begun := func(store string, old *split) *split {
		s := g.newSplit(cfg.Routes[0], trust{})
		s.settings.Store = store
		s.stable, s.canary = http.NotFoundHandler(), http.NotFoundHandler()
		s.begin(old, discardLog)
		return s
	}
	first := begun("memory", nil)
	second := begun("memory", first)
	require.Same(t, first.rollout, second.rollout)
	first.retire(second)
	require.NoError(t, second.rollout.Reload(second.cfg), "it has not ended")
	third := begun("another", second)
	require.NotSame(t, second.rollout, third.rollout)
	second.retire(third)
	require.ErrorIs(t, second.rollout.Reload(second.cfg), versioning.ErrRolloutClosed)
	third.retire(nil)
}
