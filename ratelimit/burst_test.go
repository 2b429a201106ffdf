package ratelimit_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// Requests that come together read the clock in one order and are charged in another. That takes
// nothing from the burst.
func TestABurstIsAdmittedWhole(t *testing.T) {
	const burst = 8
	for _, a := range algorithms {
		one := policyOf("one", ratelimit.Rate{Limit: burst, Window: time.Hour, Burst: burst})
		if a == ratelimit.SlidingWindow {
			one.Rate.Burst = 0
		}
		one.Algorithm = a
		two := one
		two.Name = "two"
		for keys, l := range []*ratelimit.Limiter{1: limiterOf(t, one), 2: limiterOf(t, one, two)} {
			if l == nil {
				continue
			}
			for round := range 5000 {
				list := make([]string, keys)
				for i := range list {
					list[i] = strconv.Itoa(round)
				}
				var admitted atomic.Int64
				var all sync.WaitGroup
				for range burst {
					all.Go(func() {
						if d, err := l.TakeKeys(t.Context(), list); err == nil && d.Allowed {
							admitted.Add(1)
						}
					})
				}
				all.Wait()
				require.EqualValues(t, burst, admitted.Load())
				d, err := l.TakeKeys(t.Context(), list)
				require.NoError(t, err)
				require.False(t, d.Allowed)
			}
		}
	}
}
