package conformance

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	yes   = json.RawMessage(`true`)
	no    = json.RawMessage(`["Assertion", "Response 2 comes from cache"]`)
	setup = json.RawMessage(`["Setup", "retry"]`)
)

func TestJudgeCountsAsTheSuiteDoes(t *testing.T) {
	tests := []Test{
		{ID: "a"},
		{ID: "b", Kind: "required", DependsOn: []string{"a"}},
		{ID: "c", Kind: "optimal", DependsOn: []string{"b"}},
		{ID: "d", Kind: "check"},
		{ID: "e", Kind: "check"},
		{ID: "f", Kind: "optimal", DependsOn: []string{"f"}},
		{ID: "g", BrowserOnly: true},
	}
	for name, test := range map[string]struct {
		results  Results
		want     string
		verdicts map[string]Verdict
	}{
		"all pass": {
			Results{"a": yes, "b": yes, "c": yes, "d": yes, "e": yes},
			"required 2/2 optimal 1/2 check 2/2",
			map[string]Verdict{"f": Missing},
		},
		"a failure fails what depends on it, at any distance": {
			Results{"a": no, "b": yes, "c": yes, "d": no, "e": setup},
			"required 0/2 optimal 0/2 check 0/2",
			map[string]Verdict{
				"a": Fail, "b": Dependency, "c": Dependency, "d": Fail, "e": Setup, "f": Missing,
			},
		},
		"a result that is missing": {
			Results{"b": yes, "c": yes, "d": yes},
			"required 0/2 optimal 0/2 check 1/2",
			map[string]Verdict{"a": Missing, "b": Dependency, "c": Dependency, "e": Missing, "f": Missing},
		},
		"a circle": {
			Results{"a": yes, "b": yes, "c": yes, "d": yes, "e": yes, "f": yes, "g": yes},
			"required 2/2 optimal 1/2 check 2/2",
			map[string]Verdict{"f": Dependency},
		},
	} {
		t.Run(name, func(t *testing.T) {
			score, failures := Judge(tests, test.results)
			require.Equal(t, test.want, score.String())
			verdicts := map[string]Verdict{}
			for _, f := range failures {
				verdicts[f.ID] = f.Verdict
			}
			require.Equal(t, test.verdicts, verdicts)
		})
	}
}

func TestFailuresSayWhy(t *testing.T) {
	_, failures := Judge([]Test{{ID: "a", Name: "An age", Group: "Age"}}, Results{"a": no})
	require.Len(t, failures, 1)
	require.Equal(t, "required fail a (Age: An age): Response 2 comes from cache", failures[0].String())
}

func TestMajorityOfThree(t *testing.T) {
	got := Majority([]Results{
		{"a": no, "b": yes, "c": yes, "d": no},
		{"a": yes, "b": yes, "c": no, "d": setup},
		{"a": yes, "b": yes, "c": setup, "d": no},
	})
	require.Equal(t, Results{"a": yes, "b": yes, "c": no, "d": no}, got)
}

func TestReachesComparesEveryKind(t *testing.T) {
	floor := Score{Tally{2, 3}, Tally{1, 3}, Tally{1, 3}}
	require.True(t, floor.Reaches(floor))
	require.True(t, Score{Tally{3, 3}, Tally{1, 3}, Tally{1, 3}}.Reaches(floor))
	require.False(t, Score{Tally{1, 3}, Tally{3, 3}, Tally{3, 3}}.Reaches(floor))
	require.False(t, Score{Tally{3, 3}, Tally{0, 3}, Tally{3, 3}}.Reaches(floor))
	require.False(t, Score{Tally{3, 3}, Tally{3, 3}, Tally{0, 3}}.Reaches(floor))
}
