package breaker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A window compared with a list of what was added.
func TestWindowAsAListHasIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(10, 1000).Draw(t, "length") / 10 * 10
		w := newWindow(time.Duration(length))
		w.reset(int64(rapid.IntRange(0, 100).Draw(t, "start")))
		now, list := w.start, []int64{}
		for range rapid.IntRange(20, 100).Draw(t, "n") {
			waits := []int{0, 1, length / 10, length - 1, 19 * length / 10}
			now += int64(rapid.SampledFrom(waits).Draw(t, "later"))
			if len(list) > 0 && rapid.Bool().Draw(t, "take back") {
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				w.takeBack(now, list[i])
				list = append(list[:i], list[i+1:]...)
			} else {
				w.add(now)
				list = append(list, now)
			}
			want := uint64(0)
			for _, at := range list {
				if (now-w.start)/w.step-(at-w.start)/w.step < steps {
					want++
				}
			}
			if got := w.total(now); got != want {
				t.Fatalf("at %d of %v: %d, want %d", now, list, got, want)
			}
		}
	})
}
