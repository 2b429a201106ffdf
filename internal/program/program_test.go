package program_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/program"
)

func TestPathFindsWhatIsInstalled(t *testing.T) {
	dir := t.TempDir()
	want := filepath.Join(dir, "redis-of-this-test")
	require.NoError(t, os.WriteFile(want, []byte("#!/bin/sh\n"), 0o755))
	t.Setenv("PATH", dir)
	require.Equal(t, want, program.Path(t, "redis-of-this-test"))
}

func TestMissingProgramsSkipUnlessServersAreRequired(t *testing.T) {
	for required, want := range map[string]string{"": "skipped", "1": "failed"} {
		t.Setenv("TRIVET_REQUIRE_SERVERS", required)
		tb := &verdict{TB: t}
		require.Equal(t, want, tb.of(func() { program.Path(tb, "no-such-program") }))
	}
}

// A verdict is a testing.TB that remembers whether it was skipped or failed.
type verdict struct {
	testing.TB
	word string
}

// of returns how do ended: skipped, failed or with no word.
func (v *verdict) of(do func()) string {
	v.word = ""
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
	return v.word
}

func (v *verdict) Fatalf(string, ...any) { v.word = "failed"; runtime.Goexit() }
func (v *verdict) Skipf(string, ...any)  { v.word = "skipped"; runtime.Goexit() }
