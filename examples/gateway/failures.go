package main

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/trivet-go/trivet/balancer"
)

// failureInterval is the time between two lines about failed attempts at one host.
const failureInterval = 10 * time.Second

// A failureLog tells the log what happens to the hosts of an upstream. Failed attempts are as
// frequent as requests: of them it says why, once a host and interval.
type failureLog struct {
	log      *slog.Logger
	upstream string

	mu   sync.Mutex           // guards the field below
	said map[string]time.Time // by address: those of the last interval
}

func (l *failureLog) observe(ctx context.Context, e balancer.Event) {
	level := slog.LevelInfo
	switch e.Kind {
	case balancer.Attempted:
		if e.Err == nil || e.Outcome != balancer.Failure || !l.first(e.Endpoint.Addr) {
			return
		}
		level = slog.LevelWarn
	case balancer.EndpointChanged:
		if e.State == balancer.Down || e.State == balancer.Ejected {
			level = slog.LevelWarn
		}
	case balancer.TargetResolved:
		if e.Err != nil {
			level = slog.LevelWarn
		}
	case balancer.PanicChanged:
		if e.Panicking {
			level = slog.LevelWarn
		}
	}
	l.log.LogAttrs(ctx, level, "balancer", slog.String("upstream", l.upstream), inline(e))
}

// first reports whether nothing has been said about the host for an interval.
func (l *failureLog) first(addr string) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.said[addr]; ok && now.Sub(at) < failureInterval {
		return false
	}
	maps.DeleteFunc(l.said, func(_ string, at time.Time) bool { return now.Sub(at) >= failureInterval })
	if l.said == nil {
		l.said = map[string]time.Time{}
	}
	l.said[addr] = now
	return true
}
