package balancer

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The quick look at a name finds what a plain one finds.
func TestIsForwardingFindsEverySpelling(t *testing.T) {
	simple := func(name string) bool {
		plain := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(name))
		return forwardingFields[plain] || strings.HasPrefix(plain, "x-forwarded-")
	}
	known := slices.Sorted(maps.Keys(forwardingFields))
	for _, name := range known {
		require.LessOrEqual(t, len(name), longestForwardingField)
		require.True(t, isForwarding(name), name)
	}
	base := rapid.SampledFrom(append(known,
		"x-forwarded-for", "x-forwarded-client-cert", "x-forwarded-", "cookie", ""))
	const signs = "-_.~!#$%&'*+^`|"
	rapid.Check(t, func(t *rapid.T) {
		name := []byte(base.Draw(t, "name"))
		for i, c := range name {
			switch rapid.IntRange(0, 9).Draw(t, "change") {
			case 0, 1, 2:
				if c == '-' {
					name[i] = signs[rapid.IntRange(0, len(signs)-1).Draw(t, "sign")]
				} else {
					name[i] = strings.ToUpper(string(c))[0]
				}
			case 3:
				if rapid.IntRange(0, 9).Draw(t, "other") == 0 {
					name[i] = byte(rapid.IntRange('!', '~').Draw(t, "byte"))
				}
			}
		}
		spelt := string(name) + rapid.SampledFrom([]string{"", "", "-", "x"}).Draw(t, "more")
		if isForwarding(spelt) != simple(spelt) {
			t.Fatalf("isForwarding(%q) is %v", spelt, !simple(spelt))
		}
	})
}

func TestAllocNothingForFieldsOfOrdinaryRequests(t *testing.T) {
	names := []string{
		"Accept", "Cookie", "Content-Type", "Traceparent", "X-Request-Id", "X-Forwarded-For", "X_a_b",
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, name := range names {
			if isForwarding(name) != (name == "X-Forwarded-For") {
				t.Fatal(name)
			}
		}
	}))
}
