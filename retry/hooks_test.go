package retry_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// TestHooksThatPanic: each panics on the caller's goroutine and goes on there, and the next request
// is sent as ever. (TestPanicsInAHedge has those that run on the library's own.)
func TestHooksThatPanic(t *testing.T) {
	for _, hook := range []string{"Key", "When", "Scope", "Class", "Observe"} {
		t.Run(hook, func(t *testing.T) {
			on := hook
			maybe := func(name string) {
				if name == on {
					panic(name)
				}
			}
			r := newRetrier(t, retry.Config{
				Key: func(*http.Request) (string, bool) { maybe("Key"); return "a", true },
				When: func(*http.Request, *http.Response, error) retry.Verdict {
					maybe("When")
					return retry.Default
				},
				Scope:   func(ctx context.Context) context.Context { maybe("Scope"); return ctx },
				Hedge:   true,
				Class:   func(*http.Request) string { maybe("Class"); return "a" },
				Observe: func(context.Context, retry.Event) { maybe("Observe") },
			})
			rt := r.Transport(serve(200, 200, 200))
			require.PanicsWithValue(t, hook, func() { _, _ = rt.RoundTrip(request(t, "GET", nil)) })
			on = ""
			status, _, err := send(t, rt, request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, 200, status)
		})
	}
}

// TestAnswerIsClosedWhenObservePanics: nobody else can, and its attempt has a context to give back.
func TestAnswerIsClosedWhenObservePanics(t *testing.T) {
	for _, perTry := range []time.Duration{0, time.Hour} {
		r := newRetrier(t, retry.Config{
			PerTry: perTry, Observe: func(context.Context, retry.Event) { panic("Observe") },
		})
		reader, writer := io.Pipe()
		var attempt context.Context
		rt := r.Transport(roundTripper(func(out *http.Request) (*http.Response, error) {
			attempt = out.Context()
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: reader}, nil
		}))
		require.PanicsWithValue(t, "Observe", func() { _, _ = rt.RoundTrip(request(t, "GET", nil)) })
		_, err := writer.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		if perTry > 0 {
			require.ErrorIs(t, attempt.Err(), context.Canceled)
		}
	}
}

// A panickingReader panics when it is read.
type panickingReader struct{}

func (panickingReader) Read([]byte) (int, error) { panic("body") }

// TestLongBodyThatPanics: the transport's caller can recover from it.
func TestLongBodyThatPanics(t *testing.T) {
	r := newRetrier(t, retry.Config{MaxBody: 4})
	rt := r.Transport(roundTripper(func(out *http.Request) (*http.Response, error) {
		defer out.Body.Close()
		_, err := io.Copy(io.Discard, out.Body)
		return nil, err
	}))
	req := request(t, "POST", nil)
	req.Body, req.ContentLength = io.NopCloser(panickingReader{}), 10
	require.PanicsWithValue(t, "body", func() { _, _ = rt.RoundTrip(req) })
}

// TestDeadlineHooksThatPanic, likewise.
func TestDeadlineHooksThatPanic(t *testing.T) {
	for _, hook := range []string{"Skip", "ErrorHandler", "Observe"} {
		on := hook
		maybe := func(name string) {
			if name == on {
				panic(name)
			}
		}
		d, err := retry.NewDeadline(retry.DeadlineConfig{
			Field: "Timeout", Skip: func(*http.Request) bool { maybe("Skip"); return false },
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
				maybe("ErrorHandler")
				w.WriteHeader(http.StatusGatewayTimeout)
			},
			Observe: func(context.Context, retry.DeadlineEvent) { maybe("Observe") },
		})
		require.NoError(t, err)
		h := d.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		one := func(field string) int {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Timeout", field)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		field := "1000"
		if hook == "ErrorHandler" {
			field = "0"
		}
		require.PanicsWithValue(t, hook, func() { one(field) })
		on = ""
		require.Equal(t, 200, one("1000"), hook)
	}
}
