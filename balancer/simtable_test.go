package balancer

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trivet-go/trivet/internal/lbsim"
)

type simRun struct {
	Cell, Policy string
	R            []lbsim.Result
}

func TestSimScratch(t *testing.T) {
	spec := os.Getenv("SIM")
	if spec == "" {
		return
	}
	f := strings.Split(spec, ";")
	var seeds int
	fmt.Sscan(f[1], &seeds)
	filter, pols := f[2], f[3]
	cache := "/tmp/rivals.json"
	var all []simRun
	if b, err := os.ReadFile(cache); err == nil {
		json.Unmarshal(b, &all)
	}
	var jobs []*simRun
	sem := make(chan bool, 2)
	var wg sync.WaitGroup
	for _, cs := range strings.Split(f[0], ",") {
		clients := 0
		fmt.Sscan(cs, &clients)
		for _, s := range lbsim.Scenarios(clients) {
			if !strings.Contains(s.Name, filter) {
				continue
			}
			for _, p := range append(simPolicies, struct {
				name   string
				policy func() Policy
			}{"oracle", nil}) {
				if pols != "all" && !strings.Contains(pols, p.name) {
					continue
				}
				j := &simRun{fmt.Sprintf("%s x%d", s.Name, clients), p.name, make([]lbsim.Result, seeds)}
				jobs = append(jobs, j)
				wg.Go(func() {
					sem <- true
					defer func() { <-sem }()
					for k := range seeds {
						cfg := lbsim.Config{Scenario: s, Seed: uint64(k + 1)}
						if p.name == "probing" {
							cfg.NewReporter = func() lbsim.Reporter { return new(simReporter) }
						}
						if p.policy != nil {
							cfg.NewClient = func(_ int, r *rand.Rand) lbsim.Client { return newSimClient(Config{Policy: p.policy()}, r) }
						}
						j.R[k] = lbsim.Run(cfg)
					}
				})
			}
		}
	}
	wg.Wait()
	for _, j := range jobs {
		all = slices.DeleteFunc(all, func(o simRun) bool { return o.Cell == j.Cell && o.Policy == j.Policy })
		all = append(all, *j)
	}
	if pols == "all" || len(f) > 4 {
		b, _ := json.Marshal(all)
		os.WriteFile(cache, b, 0o600)
	}
	get := func(cell, policy string) []lbsim.Result {
		for _, r := range all {
			if r.Cell == cell && r.Policy == policy {
				return r.R
			}
		}
		return nil
	}
	ratio := func(a, b []lbsim.Result) (mean, upper float64) {
		n := min(len(a), len(b))
		var xs []float64
		for k := range n {
			xs = append(xs, math.Log(float64(a[k].P999)/float64(b[k].P999)))
		}
		s, q := 0.0, 0.0
		for _, x := range xs {
			s += x
		}
		s /= float64(n)
		for _, x := range xs {
			q += (x - s) * (x - s)
		}
		se := math.Sqrt(q / float64(n-1) / float64(n))
		tv := map[int]float64{2: 12.7, 3: 4.3, 4: 3.18, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}[n]
		return math.Exp(s), math.Exp(s + tv*se)
	}
	sum, n, worst := 0.0, 0, 0.0
	for _, j := range jobs {
		if j.Policy != "adaptive" && j.Policy != "probing" {
			continue
		}
		best, bu, name := 0.0, 0.0, ""
		for _, p := range simPolicies[:5] {
			if m, u := ratio(j.R, get(j.Cell, p.name)); m > best {
				best, bu, name = m, u, p.name
			}
		}
		p2c, _ := ratio(j.R, get(j.Cell, "P2C"))
		or, _ := ratio(j.R, get(j.Cell, "oracle"))
		ad := 0.0
		if a := get(j.Cell, "adaptive"); a != nil {
			ad, _ = ratio(j.R, a)
		}
		e, st, le := 0.0, time.Duration(0), 9.0
		for _, r := range j.R {
			e += r.ErrorShare() * 100 / float64(len(j.R))
			if r.Starved < 0 {
				r.Starved = 99 * time.Second
			}
			st = max(st, r.Starved)
			le = min(le, r.LeastShare)
		}
		mark := ""
		if best > 1 {
			mark = "*"
		}
		fmt.Printf("%-24s %-8s %.3f (%.3f)%s vs %-13s P2C %.2f oracle %.2f adaptive %.2f err %.4f%% st %.1f least %.2f p999 %v\n", j.Cell, j.Policy, best, bu, mark, name, p2c, or, ad, e, st.Seconds(), le, j.R[0].P999)
		sum += math.Log(best)
		worst = max(worst, best)
		n++
	}
	fmt.Printf("geomean %.3f worst %.3f\n", math.Exp(sum/float64(n)), worst)
}
