package main

import (
	"errors"
	"fmt"
	"os"
)

var (
	errStalled error = stalled{}
	errUnread        = errors.New("the client has taken or sent nothing for server.stall_timeout")
	errDrips         = fmt.Errorf("the body is slower than server.min_rate: %w", os.ErrDeadlineExceeded)
)

// stalled ends an exchange for which the upstream does nothing. Breakers and rollouts, which take a
// context's end for its client's doing, count it by its method Timeout.
type stalled struct{}

func (stalled) Error() string { return "neither side has sent anything for server.stall_timeout" }
func (stalled) Timeout() bool { return true }

// dripping ends an exchange that is errDrips. It is no timeout: the upstream is not to blame.
type dripping struct{}

func (dripping) Error() string        { return errDrips.Error() }
func (dripping) Is(target error) bool { return target == errDrips }

// stalledBy returns why an exchange has stood still.
func (w *steadyWriter) stalledBy() error {
	if w.writing.Load() || w.body != nil && !w.body.ended() {
		return errUnread
	}
	return errStalled
}
