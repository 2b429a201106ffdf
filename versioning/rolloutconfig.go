package versioning

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"net/textproto"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultAlpha       = 0.005
	defaultTolerance   = 1.25
	defaultFloor       = 0.5
	defaultMinTime     = 5 * time.Minute
	defaultMinRequests = 500
	defaultDeadline    = time.Hour
	defaultInterval    = time.Second
	defaultCookie      = "trivet_rollout"
)

// An Arm is one of the two handlers of a [Rollout].
type Arm string

// The arms: what is in use, and what is tried.
const (
	Stable Arm = "stable"
	Canary Arm = "canary"
)

// A MissingKey says which arm a request gets that has no key.
type MissingKey string

const (
	// MissingStable gives it to stable, until canary has full weight. It is not part of the
	// comparison.
	MissingStable MissingKey = "stable"

	// MissingPerRequest draws an arm for each such request anew: a client meets both.
	MissingPerRequest MissingKey = "per_request"

	// MissingCookie gives the client a cookie with a random key. A cache in front must not share
	// answers that set a cookie.
	MissingCookie MissingKey = "cookie"
)

// An Action is what a [Rollout] does with a release that is found worse, or that cannot be judged.
type Action string

const (
	// RollBack gives all requests to stable. The release is not tried again until [Rollout.Retry].
	RollBack Action = "roll_back"

	// Pause leaves the weight as it is, for a person to decide: see [Rollout.Resume]. A release
	// that is found worse later is treated as OnFail says.
	Pause Action = "pause"
)

// A Step is one weight of a [Rollout]. It ends when each of its minimums is met and nothing speaks
// against the release.
type Step struct {
	// Weight is the share of keys that get canary, in steps of 0.0001; at most 1. Required.
	Weight float64

	// MinTime is how long the step lasts at least. Zero means 5 minutes. Negative means no time.
	MinTime time.Duration

	// MinRequests is how many requests canary must have answered. Zero means 500. Negative means
	// none.
	MinRequests int

	// Deadline is how long the step may last; then OnDeadline says what happens. Zero means an
	// hour, or twice MinTime if that is longer. Negative means for ever.
	Deadline time.Duration
}

func (s Step) weight() int { return weightOf(s.Weight) }

// A CookieConfig is the cookie of [MissingCookie]. Its zero value is valid.
type CookieConfig struct {
	// Name is the cookie's. Empty means "trivet_rollout".
	Name string

	// MaxAge is how long a browser keeps the cookie, in whole seconds. Zero means for its session.
	// Anything else below 1 s is invalid.
	MaxAge time.Duration

	// Insecure leaves out the Secure attribute, for sites without TLS.
	Insecure bool
}

// RolloutConfig configures a [Rollout]. Name, Release, Key, Missing and Steps are required. Its
// functions are called concurrently.
type RolloutConfig struct {
	// Name names the rollout in events, tags and the Store. Required: 1 to 64 letters, digits, '_',
	// '-' and '.'. Replicas of one service have one name.
	Name string

	// Release names what canary is. Required, of the same form. A release is tried once: one that
	// was rolled back, or that another one followed, gets no requests until [Rollout.Retry].
	Release string

	// Salt decides, with the key, who gets canary. Whoever knows it can choose a key that does.
	// Empty means Name and Release, so that it is not always the same clients that try.
	Salt string

	// Key says whose request it is: a user, a session, a tenant. A key has one arm, and moves from
	// stable to canary once while the weight rises. Required. It must be safe for concurrent use.
	Key func(*http.Request) (key string, ok bool)

	// Missing says which arm requests without a key get. Required.
	Missing MissingKey

	// Cookie is the cookie of [MissingCookie].
	Cookie CookieConfig

	// Skip, if not nil, names requests that are neither split nor counted: stable answers them, or
	// canary once it has full weight.
	Skip func(*http.Request) bool

	// Force, if not nil, chooses an arm for some requests whatever the weight is, say for testers.
	// They are not part of the comparison. What it reads must not be a client's to write if canary
	// is not for everybody.
	Force func(*http.Request) (arm Arm, ok bool)

	// Steps are the weights in their order, each greater than the one before. Required. If the last
	// is less than 1, a step of 1 with the same minimums follows.
	Steps []Step

	// Manual leaves steps to [Rollout.Promote] and [Rollout.Switch]. Analysis rolls back all the
	// same.
	Manual bool

	// Gate, if not nil, is asked before each step, on a goroutine of its own; the rollout waits for
	// it, and meanwhile analyses and rolls back. An error pauses the rollout; it is asked again
	// after [Rollout.Resume]. ctx ends with the rollout, or if the step is not due any more. Of
	// several replicas the first whose Gate returns nil takes the step.
	Gate func(ctx context.Context, next Step) error

	// Judge, if not nil, is asked at each look for what else speaks for or against the release: see
	// [Shadow.Judge]. The rollout waits unless it says [Advance]; if it says [RejectRelease],
	// OnFail applies. reason is for people. It must return at once.
	Judge func() (d Decision, reason string)

	// OnFail says what happens to a release that is found worse: [RollBack], also if empty, or
	// [Pause].
	OnFail Action

	// OnDeadline says what happens when a step's Deadline is over: [Pause], also if empty, or
	// [RollBack]. A release is never promoted because nothing was seen.
	OnDeadline Action

	// OnRollback, if not nil, is called when this replica stops giving requests to a release that
	// was rolled back, on a goroutine of its own: once at once, and once more when no request is in
	// flight in canary, if one was. [Rollback].Tag is what a cache must purge.
	OnRollback func(ctx context.Context, b Rollback)

	// TagField names the response field that gets the arm's tag, see [Rollout.Tag]: Surrogate-Key,
	// or the one that the cache in front reads. Empty means none.
	TagField string

	// Failed says which statuses are errors. If nil, those from 500 on are.
	Failed func(status int) bool

	// Shed says which answers are a limiter's. They count for nothing, unless canary sheds nearly
	// all of its requests and stable does not: then canary is broken, see Floor. If nil, 429 and a
	// 503 with Retry-After are such answers.
	Shed func(status int, h http.Header) bool

	// Alpha is the chance that a release which is no worse is rolled back by the test of errors,
	// and the chance that it is by the test of latency, over all steps together. Zero means 0.005.
	// Not between 0 and 0.5 is invalid.
	Alpha float64

	// Tolerance is how many times as long the 50th, 95th or 99th percentile of canary's latency
	// must be as stable's before the test of latency counts. Zero means 1.25. Less than 1 is
	// invalid.
	Tolerance float64

	// Floor is the share of canary's requests, and of its keys, that must have failed lately for
	// the release to be broken whatever stable does. Zero means 0.5. Negative means no floor. Fewer
	// than five keys are not judged by it.
	Floor float64

	// Interval is the time between looks, and between calls of the Store. Zero means 1 s. Negative
	// is invalid.
	Interval time.Duration

	// Store shares state and evidence with other replicas. If nil, this process is the only one.
	Store RolloutStore

	// Observe, if not nil, receives an event for each change of state, for each change between a
	// Store that answers and one that does not, and for each panic of Gate, Judge, OnRollback and
	// the Store. It is called with no lock held, on the goroutine of whoever calls a method or on
	// one of the Rollout's own. It must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e RolloutEvent)
}

// withDefaults validates c and fills in zero fields, Store excepted.
func (c RolloutConfig) withDefaults() (RolloutConfig, error) {
	f := settings.Of("versioning", "RolloutConfig")
	for _, field := range []struct{ name, value string }{{"Name", c.Name}, {"Release", c.Release}} {
		if !validName(field.value) {
			f.Add(field.name, "%q is not 1 to 64 letters, digits, '_', '-' and '.'", field.value)
		}
	}
	c.Salt = cmp.Or(c.Salt, c.Name+" "+c.Release)
	if c.Key == nil {
		f.Add("Key", "is required")
	}
	if c.Missing != MissingStable && c.Missing != MissingPerRequest && c.Missing != MissingCookie {
		f.Add("Missing", "is required: MissingStable, MissingPerRequest or MissingCookie")
	}
	c.Cookie.check(f)
	c.checkSteps(f)
	c.OnFail = cmp.Or(c.OnFail, RollBack)
	if c.OnFail != RollBack && c.OnFail != Pause {
		f.Add("OnFail", "%q is not %q or %q", c.OnFail, RollBack, Pause)
	}
	c.OnDeadline = cmp.Or(c.OnDeadline, Pause)
	if c.OnDeadline != RollBack && c.OnDeadline != Pause {
		f.Add("OnDeadline", "%q is not Pause or RollBack", c.OnDeadline)
	}
	if c.TagField != "" && !grammar.IsToken(c.TagField) {
		f.Add("TagField", "%q is not the name of a field", c.TagField)
	}
	c.TagField = textproto.CanonicalMIMEHeaderKey(c.TagField)
	if c.Failed == nil {
		c.Failed = failedStatus
	}
	if c.Shed == nil {
		c.Shed = shedAnswer
	}
	if !(c.Alpha >= 0 && c.Alpha < 0.5) {
		f.Add("Alpha", "%v is not between 0 and 0.5", c.Alpha)
	}
	c.Alpha = cmp.Or(c.Alpha, defaultAlpha)
	c.Tolerance = cmp.Or(c.Tolerance, defaultTolerance)
	if !(c.Tolerance >= 1) || math.IsInf(c.Tolerance, 0) {
		f.Add("Tolerance", "%v is not a number of at least 1", c.Tolerance)
	}
	settings.Share(f, "Floor", &c.Floor, defaultFloor)
	settings.Positive(f, "Interval", &c.Interval, defaultInterval)
	return c, f.Err()
}

func (c *CookieConfig) check(f *settings.Faults) {
	c.Name = cmp.Or(c.Name, defaultCookie)
	if err := (&http.Cookie{Name: c.Name, Value: "x"}).Valid(); err != nil {
		f.Add("Cookie.Name", "%w", err)
	}
	if c.MaxAge != 0 && c.MaxAge < time.Second {
		f.Add("Cookie.MaxAge", "%v is under 1 s, which a cookie cannot say", c.MaxAge)
	}
}

func (c *RolloutConfig) checkSteps(f *settings.Faults) {
	if len(c.Steps) == 0 {
		f.Add("Steps", "is required")
		return
	}
	c.Steps = slices.Clone(c.Steps)
	for i := range c.Steps {
		s := &c.Steps[i]
		field := fmt.Sprintf("Steps[%d].Weight", i)
		switch {
		case !(s.Weight > 0 && s.Weight <= 1):
			f.Add(field, "%v is not more than 0 and at most 1", s.Weight)
		case s.weight() == 0:
			f.Add(field, "%v is less than 0.0001", s.Weight)
		case i > 0 && s.weight() <= c.Steps[i-1].weight():
			f.Add(field, "%v is not more than the step before has", s.Weight)
		}
		s.MinTime = cmp.Or(s.MinTime, defaultMinTime)
		s.MinRequests = cmp.Or(s.MinRequests, defaultMinRequests)
		s.Deadline = cmp.Or(s.Deadline, max(defaultDeadline, 2*s.MinTime))
		if s.Deadline > 0 && s.Deadline <= s.MinTime {
			f.Add(fmt.Sprintf("Steps[%d].Deadline", i), "%v is not more than MinTime", s.Deadline)
		}
	}
	if last := c.Steps[len(c.Steps)-1]; last.weight() < fullWeight {
		last.Weight = 1
		c.Steps = append(c.Steps, last)
	}
}

func failedStatus(status int) bool { return status >= 500 }

func shedAnswer(status int, h http.Header) bool {
	return status == http.StatusTooManyRequests ||
		status == http.StatusServiceUnavailable && len(h["Retry-After"]) > 0
}
