// Package unsent reads what a transport's error says about a request that did not leave. The
// packages have no error type in common: these methods are all that they know of each other's.
package unsent

import (
	"errors"
	"time"
)

// Is reports whether err, or an error that it wraps, says by a method NotSent() bool that the
// request was not sent.
func Is(err error) bool {
	var e interface{ NotSent() bool }
	return errors.As(err, &e) && e.NotSent()
}

// RetryAfter returns the wait that err, or an error that it wraps, states by a method RetryAfter()
// time.Duration. It is 0 if there is none: an unsent request without a wait is refused for good.
func RetryAfter(err error) time.Duration {
	wait, _ := Wait(err)
	return wait
}

// Wait returns what [RetryAfter] does, and whether it is stated at all: who has a wait of its own
// for errors that state none must leave a stated 0 alone.
func Wait(err error) (wait time.Duration, stated bool) {
	var e interface{ RetryAfter() time.Duration }
	if !errors.As(err, &e) {
		return 0, false
	}
	return max(e.RetryAfter(), 0), true
}
