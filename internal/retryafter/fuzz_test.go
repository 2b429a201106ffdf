package retryafter_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/retryafter"
)

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{
		"", "0", "120", " 7\t", "-1", "+1", "1.5", "1e3", "99999999999999999999",
		"Fri, 31 Dec 1999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999", "soon",
		"0x10", "1 2",
	} {
		f.Add(s)
	}
	now := time.Date(1999, 12, 31, 23, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		d, ok := retryafter.Parse(v, now)
		require.True(t, ok || d == 0)
		require.GreaterOrEqual(t, d, time.Duration(0))
		trimmed := strings.Trim(v, " \t")
		if trimmed != "" && len(trimmed) <= 18 && strings.Trim(trimmed, "0123456789") == "" {
			var n int64
			_, err := fmt.Sscan(trimmed, &n)
			if err == nil && strings.TrimLeft(trimmed, "0") == fmt.Sprint(n) {
				require.Equal(t, min(n, math.MaxInt64/int64(time.Second)), int64(d/time.Second))
			}
		}
		if _, err := http.ParseTime(trimmed); err != nil && strings.Trim(trimmed, "0123456789") != "" {
			require.Zero(t, d, "neither seconds nor a date")
		}
	})
}
