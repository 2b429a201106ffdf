package main

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// saturate asks p for path as fast as it answers, over 64 connections.
func saturate(p *process, path string, d time.Duration) (s sample, err error) {
	url := "http://" + listenAddr + path
	run := func(d time.Duration) (string, error) {
		out, err := exec.Command("taskset", "-c", "1", "wrk", "-t", "1", "-c", "64", "--latency",
			"-d", fmt.Sprintf("%ds", max(1, int(d.Seconds()))), url).CombinedOutput()
		return string(out), err
	}
	if out, err := run(time.Second); err != nil { // a warm-up
		return s, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	before := p.cpu()
	out, err := run(d)
	if err != nil {
		return s, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	used := p.cpu() - before
	requests := number(out, `(\d+) requests in`)
	if requests == 0 {
		return s, fmt.Errorf("nothing was answered\n%s\n%s", out, p.output())
	}
	s.cpu = used.Seconds() / requests * 100_000
	s.rate = number(out, `Requests/sec:\s+([\d.]+)`)
	s.failed = int(number(out, `Non-2xx or 3xx responses: (\d+)`))
	s.p50, s.p99 = latency(out, "50%"), latency(out, "99%")
	return s, nil
}

// number returns the number that pattern finds in what wrk prints; 0 if there is none.
func number(out, pattern string) float64 {
	m := regexp.MustCompile(pattern).FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.ParseFloat(m[1], 64)
	return v
}

func latency(out, percentile string) time.Duration {
	m := regexp.MustCompile(regexp.QuoteMeta(percentile) + `\s+([\d.]+[a-z]+)`).FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	d, _ := time.ParseDuration(m[1])
	return d
}

// openLoop sends a thousand requests a second, however many are still unanswered. At three eighths
// of the time it kills an origin.
func openLoop(p, origin *process, d time.Duration) (s sample, err error) {
	d = max(d, 8*time.Second)
	n := int(d.Seconds() * 1000)
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 500}, Timeout: 10 * time.Second,
	}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	before, began := p.cpu(), time.Now()
	for i := range n {
		<-ticker.C
		if i == n*3/8 {
			origin.kill()
		}
		wg.Go(func() {
			start := time.Now()
			resp, err := client.Get("http://" + listenAddr + "/slow")
			good := false
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				good = err == nil && resp.StatusCode == http.StatusOK
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(start))
			if !good {
				s.failed++
			}
		})
	}
	wg.Wait()
	s.cpu = (p.cpu() - before).Seconds() / float64(n) * 100_000
	s.rate = float64(n) / time.Since(began).Seconds()
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))] }
	s.p50, s.p99, s.slowest = at(0.5), at(0.99), at(0.999)
	return s, nil
}
