package versioning_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// TestHooksThatPanic: each panics on the request's goroutine and goes on there, unless it is a
// change's, whose panic is an error of the conversion; the next request is answered as ever.
func TestHooksThatPanic(t *testing.T) {
	for _, hook := range []string{
		"Pin", "Skip", "Enforce", "Client", "Internal", "ErrorHandler", "Observe",
		"Change.Request", "Change.Response", "Change.RequestBody", "Change.ResponseBody",
	} {
		t.Run(hook, func(t *testing.T) {
			on := hook
			maybe := func(name string) {
				if name == on {
					panic(name)
				}
			}
			list := named("1", "2")
			list[0].Deprecated = time.Now().Add(-3 * time.Hour)
			list[0].Sunset = time.Now().Add(-time.Hour)
			cfg := versioning.Config{
				Versions: list, Sources: []versioning.Source{versioning.Header("V")},
				Pin:      func(*http.Request) (string, bool) { maybe("Pin"); return "", false },
				Skip:     func(*http.Request) bool { maybe("Skip"); return false },
				Enforce:  func(string, time.Time) bool { maybe("Enforce"); return false },
				Client:   func(*http.Request) (string, bool) { maybe("Client"); return "a", true },
				Internal: func(*http.Request) bool { maybe("Internal"); return false },
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
					maybe("ErrorHandler")
					w.WriteHeader(400)
				},
				Observe: func(context.Context, versioning.Event) { maybe("Observe") },
				Changes: []versioning.Change{{
					Version: "2", Name: "c",
					Request:  func(*http.Request) error { maybe("Change.Request"); return nil },
					Response: func(*versioning.Response) error { maybe("Change.Response"); return nil },
					RequestBody: versioning.JSON(func(*versioning.Object) error {
						maybe("Change.RequestBody")
						return nil
					}),
					ResponseBody: versioning.JSON(func(*versioning.Object) error {
						maybe("Change.ResponseBody")
						return nil
					}),
				}},
			}
			v := newVersions(t, cfg)
			h := v.Middleware(answering("application/json", "{}"))
			one := func(version string) int {
				w := httptest.NewRecorder()
				r := post("/", "{}")
				if version != "" {
					r.Header.Set("V", version)
				}
				h.ServeHTTP(w, r)
				return w.Code
			}
			version := "1"
			if hook == "Pin" {
				version = "" // nobody asks for one
			}
			if hook == "ErrorHandler" || hook == "Internal" {
				version = "none of them"
			}
			func() {
				defer func() {
					if got := recover(); got != nil {
						require.Equal(t, hook, got)
					}
				}()
				require.GreaterOrEqual(t, one(version), 400, "an error, if not a panic")
			}()
			on = ""
			require.Equal(t, 200, one("1"))
		})
	}
}
