package retry_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/trivet-go/trivet/retry"
)

func Example() {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "hello")
	}))
	defer server.Close()

	retrier, err := retry.New(retry.Config{})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: retrier.Transport(nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body), retrier.Stats().Retries)
	client.CloseIdleConnections()
	// Output: 200 hello map[503:1]
}

// A POST that may have had its effect is not repeated, unless it has a key by which the server
// knows it.
func ExampleRetrier_Transport() {
	retrier, err := retry.New(retry.Config{Backoff: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	sent := 0
	client := &http.Client{
		Transport: retrier.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			sent++
			r.Body.Close()
			return nil, io.ErrUnexpectedEOF
		})),
	}
	for _, key := range []string{"", `"8e03978e-40d5-43dd-bc93-6894a57f9324"`} {
		req, err := http.NewRequest("POST", "http://payments.test/", strings.NewReader("{}"))
		if err != nil {
			log.Fatal(err)
		}
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
		sent = 0
		_, err = client.Do(req)
		fmt.Println(sent, err != nil)
	}
	// Output:
	// 1 true
	// 3 true
}

// Transports below learn which attempt they send.
func ExampleAttempts() {
	retrier, err := retry.New(retry.Config{Backoff: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{
		Transport: retrier.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			fmt.Println("attempts before this one:", retry.Attempts(r.Context()))
			return &http.Response{StatusCode: 503, Body: http.NoBody}, nil
		})),
	}
	resp, err := client.Get("http://a.test/")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	// Output:
	// attempts before this one: 0
	// attempts before this one: 1
	// attempts before this one: 2
}

// A service passes on the deadline that it has got.
func ExampleNewDeadline() {
	const field = "Request-Timeout"
	deadline, err := retry.NewDeadline(retry.DeadlineConfig{Timeout: 10 * time.Second, Field: field})
	if err != nil {
		log.Fatal(err)
	}
	handler := deadline.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // a call that takes too long
		if context.Cause(r.Context()) == retry.ErrDeadline {
			return // nothing is written, so the client gets 504
		}
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set(field, "20")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)
	// Output: 504 {"status":504,"title":"Gateway Timeout"}
}

// A body that can be read only once, and is longer than MaxBody, cannot be sent again.
func ExampleRetrier_Transport_incorrect() {
	retrier, err := retry.New(retry.Config{Backoff: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	sent := 0
	client := &http.Client{
		Transport: retrier.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			sent++
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			return &http.Response{StatusCode: 503, Body: http.NoBody}, nil
		})),
	}
	large := strings.Repeat("x", 100_000)
	for _, body := range []io.Reader{
		io.LimitReader(strings.NewReader(large), 100_000),
		strings.NewReader(large),
	} {
		sent = 0
		req, err := http.NewRequest("PUT", "http://files.test/", body) // sets GetBody for a strings.Reader
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(sent)
	}
	// Output:
	// 1
	// 3
}
