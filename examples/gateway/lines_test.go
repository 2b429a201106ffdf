package main

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// writes takes what is written, and how often.
type writes struct {
	mu  sync.Mutex
	all []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	return len(p), nil
}

func (w *writes) taken() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.all...)
}

func TestLinesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out writes
		b := &lineBuffer{to: &out}
		write := func(s string) {
			n, err := b.Write([]byte(s))
			require.NoError(t, err)
			require.Equal(t, len(s), n)
		}
		write("a\n")
		time.Sleep(lineDelay / 2)
		write("b\n")
		time.Sleep(lineDelay/2 - 1)
		require.Empty(t, out.taken(), "not a moment before")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, []string{"a\nb\n"}, out.taken())

		write("c\n")
		time.Sleep(lineDelay)
		synctest.Wait()
		require.Equal(t, []string{"a\nb\n", "c\n"}, out.taken(), "the delay begins with a line")

		long := strings.Repeat("d", lineBytes-1)
		write(long)
		require.Len(t, out.taken(), 2)
		write("\n")
		require.Equal(t, long+"\n", out.taken()[2], "as soon as there is enough")

		write("e\n")
		require.NoError(t, b.close())
		require.Equal(t, "e\n", out.taken()[3])
		write("f\n")
		require.Equal(t, "f\n", out.taken()[4], "after the end nothing is held back")
		time.Sleep(time.Hour)
		require.Len(t, out.taken(), 5)
	})
}
