package balancer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trivet-go/trivet/internal/lbsim"
)

func TestSimScratch(t *testing.T) {
	spec := os.Getenv("SIM")
	if spec == "" {
		return
	}
	var clients, seeds int
	var filter, pols string
	f := strings.Split(spec, ";")
	fmt.Sscan(f[0], &clients)
	fmt.Sscan(f[1], &seeds)
	filter = f[2]
	if len(f) > 3 {
		pols = f[3]
	}
	for _, s := range lbsim.Scenarios(clients) {
		if !strings.Contains(s.Name, filter) {
			continue
		}
		type row struct {
			name string
			rs   []lbsim.Result
		}
		var rows []row
		var wg sync.WaitGroup
		for _, p := range append(simPolicies, struct {
			name   string
			policy func() Policy
		}{"oracle", nil}) {
			if pols != "" && !strings.Contains(pols, p.name) {
				continue
			}
			rows = append(rows, row{p.name, make([]lbsim.Result, seeds)})
			rs := rows[len(rows)-1].rs
			wg.Go(func() {
				for k := range seeds {
					cfg := lbsim.Config{Scenario: s, Seed: uint64(k + 1)}
					if p.policy != nil {
						cfg.NewClient = func(_ int, r *rand.Rand) lbsim.Client { return newSimClient(Config{Policy: p.policy()}, r) }
					}
					rs[k] = lbsim.Run(cfg)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		fmt.Printf("%s x%d  (%v)\n", s.Name, clients, time.Since(start).Round(time.Millisecond))
		for _, r := range rows {
			fmt.Printf("  %-14s", r.name)
			for _, x := range r.rs {
				fmt.Printf(" | %4d %5d err %.4f%% st %.1f least %.2f max %d", x.P99.Milliseconds(), x.P999.Milliseconds(), 100*x.ErrorShare(), x.Starved.Seconds(), x.LeastShare, x.MaxInside)
			}
			fmt.Println()
		}
	}
}
