package retryafter_test

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/retryafter"
)

func TestParse(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	longest := time.Duration(math.MaxInt64 / int64(time.Second) * int64(time.Second))
	tests := []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"120", 2 * time.Minute, true},
		{" 5\t", 5 * time.Second, true},
		{"0", 0, true},
		{"007", 7 * time.Second, true},
		{"9223372036854775807", longest, true},
		{strings.Repeat("9", 64), longest, true},
		{strings.Repeat("9", 65), 0, false},
		{"Fri, 02 Jan 2026 03:04:15 GMT", 10 * time.Second, true},
		{"Friday, 02-Jan-26 03:04:15 GMT", 10 * time.Second, true},
		{"Fri Jan  2 03:04:15 2026", 10 * time.Second, true},
		{"Fri, 02 Jan 2026 03:04:00 GMT", 0, true},
		{"", 0, false},
		{"-1", 0, false},
		{"+1", 0, false},
		{"1.5", 0, false},
		{"1e3", 0, false},
		{"120, 240", 0, false},
		{"soon", 0, false},
	}
	for _, tt := range tests {
		got, ok := retryafter.Parse(tt.value, now)
		require.Equal(t, tt.ok, ok, "%q", tt.value)
		require.Equal(t, tt.want, got, "%q", tt.value)
	}
}

func TestSetRoundsUp(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		-time.Second: "", 0: "", 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90",
		math.MaxInt64: "9223372037",
	} {
		h := http.Header{}
		retryafter.Set(h, wait)
		require.Equal(t, want, h.Get("Retry-After"), "%v", wait)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range []string{"120", "-1", "99999999999999999999", "Fri, 02 Jan 2026 03:04:15 GMT"} {
		f.Add(v)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		wait, ok := retryafter.Parse(value, now)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		if !ok {
			require.Zero(t, wait)
		}
	})
}
