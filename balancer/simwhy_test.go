//go:build !race

package balancer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/lbsim"
)

// The table of TestSimulationFast notices any change. What follows says what of it has to stay
// when a change is meant, for each policy and seed.

// eachRun calls f for each policy and seed of the cell of that name.
func eachRun(t *testing.T, cells []*cell, name string, f func(t *testing.T, policy string, r lbsim.Result)) {
	for _, c := range cells {
		if c.scenario.Name != name {
			continue
		}
		for _, p := range c.names {
			t.Run(p, func(t *testing.T) {
				for _, r := range c.runs[p] {
					require.Positive(t, r.Requests)
					f(t, p, r)
				}
			})
		}
		return
	}
	t.Fatalf("no cell %q", name)
}

// TestEqualsGetEqualShares: among servers that do not differ no policy has favourites, and no
// request fails.
func TestEqualsGetEqualShares(t *testing.T) {
	eachRun(t, goodCells(), "even .90", func(t *testing.T, _ string, r lbsim.Result) {
		require.Zero(t, r.Failed+r.Expired)
		require.Greater(t, r.Jain, 0.99)
		require.Greater(t, r.LeastShare, 0.85)
		require.LessOrEqual(t, r.MaxInside, 16, "four times what it works on")
	})
}

// TestABlackHoleIsLeftAlone: a server that fails at once looks the quickest, and gets next to
// nothing; the others share what it leaves.
func TestABlackHoleIsLeftAlone(t *testing.T) {
	eachRun(t, goodCells(), "black hole .75", func(t *testing.T, _ string, r lbsim.Result) {
		require.Less(t, r.BadShare, 0.002)
		require.Less(t, r.ErrorShare(), 0.001)
		require.Greater(t, r.Jain, 0.99)
		require.Greater(t, r.LeastShare, 1.0, "an eighth is left over")
	})
}

// TestAServerThatHungIsUsedAgain: while it hangs it costs few requests, and once it is well it has
// its share again: it is half of the run away, and one of eight.
func TestAServerThatHungIsUsedAgain(t *testing.T) {
	eachRun(t, goodCells(), "hang 10 s .75", func(t *testing.T, _ string, r lbsim.Result) {
		require.Less(t, r.ErrorShare(), 0.001)
		require.Less(t, r.BadShare, 0.08)
		require.Greater(t, r.BadShare, 0.03)
		require.GreaterOrEqual(t, r.Starved, time.Duration(0), "it comes back")
		require.LessOrEqual(t, r.Starved, 5*time.Second)
	})
}

// TestSlowServersGetLess: a server at a quarter of the pace gets less than half of a fair share,
// and is not given up, by every policy that looks; those that know what a reply costs keep its
// queue out of the slowest replies.
func TestSlowServersGetLess(t *testing.T) {
	var scenario lbsim.Scenario
	for _, s := range lbsim.Scenarios(1) {
		if s.Name == "even .90" {
			scenario = s
		}
	}
	scenario.Name, scenario.Load = "one slow .70", 0.70
	scenario.Servers, scenario.Warmup, scenario.Length = 8, time.Second, 4*time.Second
	scenario.Weather = func(w *lbsim.Weather) { w.Speed(0, 0, 0.25) }
	var policies []simPolicy
	for _, p := range simPolicies {
		switch p.name {
		case "round robin", "least request", "adaptive", "probing":
			policies = append(policies, p)
		}
	}
	cells := simulate([]lbsim.Scenario{scenario}, policies, 2, nil)
	const fair = 1.0 / 8
	eachRun(t, cells, scenario.Name, func(t *testing.T, policy string, r lbsim.Result) {
		if policy == "round robin" { // it looks at nothing; timeouts eject the server
			require.Greater(t, r.BadShare, fair/2)
			require.Positive(t, r.Expired)
			return
		}
		require.Less(t, r.BadShare, fair/2)
		require.Greater(t, r.BadShare, fair/50)
		require.Greater(t, r.Jain, 0.99, "the others are equals")
		require.Zero(t, r.Failed+r.Expired)
	})
	for _, p := range []string{"adaptive", "probing"} {
		ratio, _, _ := cells[0].ratio(p, "least request")
		require.Less(t, ratio, 1.0, p)
	}
}

// TestCostsTellAntagonists: where servers are slowed down and let go by turns, the slowest replies
// of the policies that know what a reply costs are much quicker than of those that count requests
// only.
func TestCostsTellAntagonists(t *testing.T) {
	for _, c := range goodCells() {
		if c.scenario.Name != "antagonists .75" {
			continue
		}
		for _, knows := range []string{"adaptive", "probing"} {
			for _, counts := range []string{"least request", "P2C"} {
				ratio, _, _ := c.ratio(knows, counts)
				require.Less(t, ratio, 0.75, "%s, %s", knows, counts)
			}
		}
		return
	}
	t.Fatal("no such cell")
}
