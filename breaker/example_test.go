package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/trivet-go/trivet/breaker"
)

func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()

	b, err := breaker.New(breaker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: b.Transport(nil)}
	sent := 0
	for {
		resp, err := client.Get(server.URL)
		if errors.Is(err, breaker.ErrOpen) {
			fmt.Println("open after", sent)
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		sent++
	}
	// Output: open after 20
}

func ExampleBreaker_Middleware() {
	b, err := breaker.New(breaker.Config{MinRequests: 1})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /report", b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the database is down", http.StatusInternalServerError)
	})))
	for range 2 {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest("GET", "/report", nil))
		fmt.Println(rec.Code, strings.TrimSpace(rec.Body.String()))
	}
	// Output:
	// 500 the database is down
	// 503 {"status":503,"title":"Service Unavailable"}
}

// A cache in front of the breaker answers stale by itself. Without one, a fallback can.
func ExampleConfig_fallback() {
	b, err := breaker.New(breaker.Config{
		Fallback: func(*http.Request, error) (*http.Response, error) {
			return &http.Response{
				StatusCode: http.StatusOK,
				Header:     http.Header{"Content-Type": {"application/json"}},
				Body:       io.NopCloser(strings.NewReader(`{"recommendations":[]}`)),
			}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	b.Isolate("recommendations.internal")
	client := &http.Client{Transport: b.Transport(nil)}
	resp, err := client.Get("http://recommendations.internal/42")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: {"recommendations":[]}
}

// Acquire guards what is no HTTP request.
func ExampleBreaker_Acquire() {
	b, err := breaker.New(breaker.Config{MinRequests: 1})
	if err != nil {
		log.Fatal(err)
	}
	query := func(ctx context.Context) error {
		done, err := b.Acquire(ctx, "database")
		if err != nil {
			return err
		}
		outcome := breaker.Failure // also if what follows panics
		defer func() { done(outcome) }()
		if err := errors.New("connection refused"); err != nil { // ask the database here
			return err
		}
		outcome = breaker.Success
		return nil
	}
	for range 2 {
		fmt.Println(query(context.Background()))
	}
	// Output:
	// connection refused
	// breaker: open (database)
}

func ExampleThrottle() {
	t, err := breaker.NewThrottle(breaker.ThrottleConfig{})
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	client := &http.Client{Transport: t.Transport(nil)}
	for range 1000 {
		resp, err := client.Get(server.URL)
		if errors.Is(err, breaker.ErrThrottled) {
			continue // not sent
		}
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	fmt.Println("the server had to refuse fewer than 100:", t.Stats().Sent < 100)
	// Output: the server had to refuse fewer than 100: true
}
