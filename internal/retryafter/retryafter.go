// Package retryafter reads and writes the Retry-After field (RFC 9110, section 10.2.3).
package retryafter

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Seconds returns d in whole seconds, rounded up: who waits as told must not come too early. It is
// 0 if d is not positive.
func Seconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	s := int64(d / time.Second)
	if d%time.Second != 0 {
		s++
	}
	return s
}

// Set sets the field to d, rounded up. It leaves h alone if d is not positive.
func Set(h http.Header, d time.Duration) {
	if s := Seconds(d); s > 0 {
		h.Set("Retry-After", strconv.FormatInt(s, 10))
	}
}

// Parse reads value, which is delay-seconds or an HTTP-date, as a wait from now on. ok is false if
// it is neither. A date that has passed is no wait; more seconds than a Duration holds are the
// longest one.
func Parse(value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.Trim(value, " \t")
	if value == "" || len(value) > 64 {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		const most = int64(math.MaxInt64 / time.Second)
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil { // only digits, so there are too many
			n = most
		}
		return time.Duration(min(n, most)) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(at.Sub(now), 0), true
}
