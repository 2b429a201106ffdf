package telemetry

import (
	"math"
	"runtime/metrics"
	"sync"
	"time"
)

// RuntimeStats are figures of the Go runtime that tell whether the process itself is short of
// something. OpenTelemetry's contrib package instrumentation/runtime has many more.
type RuntimeStats struct {
	Goroutines      int     `json:"goroutines"`
	Threads         int     `json:"threads"`           // GOMAXPROCS
	HeapBytes       int     `json:"heap_bytes"`        // live and dead objects
	MemoryBytes     int     `json:"memory_bytes"`      // all that the runtime got from the system
	GCCycles        uint64  `json:"gc_cycles"`         // since the start
	GCPauseP99      float64 `json:"gc_pause_p99"`      // seconds; of the last 30 to 60 s
	SchedLatencyP50 float64 `json:"sched_latency_p50"` // seconds a runnable goroutine waited; likewise
	SchedLatencyP99 float64 `json:"sched_latency_p99"` // more than a few ms means too little CPU
	GCCPUPercent    float64 `json:"gc_cpu_percent"`    // of all CPU time; likewise
}

// A Runtime reads [RuntimeStats]. Create one with [NewRuntime] and give its Stats to [Register].
// It is safe for concurrent use and starts no goroutines.
type Runtime struct {
	mu           sync.Mutex // guards the fields below
	older, newer runtimeSample
}

// sampleAge is how old a sample must be to be the base of the figures over time.
const sampleAge = 30 * time.Second

type runtimeSample struct {
	at             time.Time
	pauses, scheds *metrics.Float64Histogram
	gcCPU, allCPU  float64
}

// NewRuntime returns a Runtime.
func NewRuntime() *Runtime { return &Runtime{} }

// Stats returns a snapshot.
func (r *Runtime) Stats() RuntimeStats {
	samples := []metrics.Sample{
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/sched/gomaxprocs:threads"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/sched/pauses/total/gc:seconds"},
		{Name: "/sched/latencies:seconds"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/total:cpu-seconds"},
	}
	metrics.Read(samples)
	number := func(i int) float64 {
		switch v := samples[i].Value; v.Kind() {
		case metrics.KindUint64:
			return float64(v.Uint64())
		case metrics.KindFloat64:
			return v.Float64()
		}
		return 0 // a runtime that does not know it
	}
	histogram := func(i int) *metrics.Float64Histogram {
		if samples[i].Value.Kind() != metrics.KindFloat64Histogram {
			return nil
		}
		return samples[i].Value.Float64Histogram()
	}
	now := runtimeSample{at: time.Now(), pauses: histogram(5), scheds: histogram(6), gcCPU: number(7), allCPU: number(8)}

	r.mu.Lock()
	defer r.mu.Unlock()
	if now.at.Sub(r.newer.at) >= sampleAge {
		r.older, r.newer = r.newer, now
	}
	base := r.older
	s := RuntimeStats{
		Goroutines:      int(number(0)),
		Threads:         int(number(1)),
		HeapBytes:       int(number(2)),
		MemoryBytes:     int(number(3)),
		GCCycles:        uint64(number(4)),
		GCPauseP99:      quantile(now.pauses, base.pauses, 0.99),
		SchedLatencyP50: quantile(now.scheds, base.scheds, 0.5),
		SchedLatencyP99: quantile(now.scheds, base.scheds, 0.99),
	}
	if all := now.allCPU - base.allCPU; all > 0 {
		s.GCCPUPercent = 100 * (now.gcCPU - base.gcCPU) / all
	}
	return s
}

// quantile returns the upper boundary of the bucket that holds the q-th of what came after base.
// base may be nil.
func quantile(h, base *metrics.Float64Histogram, q float64) float64 {
	if h == nil {
		return 0
	}
	count := func(i int) uint64 {
		if base == nil {
			return h.Counts[i]
		}
		return h.Counts[i] - base.Counts[i]
	}
	var total uint64
	for i := range h.Counts {
		total += count(i)
	}
	if total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(total)))
	for i := range h.Counts {
		n := count(i)
		if n >= rank {
			if upper := h.Buckets[i+1]; !math.IsInf(upper, 1) {
				return upper
			}
			return h.Buckets[i]
		}
		rank -= n
	}
	return 0
}
