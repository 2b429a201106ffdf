package retry_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/trivet-go/trivet/retry"
)

func BenchmarkTransport(b *testing.B) {
	resp := answer(200)
	next := roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })
	cloning := roundTripper(
		func(req *http.Request) (*http.Response, error) { return next.RoundTrip(req.Clone(req.Context())) },
	)
	for _, tt := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"retrier=none", cloning}, // only the copy that a transport must make
		{"retrier=default", newRetrier(b, retry.Config{}).Transport(next)},
		{"retrier=hedging", newRetrier(b, retry.Config{Hedge: true}).Transport(next)},
	} {
		for _, body := range []int{0, 64 << 10} {
			b.Run(
				tt.name+"/body="+map[bool]string{true: "none", false: "64KiB"}[body == 0],
				func(b *testing.B) {
					method, data := "GET", io.Reader(nil)
					if body > 0 {
						method, data = "POST", bytes.NewReader(make([]byte, body))
					}
					req := request(b, method, data)
					req.Header.Set("Accept", "text/plain")
					b.ReportAllocs()
					for b.Loop() {
						if _, err := tt.rt.RoundTrip(req); err != nil {
							b.Fatal(err)
						}
					}
				},
			)
		}
	}
}

// Many goroutines of one host share its budget, and nothing else.
func BenchmarkTransportParallel(b *testing.B) {
	resp := answer(200)
	rt := newRetrier(
		b,
		retry.Config{},
	).Transport(roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil }))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		req := request(b, "GET", nil)
		for pb.Next() {
			_, _ = rt.RoundTrip(req)
		}
	})
}

func BenchmarkDeadline(b *testing.B) {
	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	d := newDeadline(b, retry.DeadlineConfig{Field: "Request-Timeout"})
	for name, h := range map[string]http.Handler{
		"deadline=none":  empty,
		"deadline=field": d.Middleware(empty),
	} {
		b.Run(name, func(b *testing.B) {
			r, err := http.NewRequest("GET", "/", nil)
			if err != nil {
				b.Fatal(err)
			}
			r.Header.Set("Request-Timeout", "1000")
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(nil, r)
			}
		})
	}
}
