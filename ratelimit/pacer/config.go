package pacer

import (
	"context"
	"math"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/ratelimit"
)

const (
	defaultMaxWait       = 30 * time.Second
	defaultMaxQueue      = 64
	defaultMaxKeys       = 1024
	defaultMaxRetryAfter = 5 * time.Minute
)

// Config configures a [Pacer].
type Config struct {
	// Rate is what each host is asked at most, whatever it allows. Required. A Burst of zero means
	// a tenth of Limit, at least 1; more than [math.MaxInt32] is invalid.
	Rate ratelimit.Rate

	// MaxWait is the longest that a request waits for its turn. Zero means 30 s. Negative means
	// until its context ends.
	MaxWait time.Duration

	// MaxQueue is how many requests may wait for one key. Zero means 64. Negative means none: a
	// request that cannot be sent at once fails.
	MaxQueue int

	// MaxKeys is how many keys, which are hosts unless [Pacer.TransportFor] names them, have a pace
	// of their own. Zero means 1,024. Negative is invalid. All others share one more pace. A key
	// that gets its own pace later begins with what the shared one has used and was told.
	MaxKeys int

	// MaxRetryAfter is the longest that a host's Retry-After or RateLimit field is obeyed. Zero
	// means 5 minutes. Negative means that these fields are ignored.
	MaxRetryAfter time.Duration

	// Observe, if not nil, receives every request's turn. It is called on the request's goroutine
	// with no lock held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("pacer", "Config")
	r, err := c.Rate.Validate(ratelimit.GCRA)
	f.Nest("Rate", err)
	if r.Burst > math.MaxInt32 { // x/time/rate counts in an int
		f.Add("Rate.Burst", "%d is more than %d", r.Burst, math.MaxInt32)
	}
	c.Rate = r
	settings.Default(f, "MaxWait", &c.MaxWait, defaultMaxWait)
	settings.Default(f, "MaxQueue", &c.MaxQueue, defaultMaxQueue)
	settings.Positive(f, "MaxKeys", &c.MaxKeys, defaultMaxKeys)
	settings.Default(f, "MaxRetryAfter", &c.MaxRetryAfter, defaultMaxRetryAfter)
	return c, f.Err()
}
