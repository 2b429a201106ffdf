package retry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A source counts its closes.
type source struct {
	io.Reader
	mu     sync.Mutex
	closes int
}

func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closes++
	return nil
}

func (s *source) closed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closes
}

// Whatever is read of whichever attempts: each of them begins at the beginning and reads the same
// bytes, a body within the limit can always be read again, and one beyond it never is by two.
func TestSpoolProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data")
		limit := rapid.IntRange(-1, 40).Draw(t, "limit")
		var r io.Reader = bytes.NewReader(data)
		if rapid.Bool().Draw(t, "one by one") {
			r = iotest.OneByteReader(r)
		}
		if rapid.Bool().Draw(t, "end with data") {
			r = iotest.DataErrReader(r)
		}
		src := &source{Reader: r}
		s := newSpool(src, int64(limit))
		type attempt struct {
			io.ReadCloser
			got  []byte
			live bool
		}
		var all []*attempt
		beyond := 0 // readers that got more than the limit and its one byte
		first, err := s.next()
		if err != nil {
			t.Fatal("the first attempt has a body")
		}
		all = append(all, &attempt{ReadCloser: first, live: true})
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			a := all[rapid.IntRange(0, len(all)-1).Draw(t, "attempt")]
			steps := []string{"read", "read", "read", "read", "next", "again", "close"}
			switch rapid.SampledFrom(steps).Draw(t, "step") {
			case "read":
				p := make([]byte, rapid.IntRange(0, 20).Draw(t, "n"))
				n, err := a.Read(p)
				if len(a.got) <= limit+1 && len(a.got)+n > limit+1 {
					beyond++
				}
				a.got = append(a.got, p[:n]...)
				switch {
				case !a.live && n > 0:
					t.Fatal("an attempt that is over or closed still reads")
				case !bytes.HasPrefix(data, a.got):
					t.Fatalf("read %q of %q", a.got, data)
				case err == io.EOF && len(a.got) != len(data):
					t.Fatalf("ends after %d of %d", len(a.got), len(data))
				case len(data) <= limit && a.live && err != nil && err != io.EOF:
					t.Fatal(err)
				}
			case "next":
				body, err := s.next()
				if err != nil {
					if len(data) <= limit {
						t.Fatal("a body within the limit can be sent again")
					}
					continue
				}
				for _, b := range all {
					b.live = false
				}
				all = append(all, &attempt{ReadCloser: body, live: true})
			case "again":
				if body, err := s.again(); err == nil {
					all = append(all, &attempt{ReadCloser: body, live: true})
				} else if len(data) <= limit {
					t.Fatal("a body within the limit can be sent again")
				}
			case "close":
				a.Close()
				a.live = false
			}
			if src.closed() != 0 && len(data) <= limit {
				t.Fatal("closed before its time")
			}
		}
		if beyond > 1 {
			t.Fatal("two readers went beyond the limit")
		}
		if held := len(s.buf); held > max(limit+1, 0) {
			t.Fatalf("%d bytes kept, limit %d", held, limit)
		}
		s.finish()
		for _, a := range all {
			a.Close()
			a.Close()
		}
		if src.closed() != 1 {
			t.Fatalf("closed %d times", src.closed())
		}
		if buffered.Load() != 0 {
			t.Fatalf("%d bytes held", buffered.Load())
		}
	})
}

// Close does not wait for a Read of a source that is slow: it is what ends such a Read.
func TestSpoolClosesUnderItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := newSpool(pr, 100)
		body, err := s.next()
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := body.Read(make([]byte, 10))
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, body.Close())
		s.finish()
		require.ErrorIs(t, <-done, http.ErrBodyReadAfterClose)
		_, err = pw.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	})
}

// A source's panic on a goroutine of ours is an error of the body.
func TestSpoolOfASourceThatPanics(t *testing.T) {
	s := newSpool(&source{Reader: panicking{}}, 100)
	body, _ := s.next()
	_, err := body.Read(make([]byte, 1))
	require.ErrorIs(t, err, errPanicked)
	s.finish()
	body.Close()
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("boom") }

// Whoever reads beyond the limit closes the source, which ends a Read of it.
func TestSpoolsOwnerClosesTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := newSpool(pr, -1)
		body, _ := s.next()
		go pw.Write([]byte("x"))
		_, err := io.ReadFull(body, make([]byte, 1))
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := body.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		body.Close()
		require.ErrorIs(t, <-done, io.ErrClosedPipe)
		s.finish()
	})
}

// What an attempt that is over has been reading of the source goes to the next one.
func TestSpoolLosesNothingToAnAttemptThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := newSpool(pr, 100)
		first, _ := s.next()
		go io.Copy(io.Discard, first)
		synctest.Wait() // it waits for the source
		second, err := s.next()
		require.NoError(t, err)
		var got []byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = io.ReadAll(second)
		}()
		synctest.Wait() // it waits for the first
		pw.Write([]byte("abc"))
		pw.Write([]byte("def"))
		pw.Close()
		<-done
		require.NoError(t, err)
		require.Equal(t, "abcdef", string(got))
		s.finish()
		second.Close()
	})
}

// An attempt that is over reads no more, and does not wait for the source either.
func TestSpoolsReaderEndsWithItsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := newSpool(pr, 100)
		first, _ := s.next()
		done := make(chan error)
		go func() {
			_, err := first.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		second, err := s.next()
		require.NoError(t, err)
		require.ErrorIs(t, <-done, http.ErrBodyReadAfterClose)
		second.Close()
		s.finish()
		pw.Close()
	})
}

// A reader that waits for another one's read is woken by its own Close.
func TestSpoolWaitingReaderIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := newSpool(pr, 100)
		first, _ := s.next()
		go first.Read(make([]byte, 1))
		synctest.Wait()
		second, _ := s.next()
		done := make(chan error)
		go func() {
			_, err := second.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		second.Close()
		require.ErrorIs(t, <-done, http.ErrBodyReadAfterClose)
		s.finish()
		pw.Close()
	})
}

func TestSpoolOfABrokenSource(t *testing.T) {
	broken := errors.New("broken")
	src := &source{Reader: io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))}
	s := newSpool(src, 100)
	body, _ := s.next()
	_, err := io.ReadAll(body)
	require.ErrorIs(t, err, broken)
	require.False(t, s.fresh())
	_, err = s.next()
	require.ErrorIs(t, err, errSpent)
	s.finish()
	body.Close()
	require.Equal(t, 1, src.closed())
}

// The process keeps so much and no more; what does not fit is sent once.
func TestSpoolsShareTheProcess(t *testing.T) {
	buffered.Add(maxBuffered - 1500)
	defer func() {
		buffered.Add(-(maxBuffered - 1500))
		require.Zero(t, buffered.Load())
	}()
	read := func() *spool {
		s := newSpool(&source{Reader: strings.NewReader(strings.Repeat("x", 600))}, 64<<10)
		body, _ := s.next()
		b, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Len(t, b, 600)
		return s
	}
	a := read()
	b := read()
	require.LessOrEqual(t, buffered.Load(), int64(maxBuffered))
	require.False(t, a.fresh() && b.fresh(), "each takes 1,024")
	a.finish()
	b.finish()
	c := read()
	require.True(t, c.fresh(), "there is room again")
	c.finish()
}

// A reader that goes on after the call's end keeps nothing more.
func TestSpoolKeepsNothingAfterTheCall(t *testing.T) {
	src := &source{Reader: iotest.OneByteReader(strings.NewReader("abcdef"))}
	s := newSpool(src, 100)
	body, _ := s.next()
	io.ReadFull(body, make([]byte, 2))
	s.finish()
	require.Zero(t, buffered.Load())
	b, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, "cdef", string(b))
	require.Len(t, s.buf, 2)
	require.Zero(t, src.closed())
	body.Close()
	require.Equal(t, 1, src.closed())
}

// What lies beyond the limit is one reader's: another one that comes to the limit gets no part of
// it.
func TestSpoolBeyondItsLimitHasOneReader(t *testing.T) {
	s := newSpool(&source{Reader: iotest.OneByteReader(strings.NewReader("0123456789"))}, 3)
	first, err := s.next()
	require.NoError(t, err)
	second, err := s.again()
	require.NoError(t, err)
	got := make([]byte, 6)
	_, err = io.ReadFull(first, got)
	require.NoError(t, err)
	require.Equal(t, "012345", string(got))
	rest, err := io.ReadAll(second)
	require.Equal(t, errSpent, err)
	require.LessOrEqual(t, len(rest), 4)
	rest, err = io.ReadAll(first)
	require.NoError(t, err)
	require.Equal(t, "6789", string(rest))
	s.finish()
}

// A body that has turned out to be empty is said to be none.
func TestSpoolOfNothing(t *testing.T) {
	s := newSpool(&source{Reader: strings.NewReader("")}, 3)
	first, err := s.next()
	require.NoError(t, err)
	_, err = io.ReadAll(first)
	require.NoError(t, err)
	second, err := s.next()
	require.NoError(t, err)
	require.Equal(t, http.NoBody, second)
	s.finish()
}
