package versioning

import (
	"cmp"
	"context"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/settings"
)

// ShadowField marks the copies of requests that a [Shadow] sends, with the value 1. An edge must
// remove it from clients' requests.
const ShadowField = "Trivet-Shadow"

const (
	defaultShadowBody    = 64 << 10
	defaultShadowBytes   = 32 << 20
	defaultShadowWorkers = 4
	defaultShadowQueue   = 256
	defaultShadowTimeout = 10 * time.Second
	defaultLearn         = 0.1
	defaultMaxPaths      = 1000
)

// Credentials says what the candidate of a [Shadow] learns of who sent a request.
type Credentials string

const (
	// CredentialsStrip removes Authorization, Proxy-Authorization, Cookie, Idempotency-Key and
	// ShadowConfig.SecretFields from copies.
	CredentialsStrip Credentials = "strip"

	// CredentialsSend sends them: the candidate can do all that the client can, a second time.
	CredentialsSend Credentials = "send"
)

// ShadowConfig configures a [Shadow]. Name, Credentials, and either Candidate or Transport are
// required. Its functions are called concurrently.
type ShadowConfig struct {
	// Name names the shadow in events. Required: 1 to 64 letters, digits, '_', '-' and '.'.
	Name string

	// Candidate answers the copies.
	Candidate http.Handler

	// Transport sends the copies to Target in place of Candidate.
	Transport http.RoundTripper

	// Target is where Transport sends copies: a scheme and a host. Required with Transport.
	Target *url.URL

	// Credentials says whether copies have the client's credentials, cookies and Idempotency-Key.
	// Required.
	Credentials Credentials

	// SecretFields are further request fields that [CredentialsStrip] removes.
	SecretFields []string

	// Sample is the share of requests that are copied. Zero means 1, all. Negative and more than 1
	// are invalid.
	Sample float64

	// Skip, if not nil, names requests that are not copied.
	Skip func(*http.Request) bool

	// Methods are those besides GET, HEAD and OPTIONS whose requests are copied. What they do is
	// done twice if the candidate shares anything with what is in use.
	Methods []string

	// MaxBody is the most bytes of a request's or an answer's body that are copied. Zero means
	// 64 KiB. Negative is invalid.
	MaxBody int64

	// MaxBytes is the most memory, in bytes, that all copies together take. Zero means 32 MiB.
	// Negative is invalid.
	MaxBytes int64

	// Workers is how many copies are sent at once. Zero means 4. Negative is invalid.
	Workers int

	// Queue is how many copies wait for a worker. Further ones are dropped. Zero means 256.
	// Negative is invalid.
	Queue int

	// Timeout is how long a copy may take. Zero means 10 s. Negative is invalid.
	Timeout time.Duration

	// Fields are the response fields that are compared. Nil means Content-Type.
	Fields []string

	// Ignore are paths of JSON that are not compared, with all below: "items[].id".
	Ignore []string

	// Learn is the share of copies with a safe method that the handler in use answers once more, to
	// learn which paths differ between two of its own answers. Before 20 of them nothing is judged.
	// Zero means 0.1. Negative means none, and is for methods that are not safe. More than 1 is
	// invalid.
	Learn float64

	// Show, if not nil, says whether the report may have the values at a path. Of all other values
	// it has only the type and the size.
	Show func(path string) bool

	// MaxPaths is how many paths are counted. All others share one more. Zero means 1,000. Negative
	// is invalid.
	MaxPaths int

	// Observe, if not nil, receives an event for each sampled request, also for those that are not
	// copied. It is called with no lock held, on the goroutine of the request, of a worker, or of
	// who calls [Shadow.Close]. It must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e ShadowEvent)
}

// withDefaults validates c and fills in zero fields.
func (c ShadowConfig) withDefaults() (ShadowConfig, error) {
	f := settings.Of("versioning", "ShadowConfig")
	if !validName(c.Name) {
		f.Add("Name", "%q is not 1 to 64 letters, digits, '_', '-' and '.'", c.Name)
	}
	if (c.Candidate == nil) == (c.Transport == nil) {
		f.Add("Candidate", "or Transport is required, and not both")
	}
	if c.Transport != nil && (c.Target == nil || c.Target.Host == "" || c.Target.Scheme == "") {
		f.Add("Target", "a scheme and a host are required")
	}
	if c.Target != nil {
		target := *c.Target
		c.Target = &target
	}
	if c.Credentials != CredentialsStrip && c.Credentials != CredentialsSend {
		f.Add("Credentials", "is required: CredentialsStrip or CredentialsSend")
	}
	settings.NotNegative(f, "Sample", c.Sample)
	settings.Share(f, "Sample", &c.Sample, 1)
	settings.Positive(f, "MaxBody", &c.MaxBody, defaultShadowBody)
	settings.Positive(f, "MaxBytes", &c.MaxBytes, defaultShadowBytes)
	c.MaxBody, c.MaxBytes = min(c.MaxBody, endless), min(c.MaxBytes, endless)
	settings.Positive(f, "Workers", &c.Workers, defaultShadowWorkers)
	settings.Positive(f, "Queue", &c.Queue, defaultShadowQueue)
	settings.Positive(f, "Timeout", &c.Timeout, defaultShadowTimeout)
	settings.Share(f, "Learn", &c.Learn, defaultLearn)
	settings.Positive(f, "MaxPaths", &c.MaxPaths, defaultMaxPaths)
	c.Methods, c.Ignore = slices.Clone(c.Methods), slices.Clone(c.Ignore)
	c.Fields = fieldNames(f, "Fields", c.Fields)
	if c.Fields == nil {
		c.Fields = []string{"Content-Type"}
	}
	c.SecretFields = fieldNames(f, "SecretFields", c.SecretFields)
	return c, f.Err()
}

// fieldNames returns names in their canonical form.
func fieldNames(f *settings.Faults, field string, names []string) []string {
	names = slices.Clone(names)
	for i, name := range names {
		if !grammar.IsToken(name) {
			f.Add(field, "%q is not the name of a field", name)
		}
		names[i] = textproto.CanonicalMIMEHeaderKey(name)
	}
	return names
}

// secretFields are what CredentialsStrip removes besides SecretFields.
var secretFields = [...]string{"Authorization", "Proxy-Authorization", "Cookie", "Idempotency-Key"}

// safeMethod reports whether requests with that method change nothing (RFC 9110, section 9.2.1).
// TRACE is left out: it shows what the client sent.
func safeMethod(method string) bool {
	return cmp.Or(method, http.MethodGet) == http.MethodGet || method == http.MethodHead ||
		method == http.MethodOptions
}
