package retry_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestNewNamesEveryInvalidField(t *testing.T) {
	_, err := retry.New(retry.Config{
		MaxAttempts: -1, Backoff: -1, MaxBackoff: -1, PerTry: -1, MaxRetryAfter: -1, MaxKeys: -1,
		HedgeRatio: -0.1, MinHedgeDelay: -1,
		Budget: retry.BudgetConfig{Ratio: 1.1, Reserve: math.MaxInt}, Hint: "a b", DeadlineField: "ä",
		MaxBody: 64<<20 + 1,
	})
	var fields []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		fields = append(fields, e.(interface{ Field() string }).Field())
	}
	require.ElementsMatch(t, []string{
		"MaxAttempts", "Backoff", "MaxBackoff", "PerTry", "MaxRetryAfter", "MaxKeys",
		"HedgeRatio", "MinHedgeDelay",
		"Budget.Ratio", "Budget.Reserve", "Hint", "DeadlineField", "MaxBody",
	}, fields)
	require.ErrorContains(t, err, "retry: Config.MaxAttempts: -1 is negative")

	_, err = retry.New(retry.Config{Backoff: 6 * time.Second})
	require.ErrorContains(t, err, "retry: Config.Backoff: 6s is more than MaxBackoff, 5s")
	_, err = retry.New(retry.Config{HedgeRatio: 1.5})
	require.ErrorContains(t, err, "HedgeRatio")
	_, err = retry.New(retry.Config{MaxBody: 64<<20 + 1})
	require.EqualError(t, err, "retry: Config.MaxBody: 67108865 is more than 67108864")
	_, err = retry.New(retry.Config{MaxBody: 64 << 20})
	require.NoError(t, err)
	_, err = retry.New(retry.Config{Budget: retry.BudgetConfig{Ratio: -1, Reserve: -1}, MaxBody: -1})
	require.NoError(t, err)
}
