package pacer

import "time"

// ParseRateLimit is parseRateLimit.
func ParseRateLimit(values []string) (wait time.Duration, units int64, per time.Duration) {
	return parseRateLimit(values)
}
