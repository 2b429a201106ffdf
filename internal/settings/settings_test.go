package settings_test

import (
	"errors"
	"io/fs"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/settings"
)

// faults lists what an error from New says, as a program outside this module would.
func faults(t *testing.T, err error) (fields, reasons []string) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "%T joins nothing", err)
	for _, e := range joined.Unwrap() {
		var f interface {
			error
			Field() string
			Reason() string
		}
		require.ErrorAs(t, e, &f)
		fields, reasons = append(fields, f.Field()), append(reasons, f.Reason())
	}
	return fields, reasons
}

func TestEveryFaultIsNamed(t *testing.T) {
	f := settings.Of("gate", "Config")
	require.NoError(t, f.Err())
	f.Add("Limit", "%d is negative", -1)
	f.Add("Path", "cannot be read: %w", fs.ErrNotExist)
	err := f.Err()
	require.EqualError(t, err, "gate: Config.Limit: -1 is negative\n"+
		"gate: Config.Path: cannot be read: file does not exist")
	require.ErrorIs(t, err, fs.ErrNotExist)
	fields, reasons := faults(t, err)
	require.Equal(t, []string{"Limit", "Path"}, fields)
	require.Equal(t, []string{"-1 is negative", "cannot be read: file does not exist"}, reasons)
}

func TestNestedFaultsKeepTheirField(t *testing.T) {
	inner := settings.Of("gate", "Rate")
	inner.Add("Limit", "is required")
	inner.Add("", "is no rate")

	f := settings.Of("gate", "Config")
	f.Nest("Rates[1]", inner.Err())
	f.Nest("Rates[2]", nil)
	f.Nest("Rates[3]", errors.New("is odd"))
	fields, reasons := faults(t, f.Err())
	require.Equal(t, []string{"Rates[1].Limit", "Rates[1]", "Rates[3]"}, fields)
	require.Equal(t, []string{"is required", "is no rate", "is odd"}, reasons)
	require.ErrorContains(t, f.Err(), "gate: Config.Rates[1].Limit: is required")
	require.ErrorContains(t, f.Err(), "gate: Config.Rates[1]: is no rate")
}

func TestDefaultsAndSigns(t *testing.T) {
	tests := []struct {
		name  string
		check func(*settings.Faults) any
		want  any
		fault string
	}{
		{"zero is the default", func(f *settings.Faults) any {
			v := 0
			settings.Positive(f, "N", &v, 7)
			return v
		}, 7, ""},
		{"a value stays", func(f *settings.Faults) any {
			v := time.Second
			settings.Positive(f, "N", &v, time.Minute)
			return v
		}, time.Second, ""},
		{"negative is a fault", func(f *settings.Faults) any {
			v := -time.Second
			settings.Positive(f, "N", &v, time.Minute)
			return v
		}, -time.Second, "-1s is negative"},
		{"negative has a meaning", func(f *settings.Faults) any {
			v := int64(-1)
			settings.Default(f, "N", &v, 7)
			return v
		}, int64(-1), ""},
		{"not a number", func(f *settings.Faults) any {
			v := math.NaN()
			settings.Default(f, "N", &v, 1)
			return 0
		}, 0, "NaN is not a finite number"},
		{"infinite", func(f *settings.Faults) any {
			settings.NotNegative(f, "N", math.Inf(-1))
			return 0
		}, 0, "-Inf is not a finite number"},
		{"a whole share", func(f *settings.Faults) any {
			v := 1.0
			settings.Share(f, "N", &v, 0.5)
			return v
		}, 1.0, ""},
		{"more than the whole", func(f *settings.Faults) any {
			v := 1.1
			settings.Share(f, "N", &v, 0.5)
			return v
		}, 1.1, "1.1 is more than 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := settings.Of("gate", "Config")
			require.Equal(t, tt.want, tt.check(f))
			if tt.fault == "" {
				require.NoError(t, f.Err())
				return
			}
			require.EqualError(t, f.Err(), "gate: Config.N: "+tt.fault)
		})
	}
}
