package telemetry

import (
	"math"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	h := func(counts ...uint64) *metrics.Float64Histogram {
		return &metrics.Float64Histogram{Counts: counts, Buckets: []float64{0, 1, 2, 4, math.Inf(1)}}
	}
	tests := []struct {
		name    string
		h, base *metrics.Float64Histogram
		q, want float64
	}{
		{"none", h(0, 0, 0, 0), nil, 0.99, 0},
		{"no histogram", nil, nil, 0.5, 0},
		{"all in one", h(0, 5, 0, 0), nil, 0.5, 2},
		{"median", h(1, 1, 1, 0), nil, 0.5, 2},
		{"just within", h(99, 0, 1, 0), nil, 0.99, 1},
		{"just beyond", h(98, 0, 2, 0), nil, 0.99, 4},
		{"no upper boundary", h(0, 0, 0, 3), nil, 0.5, 4},
		{"since base", h(100, 0, 3, 0), h(100, 0, 0, 0), 0.5, 4},
		{"nothing since base", h(100, 0, 3, 0), h(100, 0, 3, 0), 0.5, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, quantile(tt.h, tt.base, tt.q)) })
	}
}

// The names that this asks of the runtime exist, and the figures are of what happened.
func TestRuntimeFigures(t *testing.T) {
	r := NewRuntime()
	before := r.Stats()
	for range 5 {
		runtime.GC()
	}
	wait := make(chan struct{})
	for range 10 {
		go func() { <-wait }()
	}
	after := r.Stats()
	close(wait)
	require.Greater(t, after.Goroutines, 10) // those of earlier tests may end meanwhile
	require.Equal(t, runtime.GOMAXPROCS(0), after.Threads)
	require.GreaterOrEqual(t, after.GCCycles, before.GCCycles+5)
	require.Positive(t, after.HeapBytes)
	require.Greater(t, after.MemoryBytes, after.HeapBytes)
	require.Positive(t, after.GCPauseP99)
	require.Less(t, after.GCPauseP99, 10.0)
	require.Positive(t, after.SchedLatencyP99)
	require.GreaterOrEqual(t, after.SchedLatencyP99, after.SchedLatencyP50)
	require.Positive(t, after.GCCPUPercent)
	require.LessOrEqual(t, after.GCCPUPercent, 100.0)
}

// Figures over time are of the last 30 to 60 s, whoever asks in between and how often.
func TestRuntimeWindow(t *testing.T) {
	r := NewRuntime()
	r.Stats()
	first := r.newer
	r.Stats()
	require.Equal(t, first.at, r.newer.at, "a sample younger than 30 s stays")
	r.newer.at = r.newer.at.Add(-sampleAge)
	r.Stats()
	require.NotEqual(t, first.at, r.newer.at)
	require.Equal(t, first.scheds, r.older.scheds, "and is the base from then on")
}
