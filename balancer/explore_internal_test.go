package balancer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A connection that stays open for hours must not keep a slow endpoint from being tried again: only
// a request that awaits its header does.
func TestSlowEndpointsWithOpenConnectionsAreExplored(t *testing.T) {
	cfg, err := Config{Resolver: Static("a:1", "b:1")}.withDefaults()
	require.NoError(t, err)
	g := newGroup(&cfg)
	g.update([]Endpoint{{Addr: "a:1"}, {Addr: "b:1"}}, 0, func(*endpoint) {})
	v := &View{}
	v.reset(g, g.config.Load(), &g.current.Load().tiers[0], 0)
	require.Equal(t, -1, v.longestSlow(), "none is slow")
	slow := g.members()[1]
	slow.slow.Store(2)
	slow.inFlight.Store(1) // upgraded
	require.Equal(t, 1, v.longestSlow())
	slow.picked.Add(1) // and a request
	require.Equal(t, -1, v.longestSlow())
}
