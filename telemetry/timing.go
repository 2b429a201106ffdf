package telemetry

import (
	"context"
	"strconv"
	"strings"
	"time"
)

const maxTimings = 16

// A timing is one metric of the Server-Timing field.
type timing struct {
	name string
	took time.Duration
}

// Measure starts to measure a part of a request, such as a query, and returns the function
// that ends it. What ended before the header went out is told to the client if
// [Config.ServerTiming] is on. name must be a token (RFC 9110). Measures of one name
// add up; beyond 16 names they are left out. Measure is safe for concurrent use.
//
//	defer telemetry.Measure(ctx, "db")()
func Measure(ctx context.Context, name string) (end func()) {
	x := exchangeFrom(ctx)
	if x == nil || !x.tel.cfg.ServerTiming || !isToken(name) {
		return func() {}
	}
	start := time.Now()
	return func() {
		took := time.Since(start)
		x.mu.Lock()
		defer x.mu.Unlock()
		for i := range x.timing {
			if x.timing[i].name == name {
				x.timing[i].took += took
				return
			}
		}
		if len(x.timing) < maxTimings {
			x.timing = append(x.timing, timing{name, took})
		}
	}
}

// setServerTiming writes the field as of now: "total" and what was measured.
func (x *exchange) setServerTiming() {
	var b strings.Builder
	add := func(name string, took time.Duration) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name)
		b.WriteString(";dur=")
		b.WriteString(strconv.FormatFloat(float64(took)/float64(time.Millisecond), 'f', 1, 64))
	}
	add("total", time.Since(x.start))
	x.mu.Lock()
	for _, t := range x.timing {
		add(t.name, t.took)
	}
	x.mu.Unlock()
	h := x.writer.Header()
	// The handler may proxy a server that has timings of its own. Ours are one line
	// of theirs, replaced if a first attempt to send the header came to nothing.
	if x.timingLine == "" {
		h.Add("Server-Timing", b.String())
	} else {
		for i, line := range h["Server-Timing"] {
			if line == x.timingLine {
				h["Server-Timing"][i] = b.String()
			}
		}
	}
	x.timingLine = b.String()
}
