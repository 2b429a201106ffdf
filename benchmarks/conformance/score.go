package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
)

// A Test is what the suite says of one of its tests.
type Test struct {
	ID, Name    string
	Kind        string   // "required", "optimal", "check" or "", which is "required"
	DependsOn   []string `json:"depends_on"`
	BrowserOnly bool     `json:"browser_only"`
	Group       string   `json:"-"`
}

// Results are the client's findings by id: true, or an error's name and message.
type Results map[string]json.RawMessage

// A Verdict says how a test counts. Only [Pass] counts for the cache.
type Verdict string

// The verdicts.
const (
	Pass       Verdict = "pass"
	Fail       Verdict = "fail"
	Setup      Verdict = "setup"      // the suite could not judge it
	Dependency Verdict = "dependency" // a test that it depends on does not pass
	Missing    Verdict = "missing"    // no result
)

// A Tally counts the tests of one kind.
type Tally struct{ Passed, Total int }

// A Score counts the tests that apply to a proxy.
type Score struct{ Required, Optimal, Check Tally }

// String returns the line that the issue tracker of a cache can quote.
func (s Score) String() string {
	return fmt.Sprintf("required %d/%d optimal %d/%d check %d/%d",
		s.Required.Passed, s.Required.Total, s.Optimal.Passed, s.Optimal.Total, s.Check.Passed, s.Check.Total)
}

// Reaches reports whether s is at least floor in every kind.
func (s Score) Reaches(floor Score) bool {
	return s.Required.Passed >= floor.Required.Passed && s.Optimal.Passed >= floor.Optimal.Passed &&
		s.Check.Passed >= floor.Check.Passed
}

// A Failure is a test that does not pass, and why.
type Failure struct {
	Test
	Verdict Verdict
	Reason  string // the suite's own words; "" if the Verdict says it all
}

func (f Failure) String() string {
	text := fmt.Sprintf("%s %s %s (%s: %s)", f.kind(), f.Verdict, f.ID, f.Group, f.Name)
	if f.Reason != "" {
		text += ": " + f.Reason
	}
	return text
}

func (t Test) kind() string {
	if t.Kind == "" {
		return "required"
	}
	return t.Kind
}

// Judge counts results as the suite does: a test passes if its own result is true and every test
// that it depends on passes. Tests for browsers alone do not count.
func Judge(tests []Test, results Results) (Score, []Failure) {
	byID := make(map[string]Test, len(tests))
	for _, test := range tests {
		byID[test.ID] = test
	}
	var score Score
	var failures []Failure
	for _, test := range tests {
		if test.BrowserOnly {
			continue
		}
		tally := &score.Required
		switch test.kind() {
		case "optimal":
			tally = &score.Optimal
		case "check":
			tally = &score.Check
		}
		tally.Total++
		verdict := judge(byID, results, test.ID, nil)
		if verdict == Pass {
			tally.Passed++
			continue
		}
		_, reason := result(results, test.ID)
		failures = append(failures, Failure{test, verdict, reason})
	}
	return score, failures
}

// judge returns the Verdict of the test with that id. The tests in path depend on it.
func judge(tests map[string]Test, results Results, id string, path []string) Verdict {
	if _, ok := results[id]; !ok || slices.Contains(path, id) {
		return Missing
	}
	for _, other := range tests[id].DependsOn {
		if judge(tests, results, other, append(slices.Clone(path), id)) != Pass {
			return Dependency
		}
	}
	verdict, _ := result(results, id)
	return verdict
}

// result returns what the test's own result says, whatever it depends on.
func result(results Results, id string) (verdict Verdict, reason string) {
	raw, ok := results[id]
	if !ok {
		return Missing, ""
	}
	if string(raw) == "true" {
		return Pass, ""
	}
	var failed []string // an error's name and message
	if json.Unmarshal(raw, &failed) != nil || len(failed) < 2 {
		return Fail, string(raw)
	}
	if failed[0] == "Setup" || failed[0] == "AbortError" {
		return Setup, failed[1]
	}
	return Fail, failed[1]
}

// Majority returns the results that most of the runs share: a test passes if it does in most runs,
// else it has the first result that is not a pass.
func Majority(runs []Results) Results {
	all := Results{}
	for id := range runs[0] {
		passed := 0
		for _, run := range runs {
			if verdict, _ := result(run, id); verdict == Pass {
				passed++
			}
		}
		for _, run := range runs {
			verdict, _ := result(run, id)
			if (verdict == Pass) == (2*passed > len(runs)) {
				all[id] = run[id]
				break
			}
		}
	}
	return all
}
