package health_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/trivet-go/trivet/telemetry/health"
)

func Example() {
	h, err := health.New(health.Config{Checks: []health.CheckConfig{
		{Name: "db", Func: func(ctx context.Context) error { return errors.New("down") }},
	}})
	if err != nil {
		log.Fatal(err)
	}
	admin := http.NewServeMux()
	admin.Handle("GET /livez", h.Live())
	admin.Handle("GET /readyz", h.Ready())
	admin.Handle("GET /startupz", h.Startup())
	rec := httptest.NewRecorder()
	admin.ServeHTTP(rec, httptest.NewRequest("GET", "/readyz", nil))
	fmt.Print(rec.Code, " ", rec.Body)
	// Output: 503 {"status":"fail","checks":[{"name":"db","ok":false}]}
}
