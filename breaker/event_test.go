package breaker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

func TestEventsTellWhatTheWindowHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Observe: seen.observe, SlowAfter: time.Second, Probes: 2})
		slow := func() {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			time.Sleep(time.Second + 1)
			done(breaker.Success)
		}
		for range 10 {
			ask(b, "a", breaker.Success)
		}
		for range 5 {
			slow()
		}
		trip(t, b, "a")
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.Closed, To: breaker.Open,
			Duration: 5 * time.Second,
			Requests: 20, Failures: 5, Slow: 5,
		}, seen.events[0])
		require.Equal(t, breaker.Event{Kind: breaker.Refused, Key: "a", From: breaker.Open, To: breaker.Open},
			seen.events[1])
		time.Sleep(5 * time.Second)
		ask(b, "a", breaker.Success)
		slow()
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.HalfOpen, To: breaker.Open,
			Duration: 10 * time.Second,
			Requests: 2, Slow: 1,
		}, seen.events[3])
		time.Sleep(10 * time.Second)
		ask(b, "a", breaker.Success)
		ask(b, "a", breaker.Failure)
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.HalfOpen, To: breaker.Open,
			Duration: 20 * time.Second,
			Requests: 2, Failures: 1,
		}, seen.events[5])
		time.Sleep(20 * time.Second)
		ask(b, "a", breaker.Success)
		ask(b, "a", breaker.Success)
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.HalfOpen, To: breaker.Ramping, Requests: 2,
		}, seen.events[7])
	})
}

// Slow answers leave the window as others do: they must not be taken from the failures of later
// ones.
func TestSlowAnswersLeaveTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Observe: seen.observe, SlowAfter: time.Second})
		for range 3 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			done(breaker.Success)
		}
		time.Sleep(11 * time.Second)
		trip(t, b, "a")
		require.EqualValues(t, 20, seen.events[0].Failures)
		require.Zero(t, seen.events[0].Slow)
	})
}

// Nor are they taken from the failures that open the breaker once more.
func TestSlowAnswersBelongToTheirGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{
			Observe: seen.observe, SlowAfter: time.Second, OpenFor: time.Second, Ramp: -1,
			Window: time.Minute,
		})
		var late []func(breaker.Outcome)
		for range 20 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			late = append(late, done)
		}
		time.Sleep(2 * time.Second)
		for _, done := range late {
			done(breaker.Success)
		}
		require.EqualValues(t, 20, seen.events[0].Slow)
		time.Sleep(time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		for range 20 {
			ask(b, "a", breaker.Failure)
		}
		last := seen.events[len(seen.events)-1]
		require.Equal(t, breaker.Open, last.To)
		require.EqualValues(t, 20, last.Failures)
		require.Zero(t, last.Slow)
	})
}

// TestB15: an observer may use the breaker that it observes, and gets each key's transitions in
// order.
func TestB15_ObserversMayReenter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *breaker.Breaker
		var order []string
		within := map[string]bool{}
		b = newBreaker(t, breaker.Config{Observe: func(_ context.Context, e breaker.Event) {
			if e.Kind != breaker.Transition {
				return
			}
			require.False(t, within[e.Key], "one after the other")
			within[e.Key] = true
			defer delete(within, e.Key)
			order = append(order, e.Key+" "+string(e.From)+" "+string(e.To))
			b.Stats()
			if e.Key == "a" && e.To == breaker.Open {
				b.Isolate("a") // these events come after this one
				b.Reset("a")
				require.True(t, ask(b, "a", breaker.Success))
				trip(t, b, "b") // another key's need not wait
			}
		}})
		for range 20 {
			ask(b, "a", breaker.Failure)
		}
		require.Equal(t, []string{"a closed open", "b closed open", "a open isolated", "a isolated closed"},
			order)
	})
}

func TestB15_ASlowObserverHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		enter, leave := make(chan struct{}, 100), make(chan struct{})
		b := newBreaker(t, breaker.Config{Ramp: -1, Observe: func(ctx context.Context, e breaker.Event) {
			if e.Kind == breaker.Transition {
				seen.observe(ctx, e)
				enter <- struct{}{}
				<-leave
			}
		}})
		blocked := make(chan struct{})
		go func() {
			defer close(blocked)
			for range 20 {
				ask(b, "a", breaker.Failure)
			}
		}()
		<-enter
		require.False(t, ask(b, "a", breaker.Success), "refused at once")
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, []string{"closed open"}, seen.transitions(), "the others wait for the first")
		close(leave)
		<-blocked
		require.Equal(t, []string{"closed open", "open half_open", "half_open closed"}, seen.transitions())
	})
}

func TestPanicsOfObserversPassAndHarmNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := true
		var seen recorder
		b := newBreaker(t, breaker.Config{Ramp: -1, Observe: func(ctx context.Context, e breaker.Event) {
			seen.observe(ctx, e)
			if panics {
				panic("observer")
			}
		}})
		for range 19 {
			ask(b, "a", breaker.Failure)
		}
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Failure) })
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Failure) }, "refused")
		time.Sleep(5 * time.Second)
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Success) }, "as a probe")
		panics = false
		require.True(t, ask(b, "a", breaker.Success), "the place of that probe is free")
		require.Equal(t, []string{"closed open", "open half_open", "half_open closed"}, seen.transitions())
	})
}

// TestB16: everything may be read while everything happens.
func TestB16_StateIsReadWhileItChanges(t *testing.T) {
	b, err := breaker.New(breaker.Config{
		OpenFor: time.Millisecond, MaxOpen: 2 * time.Millisecond, MinRequests: 2, Probes: 2,
		SlowAfter: time.Nanosecond,
		Observe:   func(context.Context, breaker.Event) {},
	})
	require.NoError(t, err)
	var wg sync.WaitGroup
	outcomes := []breaker.Outcome{breaker.Success, breaker.Failure, breaker.Neutral}
	for g := range 6 {
		wg.Go(func() {
			for i := range 2000 {
				key := fmt.Sprint(i % 3)
				switch {
				case i%400 == 0:
					b.Isolate(key)
				case i%100 == 1:
					b.Reset(key)
				case i%20 == 2:
					for _, s := range b.Stats().Keys {
						if s.Share < 0 || s.Share > 1 {
							panic(s.Share)
						}
					}
				default:
					ask(b, key, outcomes[(i+g)%3])
				}
			}
		})
	}
	wg.Wait()
}

func TestEventsInLogs(t *testing.T) {
	for _, tt := range []struct {
		e    slog.LogValuer
		want string
	}{
		{breaker.Event{
			Kind: breaker.Transition, Key: "k", From: breaker.Closed, To: breaker.Open, Duration: time.Second,
			Requests: 9, Failures: 5, Slow: 2,
		}, "b.event=transition b.from=closed b.to=open b.duration=1s" +
			" b.detail.key=k b.detail.requests=9 b.detail.failures=5 b.detail.slow=2"},
		{breaker.Event{
			Kind: breaker.Transition, Key: "k", From: breaker.HalfOpen, To: breaker.Ramping, Requests: 1,
		}, "b.event=transition b.from=half_open b.to=ramping" +
			" b.detail.key=k b.detail.requests=1 b.detail.failures=0 b.detail.slow=0"},
		{breaker.Event{Kind: breaker.Refused, Key: "k", From: breaker.Open, To: breaker.Open},
			"b.event=refused b.state=open b.detail.key=k"},
		{breaker.ThrottleEvent{Key: "k", Requests: 3, Accepted: 1},
			"b.event=throttled b.detail.key=k b.detail.requests=3 b.detail.accepted=1"},
	} {
		var out strings.Builder
		slog.New(slog.NewTextHandler(&out, nil)).Info("", "b", tt.e)
		require.Contains(t, out.String(), tt.want)
	}
}

// An answer that an observer's panic keeps from its caller is closed, and a refusal counts for
// nothing.
func TestPanicsOfObserversLeaveNothingOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MinRequests: 1, Observe: func(context.Context, breaker.Event) {
			panic("observer")
		}})
		body := &closeNoter{Reader: strings.NewReader("x")}
		rt := b.TransportFor("a", roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 500, Body: body}, nil
		}))
		req := request(t.Context(), "http://h/")
		require.PanicsWithValue(t, "observer", func() { _, _ = rt.RoundTrip(req) })
		require.Equal(t, 1, body.closed)

		upload := &closeNoter{Reader: strings.NewReader("x")}
		req.Body = upload
		require.PanicsWithValue(t, "observer", func() { _, _ = rt.RoundTrip(req) }, "refused")
		require.Equal(t, 1, upload.closed)

		time.Sleep(5 * time.Second)
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Neutral) }, "half-open")
		_, err := b.Acquire(t.Context(), "a") // a probe, which is lost
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Neutral) }, "open again")
		require.Equal(t, breaker.Open, stateOf(b, "a"))
		require.EqualValues(t, 1, b.InFlight("a"), "the lost probe")
	})
}

// An answer that is slow, and breaks off, has failed once.
func TestASlowAnswerThatBreaksIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{MinRequests: 1, SlowAfter: time.Second, Observe: seen.observe})
		rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Minute)
			resp := answer(200)
			resp.Body = &brokenBody{r: strings.NewReader("some"), err: io.ErrUnexpectedEOF}
			return resp, nil
		}))
		_, err := send(rt, request(t.Context(), "http://h/"))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.EqualValues(t, 1, seen.events[0].Failures)
		require.Zero(t, seen.events[0].Slow)
	})
}

// TestR32_TransitionsAreToldWithoutAnEnd: the client whose request opened the circuit may have
// left.
func TestR32_TransitionsAreToldWithoutAnEnd(t *testing.T) {
	var told []error
	b := newBreaker(t, breaker.Config{MinRequests: 1, Observe: func(ctx context.Context, e breaker.Event) {
		told = append(told, ctx.Err())
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done, err := b.Acquire(ctx, "a")
	require.NoError(t, err)
	cancel()
	done(breaker.Failure)
	require.Equal(t, []error{nil}, told)
}
