//go:build !race

package lbsim_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/lbsim"
)

// one is a client that knows one server and counts what it is told.
type one struct {
	open, replies, ticks int
	outcomes             [4]int
}

func (c *one) Pick(int64, []int) (server, token int, ok bool) { c.open++; return 0, 7, true }
func (c *one) Reply(_ int, _, _ int64, o lbsim.Outcome, _ lbsim.Load) {
	c.replies++
	c.outcomes[o]++
}
func (c *one) Finish(int, int64)             { c.open-- }
func (c *one) Tick(int64)                    { c.ticks++ }
func (c *one) SetServers(int64, []int)       {}
func (c *one) Probes(int64) []int            { return nil }
func (c *one) Probed(int, int64, lbsim.Load) {}

func TestProcessorSharingAgreesWithTheory(t *testing.T) {
	// M/G/1 with processor sharing: the mean time in the system is mean/(1-load), whatever the
	// distribution of work.
	for name, work := range map[string]func(*rand.Rand) float64{
		"exponential": lbsim.Exponential, "normal": lbsim.Normal, "bimodal": lbsim.Bimodal,
	} {
		t.Run(name, func(t *testing.T) {
			c := &one{}
			r := lbsim.Run(lbsim.Config{
				Seed: 1,
				Scenario: lbsim.Scenario{
					Clients: 1, Servers: 1, Cores: 1, Load: .5, Work: work, Mean: time.Millisecond,
					Warmup: time.Second, Length: 200 * time.Second,
				},
				NewClient: func(int, *rand.Rand) lbsim.Client { return c },
			})
			hops := 500 * time.Microsecond
			require.InDelta(t, 2.0, float64(r.Mean-hops)/float64(time.Millisecond), 0.05)
			require.InDelta(t, 100_000, r.Requests, 1500)
			require.Zero(t, r.ErrorShare())
			require.InDelta(t, 2010, c.ticks, 2)
			require.Less(t, c.open, 20)
		})
	}
}

func TestWorkHasMeanOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, work := range map[string]func(*rand.Rand) float64{
		"exponential": lbsim.Exponential, "normal": lbsim.Normal,
		"bimodal": lbsim.Bimodal, "pareto": lbsim.Pareto,
	} {
		sum := 0.0
		for range 1_000_000 {
			sum += work(random)
		}
		require.InDelta(t, 1, sum/1e6, 0.02, name)
	}
}

func TestFaultsReachTheClient(t *testing.T) {
	run := func(weather func(*lbsim.Weather)) (lbsim.Result, *one) {
		c := &one{}
		return lbsim.Run(lbsim.Config{
			Seed: 1,
			Scenario: lbsim.Scenario{
				Clients: 1, Servers: 1, Cores: 4, Load: .5,
				Length: 10 * time.Second, Timeout: time.Second, Weather: weather,
			},
			NewClient: func(int, *rand.Rand) lbsim.Client { return c },
		}), c
	}
	r, c := run(func(w *lbsim.Weather) { w.Speed(0, 0, 0) })
	require.Equal(t, r.Requests, r.Expired, "hung: every deadline passes")
	require.Equal(t, time.Second, r.P50)
	require.Zero(t, c.outcomes[lbsim.Success])

	r, c = run(func(w *lbsim.Weather) { w.Refuse(0, 0, true) })
	require.Equal(t, r.Requests, r.Failed)
	require.InDelta(
		t,
		4*r.Requests,
		c.outcomes[lbsim.Refused],
		8,
		"refused requests are sent again three times",
	)

	r, c = run(func(w *lbsim.Weather) { w.Fail(0, 0, .5, true) })
	require.InDelta(t, .5, r.ErrorShare(), .05)
	require.NotZero(t, c.outcomes[lbsim.Success])
}

func TestRunsRepeat(t *testing.T) {
	for _, s := range lbsim.Scenarios(10)[4:6] {
		s.Length = 2 * time.Second
		require.Equal(
			t,
			lbsim.Run(lbsim.Config{Scenario: s, Seed: 3}),
			lbsim.Run(lbsim.Config{Scenario: s, Seed: 3}),
		)
		require.NotEqual(
			t,
			lbsim.Run(lbsim.Config{Scenario: s, Seed: 3}),
			lbsim.Run(lbsim.Config{Scenario: s, Seed: 4}),
		)
	}
}
