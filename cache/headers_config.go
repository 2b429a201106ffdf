package cache

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const defaultHeadersMaxBody = 64 << 10

// HeadersConfig configures [Headers]. The zero HeadersConfig is valid: it adds entity tags, and no
// freshness. Its functions must be safe for concurrent use.
type HeadersConfig struct {
	// TTL is for how long responses with status 200, 203, 204, 206, 300, 301 and 308 are fresh if
	// no rule names them. It is for responses that say nothing themselves: those without
	// Cache-Control, CDN-Cache-Control, Surrogate-Control, Expires and Pragma, unless Override is
	// set. Zero means that they stay as they are. Negative is invalid. Durations here are whole
	// seconds.
	TTL time.Duration

	// SharedTTL is the same for shared caches that obey CDN-Cache-Control (RFC 9213), such as a CDN
	// or a [Cache] in front, where TTL is then left to browsers. Zero means that TTL is for all
	// caches. Negative is invalid, and so is a SharedTTL without a TTL.
	SharedTTL time.Duration

	// Rules are freshness by status and media type. The first one that names a response counts.
	Rules []HeadersRule

	// Stale is for how long after the TTL a cache may serve a response while it fetches another one
	// (stale-while-revalidate of RFC 5861). Zero means not at all. Negative is invalid.
	Stale time.Duration

	// StaleIfError is for how long after the TTL a cache may serve a response if fetching another
	// one fails (stale-if-error of RFC 5861). Zero means that the response does not say. Negative
	// is invalid.
	StaleIfError time.Duration

	// Max caps the freshness that responses state, whether they state it themselves or get it here.
	// It does not reach what caches guess from Last-Modified: a TTL does. Zero means no cap.
	// Negative is invalid.
	Max time.Duration

	// Override puts TTL and Rules in place of what the responses that they name say themselves,
	// also where those forbid to be stored. It is for handlers whose fields are wrong.
	Override bool

	// StoreSetCookie lets TTL and Rules apply to responses that set cookies. By default those are
	// left as they are, so that no cache is invited to give one client's cookie to others.
	StoreSetCookie bool

	// Tags, if not nil, returns the tags by which caches can be told to purge the response to r. It
	// is called when the handler sends its header: r.Pattern and r.PathValue tell the route. A tag
	// has neither spaces nor commas. The handler's own tags stay.
	Tags func(r *http.Request) []string

	// TagField is the field of the Tags, "Surrogate-Key" or "Cache-Tag". Empty means
	// "Surrogate-Key".
	TagField string

	// Vary names the request fields on which responses depend, beside those that the handler names.
	Vary []string

	// MaxBody is the size in bytes of the largest body for which an entity tag is made. Up to there
	// the bodies of responses with status 200 and no ETag of their own are held until the handler
	// returns, flushes or writes more; after a flush, or beyond MaxBody, there is no tag and
	// nothing is held. Zero means 64 KiB. Negative means no tags.
	MaxBody int64

	// Skip, if not nil, reports which requests pass untouched.
	Skip func(r *http.Request) bool
}

// A HeadersRule is the freshness of some responses.
type HeadersRule struct {
	// Status are the statuses that the rule names. Empty means those of HeadersConfig.TTL.
	Status []int

	// Types are the media types that the rule names, such as "text/html" or "image/*". Empty means
	// all.
	Types []string

	// TTL is for how long these responses are fresh. Zero means that caches must validate them each
	// time (no-cache), [HeadersNoStore] that they must not be stored. Other negative values are
	// invalid.
	TTL time.Duration

	// SharedTTL is the same for shared caches that obey CDN-Cache-Control. Zero means that TTL is
	// for all caches. Negative is invalid.
	SharedTTL time.Duration
}

// HeadersNoStore as TTL of a [HeadersRule] forbids to store the responses.
const HeadersNoStore time.Duration = -1

// statusesWithTTL are those to which HeadersConfig.TTL applies. An error, and that something does
// not exist yet, must not be kept because of a default: such a status needs a rule that names it.
var statusesWithTTL = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusPartialContent,
	http.StatusMultipleChoices, http.StatusMovedPermanently, http.StatusPermanentRedirect,
}

// withDefaults validates c, copies what it refers to and fills in zero fields.
func (c HeadersConfig) withDefaults() (HeadersConfig, error) {
	f := settings.Of("cache", "HeadersConfig")
	wholeSeconds(f, "TTL", c.TTL)
	wholeSeconds(f, "SharedTTL", c.SharedTTL)
	wholeSeconds(f, "Stale", c.Stale)
	wholeSeconds(f, "StaleIfError", c.StaleIfError)
	wholeSeconds(f, "Max", c.Max)
	if c.SharedTTL > 0 && c.TTL == 0 {
		f.Add("SharedTTL", "%v without a TTL", c.SharedTTL)
	}
	settings.Default(f, "MaxBody", &c.MaxBody, defaultHeadersMaxBody)
	switch c.TagField {
	case "":
		c.TagField = "Surrogate-Key"
	case "Surrogate-Key", "Cache-Tag":
	default:
		f.Add("TagField", "%q is neither Surrogate-Key nor Cache-Tag", c.TagField)
	}
	c.Vary = slices.Clone(c.Vary)
	for i, name := range c.Vary {
		if name == "" || strings.ContainsAny(name, " \t,:\r\n") {
			f.Add("Vary", "entry %d, %q, is not the name of a field", i, name)
		}
		c.Vary[i] = http.CanonicalHeaderKey(name)
	}
	c.Rules = slices.Clone(c.Rules)
	for i, rule := range c.Rules {
		r := settings.Of("cache", "HeadersRule")
		c.Rules[i] = rule.withDefaults(r)
		f.Nest("Rules["+strconv.Itoa(i)+"]", r.Err())
	}
	return c, f.Err()
}

// withDefaults validates r, copies what it refers to and fills in zero fields.
func (r HeadersRule) withDefaults(f *settings.Faults) HeadersRule {
	r.Status = slices.Clone(r.Status)
	for i, status := range r.Status {
		if status < 200 || status > 999 || status == http.StatusNotModified {
			f.Add("Status", "entry %d, %d, is not a status that can be stored", i, status)
		}
	}
	if len(r.Status) == 0 {
		r.Status = statusesWithTTL
	}
	r.Types = slices.Clone(r.Types)
	for i, name := range r.Types {
		mediaType, params, err := mime.ParseMediaType(name)
		if err != nil || len(params) > 0 || !strings.Contains(mediaType, "/") {
			f.Add("Types", "entry %d, %q, is not a media type", i, name)
		}
		r.Types[i] = mediaType
	}
	if r.TTL != HeadersNoStore {
		wholeSeconds(f, "TTL", r.TTL)
	}
	wholeSeconds(f, "SharedTTL", r.SharedTTL)
	return r
}

// wholeSeconds adds a fault if v is negative or has a fraction, which no field can tell.
func wholeSeconds(f *settings.Faults, field string, v time.Duration) {
	settings.NotNegative(f, field, v)
	if v > 0 && v%time.Second != 0 {
		f.Add(field, "%v is not a number of whole seconds", v)
	}
}
