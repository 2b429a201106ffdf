package versioning

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/retryafter"
)

// Why requests are refused. [*RefusedError] has the details.
var (
	ErrMissing     = errors.New("versioning: no version")
	ErrMalformed   = errors.New("versioning: malformed version")
	ErrDuplicate   = errors.New("versioning: duplicate version")
	ErrConflict    = errors.New("versioning: conflicting versions")
	ErrUnsupported = errors.New("versioning: unsupported version")
	ErrGone        = errors.New("versioning: version has ended")
	ErrBrownout    = errors.New("versioning: version is refused for now")
)

// A refusal is what is said of a Status that refuses.
type refusal struct {
	err   error
	title string
}

var refusals = map[Status]refusal{
	Missing:     {ErrMissing, "The request names no version"},
	Malformed:   {ErrMalformed, "The version is malformed"},
	Duplicate:   {ErrDuplicate, "The version is named twice"},
	Conflicting: {ErrConflict, "The request names different versions"},
	Unsupported: {ErrUnsupported, "The version is not supported"},
	Gone:        {ErrGone, "The version has ended"},
	BrownedOut:  {ErrBrownout, "The version is about to end and refused for now"},
}

// problemType is followed by the Status.
const problemType = "https://github.com/trivet-go/trivet/tree/main/versioning#"

// A RefusedError says why a request was refused. It matches one of [ErrMissing], [ErrMalformed],
// [ErrDuplicate], [ErrConflict], [ErrUnsupported], [ErrGone] and [ErrBrownout].
type RefusedError struct {
	Status    Status // why
	Code      int    // the status of the response: 400, 404, 406, 410 or 415
	Source    string // where the version was named, as in Resolved; "" if nowhere
	Requested string // as it was named; anything, of any length
	Version   string // of ErrGone and ErrBrownout
	Supported []string
	Latest    string

	Sunset    time.Time     // of Version; zero if it has none
	Successor string        // URL of what follows Version; "" if it is not known
	Wait      time.Duration // until the brownout ends; zero if nobody knows
}

func (e *RefusedError) Error() string {
	text := refusals[e.Status].err.Error()
	if e.Requested != "" {
		text += " " + strconv.Quote(shorten(e.Requested))
	}
	return text
}

// Is matches the error that stands for e.Status.
func (e *RefusedError) Is(target error) bool { return target == refusals[e.Status].err }

// RetryAfter returns Wait.
func (e *RefusedError) RetryAfter() time.Duration { return e.Wait }

// shorten returns the start of s, which a client wrote, as text.
func shorten(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// refuse answers a request that was decided as d.
func (v *Versions) refuse(w http.ResponseWriter, r *http.Request, now time.Time, d *decision) {
	e := &RefusedError{
		Status: d.status, Code: d.code, Source: d.source.String(), Requested: d.requested,
		Supported: v.supported(now), Latest: v.versions[v.head()].Name,
	}
	h := w.Header()
	s := scope{versions: v, index: int32(d.index), vary: v.varyOf(d)}
	mergeVary(h, s.vary.names, s.vary.line, &s.varies)
	if v.cfg.Supported != "" {
		s.supported[0] = v.supportedValue(now)
		h.Set(v.cfg.Supported, s.supported[0])
	}
	if d.index >= 0 {
		version := &v.versions[d.index]
		e.Version, e.Sunset, e.Successor = version.Name, version.Sunset, version.Successor
		if link := v.successorLink(r, now, d); link != "" {
			s.successor = link
			e.Successor, _, _ = strings.Cut(link[1:], ">")
		}
		s.announce(h)
		if !d.until.IsZero() {
			e.Wait = d.until.Sub(now)
			retryafter.Set(h, e.Wait)
		}
	}
	if d.code == http.StatusUnsupportedMediaType && d.media != "" {
		h["Accept"] = []string{d.acceptable(e.Supported)} // RFC 9110, section 12.5.1: in a response
	}
	if v.cfg.ErrorHandler != nil {
		// Caches keep 404 and 410 by themselves (RFC 9110, section 15.1), also beyond a brownout.
		h.Set("Cache-Control", "no-store")
		linger.Answer(w, r, func(w http.ResponseWriter) { v.cfg.ErrorHandler(w, r, e) })
		return
	}
	linger.Answer(w, r, func(w http.ResponseWriter) { problem.Write(w, e.details()) })
}

// acceptable lists the media types that the body might have had.
func (d *decision) acceptable(supported []string) string {
	types := make([]string, len(supported))
	for i, name := range supported {
		if d.vendor {
			types[i] = d.parameter + name
			if plus := strings.LastIndexByte(d.media, '+'); plus >= 0 {
				types[i] += d.media[plus:]
			}
		} else {
			types[i] = d.media + ";" + d.parameter + "=" + name
		}
	}
	return strings.Join(types, ", ")
}

func (e *RefusedError) details() problem.Details {
	d := problem.Details{
		Type: problemType + string(e.Status), Title: refusals[e.Status].title, Status: e.Code,
		Extensions: map[string]any{"supported": slices.Clip(e.Supported), "latest": e.Latest},
	}
	if e.Requested != "" {
		d.Extensions["requested"] = shorten(e.Requested)
	}
	if !e.Sunset.IsZero() {
		d.Extensions["sunset"] = e.Sunset.UTC().Format(time.RFC3339)
	}
	if e.Successor != "" {
		d.Extensions["successor"] = e.Successor
	}
	return d
}
