package unsent_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/unsent"
)

type refusal struct {
	sent bool
	wait time.Duration
}

func (refusal) Error() string               { return "refused" }
func (r refusal) NotSent() bool             { return !r.sent }
func (r refusal) RetryAfter() time.Duration { return r.wait }

type final struct{}

func (final) Error() string { return "refused" }
func (final) NotSent() bool { return true }

func wrapped(err error) error { return &url.Error{Op: "Get", URL: "http://a.test", Err: err} }

func TestWhatAnErrorSays(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		is     bool
		wait   time.Duration
		stated bool
	}{
		{"nil", nil, false, 0, false},
		{"another error", errors.New("broken"), false, 0, false},
		{"not sent", refusal{wait: time.Second}, true, time.Second, true},
		{"not sent, as http.Client wraps it", wrapped(refusal{wait: time.Second}), true, time.Second, true},
		{"not sent, for good", refusal{}, true, 0, true},
		{"not sent, without a word on when", final{}, true, 0, false},
		{"sent", refusal{sent: true}, false, 0, true},
		{"a wait below zero is none", refusal{wait: -1}, true, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.is, unsent.Is(tt.err))
			require.Equal(t, tt.wait, unsent.RetryAfter(tt.err))
			wait, stated := unsent.Wait(tt.err)
			require.Equal(t, tt.wait, wait)
			require.Equal(t, tt.stated, stated)
		})
	}
}
