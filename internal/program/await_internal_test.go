//go:build unix

package program

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAwaitWaitsAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		await(t, func() error {
			if time.Since(start) < time.Minute {
				return errors.New("not yet")
			}
			return nil
		})
		require.Equal(t, time.Minute, time.Since(start))
	})
}

func TestAwaitSaysWhyItGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := &failing{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			await(tb, func() error { return errors.New("never ready") })
		}()
		<-done
		require.Equal(t, "program: never ready", tb.said)
	})
}

// A failing is a testing.TB that remembers what it failed with.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
