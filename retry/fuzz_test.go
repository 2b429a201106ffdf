package retry_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trivet-go/trivet/retry"
)

// Whatever the field says, the request gets a deadline that is no later than Timeout, or 400, or
// 504.
func FuzzDeadlineField(f *testing.F) {
	seeds := []string{"1500", "0", "-1", "", "1e9", "99999999999999999999", "1500, 2", "0x10", " 7"}
	for _, v := range seeds {
		f.Add(v)
	}
	d, err := retry.NewDeadline(retry.DeadlineConfig{Timeout: time.Minute, Field: "Request-Timeout"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Request-Timeout"] = []string{value}
		start := time.Now()
		ran := false
		w := httptest.NewRecorder()
		d.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ran = true
			deadline, ok := r.Context().Deadline()
			if !ok || deadline.After(time.Now().Add(time.Minute)) || deadline.Before(start) {
				t.Errorf("%q gives %v", value, deadline)
			}
		})).ServeHTTP(w, r)
		number := value != "" && strings.Trim(value, "0123456789") == ""
		n, err := strconv.Atoi(value)
		switch {
		case !number && w.Code != 400:
			t.Errorf("%q is answered with %d", value, w.Code)
		case number && err == nil && n == 0 && (w.Code != 504 || ran):
			t.Errorf("%q is over, and answered with %d", value, w.Code)
		case number && (err != nil || n > 10_000) && !ran:
			t.Errorf("%q is a number, and the handler did not run", value)
		}
	})
}
