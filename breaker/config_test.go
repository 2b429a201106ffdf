package breaker_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

// faults returns the fields that err names, each with its reason.
func faults(err error) map[string]string {
	all := map[string]string{}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			f := e.(interface {
				Field() string
				Reason() string
			})
			all[f.Field()] = f.Reason()
		}
	}
	return all
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := breaker.New(breaker.Config{
		SlowAfter: -1, Window: -1, MinRequests: -1, FailureRatio: -1, OpenFor: -1,
		MaxOpen: -1, Probes: -1, ProbeTimeout: -1, MaxKeys: -1,
	})
	require.Equal(t, map[string]string{
		"SlowAfter": "-1ns is negative", "Window": "-1ns is negative", "MinRequests": "-1 is negative",
		"FailureRatio": "-1 is negative", "OpenFor": "-1ns is negative", "MaxOpen": "-1ns is negative",
		"Probes": "-1 is negative", "ProbeTimeout": "-1ns is negative", "MaxKeys": "-1 is negative",
	}, faults(err))
	require.ErrorContains(t, err, "breaker: Config.Window: -1ns is negative")

	beyond := int64(math.MaxInt32 + 1)
	_, err = breaker.New(breaker.Config{
		SlowAfter: math.MaxInt64, Window: math.MaxInt64, MinRequests: int(beyond), FailureRatio: 1.1,
		OpenFor: math.MaxInt64,
		Probes:  int(beyond), ProbeTimeout: math.MaxInt64, Ramp: math.MaxInt64,
	})
	require.Len(t, faults(err), 9, "MaxOpen follows OpenFor")
	_, err = breaker.New(breaker.Config{FailureRatio: math.NaN()})
	require.Contains(t, faults(err), "FailureRatio")
	_, err = breaker.New(breaker.Config{OpenFor: time.Minute, MaxOpen: time.Second})
	require.Equal(t, map[string]string{"MaxOpen": "1s is less than OpenFor, 1m0s"}, faults(err))
	_, err = breaker.New(breaker.Config{OpenFor: time.Hour})
	require.NoError(t, err, "MaxOpen is OpenFor then")
	_, err = breaker.New(breaker.Config{Ramp: -1})
	require.NoError(t, err)

	_, err = breaker.NewThrottle(breaker.ThrottleConfig{K: 0.9, Window: -1, MaxKeys: -1})
	require.Equal(t, map[string]string{
		"K":       "0.9 is less than 1",
		"Window":  "-1ns is negative",
		"MaxKeys": "-1 is negative",
	},
		faults(err))
	_, err = breaker.NewThrottle(breaker.ThrottleConfig{Window: math.MaxInt64, K: math.Inf(1)})
	require.Len(t, faults(err), 2)
}
