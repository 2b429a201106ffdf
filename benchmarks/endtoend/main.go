// Endtoend measures what a request costs through the whole gateway, beside what people put in its
// place: a plain httputil.ReverseProxy, the same with the parts that a Go user wires by hand,
// nginx, HAProxy, Caddy and Varnish, each with two origins behind it, on loopback.
//
//	go run ./endtoend -gateway ../bin/gateway        in benchmarks/; make endtoend builds and runs it
//
// A contender runs alone on processor 0; the load, the origins and this program share processor 1.
// The headline is the processor time of the contender for 100,000 requests: requests a second
// depend on whatever else the machine does, processor time much less. Rounds are the outer loop,
// each sample has fresh processes and a warm-up, and the table has medians. Contenders that are not
// installed are left out, and named.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if self, err := os.Executable(); err == nil {
		os.Args[0] = self // the origins and the reverse proxy are this program, started elsewhere
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "origin":
			log.Fatal(serveOrigin(os.Args[2:]))
		case "reverseproxy":
			log.Fatal(serveReverseProxy(os.Args[2:]))
		}
	}
	var opt options
	flag.StringVar(&opt.gateway, "gateway", "", "the gateway's binary; required")
	flag.StringVar(&opt.cases, "cases", "proxy,full,big,cached,kill", "which cases to run")
	flag.StringVar(&opt.contenders, "contenders", "", "which contenders to run; empty runs all")
	flag.DurationVar(&opt.duration, "duration", 4*time.Second, "how long a sample takes")
	flag.IntVar(&opt.rounds, "rounds", 5, "samples of each contender and case")
	flag.Parse()
	if opt.gateway == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := opt.run(); err != nil {
		log.Fatal(err)
	}
}

type options struct {
	gateway, cases, contenders string
	duration                   time.Duration
	rounds                     int
}

// A sample is what one run of a contender costs and yields.
type sample struct {
	cpu      float64 // seconds for 100,000 requests
	rate     float64 // requests a second
	failed   int
	p50, p99 time.Duration
	slowest  time.Duration // the 99.9th percentile
}

// run measures and prints the tables.
func (o options) run() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("needs Linux: processor times are read from /proc")
	}
	for _, tool := range []string{"taskset", "wrk"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("needs %s: %w", tool, err)
		}
	}
	dir, err := os.MkdirTemp("", "endtoend")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.gateway, err = filepath.Abs(o.gateway); err != nil {
		return err
	}
	fmt.Printf("%s, %s, load average before: %s\n", commit(), runtime.Version(), loadAverage())
	all := contenders(o.gateway)
	var chosen []contender
	for _, c := range all {
		path, err := exec.LookPath(c.binary)
		switch {
		case o.contenders != "" && !slices.Contains(strings.Split(o.contenders, ","), c.name):
		case err != nil:
			fmt.Printf("%s is not installed and left out\n", c.name)
		default:
			if c.version != nil {
				out, _ := exec.Command(path, c.version...).CombinedOutput()
				fmt.Printf("%s: %s\n", c.name, firstLine(out))
			}
			chosen = append(chosen, c)
		}
	}
	for name := range strings.SplitSeq(o.cases, ",") {
		results := map[string][]sample{}
		for range o.rounds {
			for _, c := range chosen {
				if !slices.Contains(c.cases, name) {
					continue
				}
				s, err := o.measure(c, name, dir)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", name, c.name, err)
				}
				results[c.name] = append(results[c.name], s)
			}
		}
		printTable(name, chosen, results)
	}
	fmt.Printf("\nload average after: %s\n", loadAverage())
	return nil
}

// measure takes one sample.
func (o options) measure(c contender, name, dir string) (sample, error) {
	var origins []*process
	defer func() {
		for _, p := range origins {
			p.kill()
		}
	}()
	for _, addr := range originAddrs {
		p, err := start(1, dir, os.Args[0], "origin", addr)
		if err != nil {
			return sample{}, err
		}
		origins = append(origins, p)
		if err := await(addr); err != nil {
			return sample{}, err
		}
	}
	command, err := c.prepare(name, dir)
	if err != nil {
		return sample{}, err
	}
	p, err := start(0, dir, command[0], command[1:]...)
	if err != nil {
		return sample{}, err
	}
	defer p.kill()
	if err := await(listenAddr); err != nil {
		return sample{}, fmt.Errorf("%w\n%s", err, p.output())
	}
	if name == "kill" {
		return openLoop(p, origins[1], o.duration)
	}
	path := map[string]string{"big": "/256k", "cached": "/cached"}[name]
	if path == "" {
		path = "/1k"
	}
	return saturate(p, path, o.duration)
}

func printTable(name string, all []contender, results map[string][]sample) {
	fmt.Printf("\n### %s\n| contender | CPU s per 100,000 requests | of ReverseProxy | requests/s "+
		"| p50 | p99 | p99.9 | failed |\n|---|---:|---:|---:|---:|---:|---:|---:|\n", name)
	for _, c := range all {
		samples := results[c.name]
		if len(samples) == 0 {
			continue
		}
		ratio := "" // of samples of the same round
		if base := results[reverseProxy]; len(base) == len(samples) {
			median := medianOf(samples, func(i int) float64 { return samples[i].cpu / base[i].cpu })
			ratio = fmt.Sprintf("%.2f", median)
		}
		failed := 0
		for _, s := range samples {
			failed += s.failed
		}
		at := func(f func(s sample) time.Duration) time.Duration {
			median := medianOf(samples, func(i int) float64 { return float64(f(samples[i])) })
			return time.Duration(median).Round(10 * time.Microsecond)
		}
		fmt.Printf("| %s | %.2f | %s | %.0f | %v | %v | %v | %d |\n", c.name,
			medianOf(samples, func(i int) float64 { return samples[i].cpu }), ratio,
			medianOf(samples, func(i int) float64 { return samples[i].rate }),
			at(func(s sample) time.Duration { return s.p50 }),
			at(func(s sample) time.Duration { return s.p99 }),
			at(func(s sample) time.Duration { return s.slowest }), failed)
	}
}

func medianOf(samples []sample, f func(i int) float64) float64 {
	var values []float64
	for i := range samples {
		values = append(values, f(i))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "commit unknown"
	}
	return "commit " + strings.TrimSpace(string(out))
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
