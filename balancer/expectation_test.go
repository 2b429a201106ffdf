package balancer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestL37_ExpectationsWaitForAnAnswerThatHasBegun(t *testing.T) {
	for name, tt := range map[string]struct {
		server func(e *expectation)
		want   bool
		took   time.Duration
	}{
		"silence":            {func(*expectation) {}, true, expectTime},
		"invited":            {func(e *expectation) { e.decide(true) }, true, 0},
		"refused":            {func(e *expectation) { e.decide(false) }, false, 0},
		"refused after all":  {func(e *expectation) { e.decide(true); e.decide(false) }, true, 0},
		"hints, and no more": {func(e *expectation) { e.answering(); e.informed() }, true, expectTime},
		"a refusal comes slowly": {func(e *expectation) {
			e.answering()
			time.Sleep(3 * expectTime)
			e.decide(false)
		}, false, 3 * expectTime},
		"hints come slowly": {func(e *expectation) {
			e.answering()
			time.Sleep(3 * expectTime)
			e.informed()
		}, true, 3 * expectTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, begun := newExpectation(), time.Now()
				go tt.server(e)
				synctest.Wait()
				require.Equal(t, tt.want, e.wait())
				require.Equal(t, tt.took, time.Since(begun))
				require.Equal(t, tt.want, e.wait(), "once and for all")
			})
		})
	}
}
