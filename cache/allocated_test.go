package cache_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// allocated returns what was allocated within calls of attributed while f ran, to the byte. It
// does not count what the rest of the process allocates, as runtime.MemStats and
// testing.AllocsPerRun do. Objects of less than 16 bytes without pointers share blocks of 16: the
// block counts.
func allocated(f func()) (objects, bytes int64) {
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1 // every allocation is in the profile, with its stack
	objectsBefore, bytesBefore := attributions()
	f()
	objects, bytes = attributions()
	return objects - objectsBefore, bytes - bytesBefore
}

// attributed calls f, whose allocations count. The allocations of goroutines that f starts do not:
// they have stacks of their own.
//
//go:noinline
func attributed(f func()) { f() }

// attributions returns what the memory profile has of calls of attributed.
func attributions() (objects, bytes int64) {
	runtime.GC() // the profile is as old as the last collection but one
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 1000)
	for {
		n, ok := runtime.MemProfile(records, true)
		if ok {
			records = records[:n]
			break
		}
		records = make([]runtime.MemProfileRecord, 2*n)
	}
	for _, r := range records {
		frames := runtime.CallersFrames(r.Stack())
		for more := true; more; {
			var frame runtime.Frame
			if frame, more = frames.Next(); strings.HasSuffix(frame.Function, "/cache_test.attributed") {
				objects += r.AllocObjects
				bytes += r.AllocBytes
				break
			}
		}
	}
	return objects, bytes
}

var sink []byte

func TestAllocatedCountsWhatIsAttributedAndNothingElse(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // the rest of the process
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = make([]byte, 100+runtime.NumGoroutine())
			}
		}
	}()
	objects, bytes := allocated(func() {
		for range 1000 {
			attributed(func() { sink = make([]byte, 64) })
			sink = make([]byte, 128)
		}
	})
	close(stop)
	<-stopped
	require.EqualValues(t, 1000, objects)
	require.EqualValues(t, 64_000, bytes)
	objects, bytes = allocated(func() {})
	require.Zero(t, objects)
	require.Zero(t, bytes)
}
