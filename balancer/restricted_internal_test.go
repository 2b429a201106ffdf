package balancer

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// grouped returns a group of endpoints with that configuration.
func grouped(t *testing.T, cfg Config, addrs ...string) (g *group, become func(now int64, addrs ...string)) {
	t.Helper()
	cfg.Resolver = Static("a:1")
	cfg, err := cfg.withDefaults()
	require.NoError(t, err)
	g = newGroup(&cfg)
	become = func(now int64, addrs ...string) {
		var set []Endpoint
		for _, addr := range addrs {
			set = append(set, Endpoint{Addr: addr})
		}
		g.update(set, now, func(*endpoint) {})
	}
	become(1, addrs...)
	return g, become
}

// Picks look closer while there is an endpoint to look at: not for one that has left in its slow
// start.
func TestASlowStartEndsWithItsEndpoint(t *testing.T) {
	g, become := grouped(t, Config{SlowStart: time.Minute}, "a:1")
	g.endProbation(g.endpoints[0])
	require.Zero(t, g.restricted.Load())
	become(2, "a:1", "b:1")
	require.EqualValues(t, 1, g.restricted.Load())
	become(3, "a:1")
	require.Zero(t, g.restricted.Load())
}

// A first reply ends a probation and no pause.
func TestAPauseOutlivesAProbation(t *testing.T) {
	g, _ := grouped(t, Config{}, "a:1")
	e := g.endpoints[0]
	e.pauseUntil.Store(5)
	g.endProbation(e)
	require.True(t, e.restricted.Load())
	e.pauseUntil.Store(0)
	g.endProbation(e)
	require.False(t, e.restricted.Load())
	require.Zero(t, g.restricted.Load())
}

// A Reload that ends health checks forgets what they have found, and tells who is back for that.
// What was counted in a row would go on with the checks of a later Reload.
func TestAReloadForgetsChecksInARow(t *testing.T) {
	g, _ := grouped(t, Config{Health: HealthConfig{Path: "/"}}, "a:1", "b:1")
	g.endpoints[0].checks, g.endpoints[1].checks = -2, 1
	g.endpoints[0].down = true
	none, err := Config{
		Resolver: Static("a:1"), Observe: func(context.Context, Event) {},
	}.withDefaults()
	require.NoError(t, err)
	g.reload(&none, 2)
	events := g.takeEvents()
	require.Len(t, events, 1)
	require.Equal(t, ReasonNoHealthChecks, events[0].Reason)
	require.Equal(t, Healthy, events[0].State)
	for _, e := range g.endpoints {
		require.Zero(t, e.checks)
	}
}

// An endpoint is ejected while as many of the others fail as do not, and not if one more fails; the
// only one never is.
func TestEjectionWhileHalfOfTheOthersFail(t *testing.T) {
	for failing, ejected := range map[int]bool{0: true, 1: true, 2: false} {
		g, _ := grouped(t, Config{}, "a:1", "b:1", "c:1")
		for _, e := range g.endpoints[1 : 1+failing] {
			e.failures.Store(1)
		}
		g.endpoints[0].failures.Store(10)
		g.ejectFailing(g.endpoints[0], 2)
		require.Equal(t, ejected, g.endpoints[0].ejectedUntil != 0, failing)
	}
	g, _ := grouped(t, Config{}, "a:1")
	g.endpoints[0].failures.Store(10)
	g.ejectFailing(g.endpoints[0], 2)
	require.Zero(t, g.endpoints[0].ejectedUntil)
}
