package retry

import (
	"context"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultMaxAttempts   = 3
	defaultBackoff       = 50 * time.Millisecond
	defaultMaxBackoff    = 5 * time.Second
	defaultMaxRetryAfter = 30 * time.Second
	defaultMaxBody       = 64 << 10
	defaultMaxKeys       = 1024
	defaultRatio         = 0.1
	defaultReserve       = 10
	defaultHedgeRatio    = 0.05
	defaultMinHedgeDelay = time.Millisecond
)

// Config configures a [Retrier]. The zero Config is valid. Its functions are called by many
// requests at a time: they must be safe for concurrent use.
type Config struct {
	// MaxAttempts is how often a request is sent at most, a hedge not counted. Zero means 3, 1
	// means that nothing is retried. Negative is invalid.
	MaxAttempts int

	// Backoff and MaxBackoff bound the wait before a retry: it is random between zero and Backoff,
	// doubled for each retry before it, and at most MaxBackoff. Zero means 50 ms and 5 s. Negative
	// is invalid.
	Backoff, MaxBackoff time.Duration

	// PerTry is the time that one attempt may take, to the end of its response's body. Zero means
	// that only the request's context limits it. Negative is invalid.
	PerTry time.Duration

	// MaxRetryAfter is the longest wait that a Retry-After field, or an error's RetryAfter method,
	// may ask for. What asks for more is returned at once. Zero means 30 s. Negative is invalid.
	MaxRetryAfter time.Duration

	// MaxBody is how much of a request's body is kept to be sent again if the request has no
	// GetBody. A longer body is sent once. Zero means 64 KiB. Negative means that nothing is kept.
	// More than 64 MiB is invalid: all Retriers of the process together keep at most that.
	MaxBody int64

	// Budget pays for retries and hedges.
	Budget BudgetConfig

	// Key names the budget that a request draws on. A request without a key is sent once. If nil,
	// the key is the URL's host.
	Key func(*http.Request) (key string, ok bool)

	// MaxKeys is how many keys, and how many hosts of Hedge, have a state of their own. The rest
	// share one more. Zero means 1,024. Negative is invalid.
	MaxKeys int

	// When, if not nil, judges an attempt's response or error before the built-in rules do. It must
	// not read the response's body. It is called on the request's goroutine and, with its copy of
	// the request, on a hedge's, where a panic fails the hedge. It is asked about no attempt that
	// has lost against another, and about a hedge's responses only: an error of a hedge ends
	// nothing.
	When func(*http.Request, *http.Response, error) Verdict

	// Hint names a response field by which tiers tell each other that retrying is done: it is set
	// to "false" on the answer that this Retrier gave up on, and an answer that carries it so is
	// not retried. Tiers above one another need it, or each adds its share to what the lowest
	// server gets; handlers in between must pass the field on. Trust it only from your own servers:
	// whoever answers can switch off retries of its own answers by it. Empty means off.
	Hint string

	// DeadlineField names a request field that tells the server how many milliseconds of the
	// context's deadline are left when an attempt leaves; see [DeadlineConfig.Field]. Empty means
	// that none is sent.
	DeadlineField string

	// Scope, if not nil, makes the context that all attempts of a request share. It is called once
	// for each request. Give it balancer.Avoid, and each attempt goes to another endpoint.
	Scope func(context.Context) context.Context

	// Hedge switches hedging on: a safe request, or one with an Idempotency-Key, is sent a second
	// time if it takes longer than 95 % of its host and Class did lately. The first answer counts.
	Hedge bool

	// HedgeRatio is the share of the requests that may be hedged. Zero means 0.05. Negative and
	// more than 1 are invalid.
	HedgeRatio float64

	// MinHedgeDelay is the least wait before a hedge, however fast the host is. Zero means 1 ms.
	// Negative is invalid.
	MinHedgeDelay time.Duration

	// Class names the group of a request. Requests of one group take about equally long. It must be
	// low in cardinality: beyond 64 of a host the rest share one. If nil, the class is the method.
	Class func(*http.Request) string

	// Observe, if not nil, receives every request's [Event]. It is called on the request's
	// goroutine with no lock held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// BudgetConfig bounds what a key may send beyond its requests. In any span of time that is at most
// Ratio for each success, plus Reserve, plus one for each 10 s without a request.
type BudgetConfig struct {
	// Ratio is what a success earns. Zero means 0.1. Negative means nothing. More than 1 is
	// invalid.
	Ratio float64

	// Reserve is what a new key begins with, and the most that a key saves. Zero means 10. Negative
	// means that a key begins with nothing and saves one.
	Reserve int
}

func (c Config) withDefaults() (Config, error) {
	f := settings.Of("retry", "Config")
	settings.Positive(f, "MaxAttempts", &c.MaxAttempts, defaultMaxAttempts)
	settings.Positive(f, "Backoff", &c.Backoff, defaultBackoff)
	settings.Positive(f, "MaxBackoff", &c.MaxBackoff, defaultMaxBackoff)
	if c.Backoff > c.MaxBackoff && c.MaxBackoff > 0 {
		f.Add("Backoff", "%v is more than MaxBackoff, %v", c.Backoff, c.MaxBackoff)
	}
	settings.NotNegative(f, "PerTry", c.PerTry)
	settings.Positive(f, "MaxRetryAfter", &c.MaxRetryAfter, defaultMaxRetryAfter)
	settings.Default(f, "MaxBody", &c.MaxBody, defaultMaxBody)
	if c.MaxBody > maxBuffered {
		f.Add("MaxBody", "%d is more than %d", c.MaxBody, int64(maxBuffered))
	}
	c.MaxBody = max(c.MaxBody, 0)
	settings.Share(f, "Budget.Ratio", &c.Budget.Ratio, defaultRatio)
	settings.Default(f, "Budget.Reserve", &c.Budget.Reserve, defaultReserve)
	if c.Budget.Reserve > maxReserve {
		f.Add("Budget.Reserve", "%d is more than %d", c.Budget.Reserve, maxReserve)
	}
	settings.Positive(f, "MaxKeys", &c.MaxKeys, defaultMaxKeys)
	c.Hint = fieldName(f, "Hint", c.Hint)
	c.DeadlineField = fieldName(f, "DeadlineField", c.DeadlineField)
	settings.NotNegative(f, "HedgeRatio", c.HedgeRatio)
	settings.Share(f, "HedgeRatio", &c.HedgeRatio, defaultHedgeRatio)
	settings.Positive(f, "MinHedgeDelay", &c.MinHedgeDelay, defaultMinHedgeDelay)
	return c, f.Err()
}

// fieldName returns the name of a header field as http.Header has it. A name that is no token is a
// fault of field.
func fieldName(f *settings.Faults, field, name string) string {
	for _, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			f.Add(field, "%q is not the name of a header field", name)
			return name
		}
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}
