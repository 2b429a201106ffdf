package balancer

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// drainedHalf returns a group of eight endpoints of which four are drained, and both halves.
func drainedHalf(t *testing.T) (g *group, drained, others []*endpoint) {
	t.Helper()
	cfg, err := Config{Resolver: Static("a:1"), Outlier: OutlierConfig{MaxEjected: 0.5}}.withDefaults()
	require.NoError(t, err)
	g = newGroup(&cfg)
	var set []Endpoint
	for i := range 8 {
		set = append(set, Endpoint{Addr: fmt.Sprint("e", i, ":1"), Drain: i < 4})
	}
	g.update(set, 1, func(*endpoint) {})
	return g, g.endpoints[:4], g.endpoints[4:]
}

// Drained endpoints are no part of the share that may be ejected, neither above nor below it.
func TestShareOfEjectedEndpointsIsOfThoseInUse(t *testing.T) {
	g, _, others := drainedHalf(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.True(t, g.ejectLocked(others[0], 2, "test"))
	require.True(t, g.ejectLocked(others[1], 2, "test"))
	require.False(t, g.ejectLocked(others[2], 2, "test"), "half of the four that are in use")
}

// Requests that were in flight when an endpoint was drained may fail there. It is not ejected for
// that.
func TestDrainedEndpointsAreNotEjected(t *testing.T) {
	g, drained, others := drainedHalf(t)
	for _, e := range []*endpoint{drained[0], others[0]} {
		e.failures.Store(10)
		g.ejectFailing(e, 2)
	}
	require.Zero(t, drained[0].ejectedUntil)
	require.NotZero(t, others[0].ejectedUntil)

	g, drained, others = drainedHalf(t)
	for _, e := range g.endpoints {
		e.replied.Store(1000)
	}
	drained[0].failed.Store(1000)
	g.mu.Lock()
	g.judgeLocked(g.config.Load(), 2)
	g.mu.Unlock()
	require.Zero(t, drained[0].ejectedUntil)
	require.Zero(t, others[0].ejectedUntil)
}
