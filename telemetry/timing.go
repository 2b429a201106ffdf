package telemetry

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
)

const maxTimings = 16

// A timing is one metric of the Server-Timing field.
type timing struct {
	name     string
	duration time.Duration
}

// Measure starts to measure a part of a request, such as a query, and returns the function that
// ends it. The client is told what ended before the header went out, if [Config.ServerTiming] is
// on. name must be a token (RFC 9110): a measure of another name is left out. Measures of one name
// add up; beyond 16 names they are left out. Measure is safe for concurrent use.
//
//	defer telemetry.Measure(ctx, "db")()
func Measure(ctx context.Context, name string) (end func()) {
	ex := exchangeFrom(ctx)
	if ex == nil || !ex.tel.cfg.ServerTiming || !grammar.IsToken(name) {
		return func() {}
	}
	start := time.Now()
	return func() {
		duration := time.Since(start)
		ex.mu.Lock()
		defer ex.mu.Unlock()
		for i := range ex.timing {
			if ex.timing[i].name == name {
				ex.timing[i].duration += duration
				return
			}
		}
		if len(ex.timing) < maxTimings {
			ex.timing = append(ex.timing, timing{name, duration})
		}
	}
}

// setServerTiming sets the field as of now: "total" and what was measured.
func (ex *exchange) setServerTiming() {
	var b strings.Builder
	add := func(name string, duration time.Duration) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name)
		b.WriteString(";dur=")
		b.WriteString(strconv.FormatFloat(float64(duration)/float64(time.Millisecond), 'f', 1, 64))
	}
	add("total", time.Since(ex.start))
	ex.mu.Lock()
	for _, t := range ex.timing {
		add(t.name, t.duration)
	}
	ex.mu.Unlock()
	h := ex.writer.Header()
	// The handler may proxy a server that has timings of its own: ours are a line beside theirs. If
	// a first attempt to send the header came to nothing, the line is there already.
	if ex.timingLine == "" {
		h.Add("Server-Timing", b.String())
	} else {
		for i, line := range h["Server-Timing"] {
			if line == ex.timingLine {
				h["Server-Timing"][i] = b.String()
			}
		}
	}
	ex.timingLine = b.String()
}
