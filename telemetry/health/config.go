package health

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultTimeout    = 2 * time.Second
	defaultTTL        = time.Second
	defaultDrainDelay = 5 * time.Second
)

// Config configures a [Health]. The zero Config is valid and has no checks.
type Config struct {
	// Checks are what readiness depends on.
	Checks []CheckConfig

	// DrainDelay is how long [Health.Drain] waits for load balancers to notice. Zero means 5 s.
	// Negative means that it does not wait.
	DrainDelay time.Duration
}

// CheckConfig configures a check, which tells whether something that the process needs is there.
type CheckConfig struct {
	// Name identifies the check. Required, and different from that of others.
	Name string

	// Func returns nil if all is well. Required. It must end when its context does: until it
	// returns, no other run of this check starts, and the check fails.
	Func func(context.Context) error

	// Timeout ends a run. Zero means 2 s. Negative is invalid. A prober that waits for less, as
	// Kubernetes' does with its default of 1 s, takes the lack of an answer for a failure.
	Timeout time.Duration

	// TTL is how long a result is used again, however many probes come. Zero means 1 s. Negative
	// means that a result is used only by the probes that waited for it.
	TTL time.Duration

	// Optional says that a failure is reported and does not make the process unready. Taking out
	// all replicas because a shared dependency is down turns a part of an outage into a whole
	// one. An optional check also delays no probe after its first run: the last result counts
	// until the next is there.
	Optional bool
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("health", "Config")
	settings.Default(f, "DrainDelay", &c.DrainDelay, defaultDrainDelay)
	c.Checks = slices.Clone(c.Checks)
	for i := range c.Checks {
		check := &c.Checks[i]
		field := fmt.Sprintf("Checks[%d].", i)
		if check.Name == "" {
			f.Add(field+"Name", "is required")
		}
		if slices.ContainsFunc(c.Checks[:i], func(o CheckConfig) bool { return o.Name == check.Name }) {
			f.Add(field+"Name", "%q is taken", check.Name)
		}
		if check.Func == nil {
			f.Add(field+"Func", "is required")
		}
		settings.Positive(f, field+"Timeout", &check.Timeout, defaultTimeout)
		settings.Default(f, field+"TTL", &check.TTL, defaultTTL)
	}
	return c, f.Err()
}
