package ratelimit

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/problem"
)

// Unambiguous returns a middleware that makes sure that all behind it read the named header fields
// alike: [ByHeader], and a server that the request is passed on to. A request with more than one
// value of such a field gets 400, or one value could be counted and another used. Fields that are
// spelt otherwise, such as X_Api_Key for X-Api-Key, are removed: CGI cannot tell underscores from
// hyphens, and some servers tell no sign from another. The error, if any, names every name that
// cannot be that of a field. The middleware panics if its handler is nil.
//
// Put it around a [Limiter] by header whose requests go on to other servers, and around one with
// [MissingSkip]: without it, a client that sends a field twice is not counted there.
func Unambiguous(names ...string) (func(http.Handler) http.Handler, error) {
	var faults []error
	canonical := make(map[string]string, len(names)) // by what the spellings have in common
	for _, name := range names {
		if !grammar.IsToken(name) {
			faults = append(faults,
				fmt.Errorf("ratelimit: Unambiguous: %q is not the name of a header field", name))
		}
		canonical[plainName(name)] = http.CanonicalHeaderKey(name)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		if next == nil {
			panic("ratelimit: nil handler")
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out := r
			for field, values := range r.Header {
				name, ok := canonical[plainName(field)]
				switch {
				case !ok:
				case field != name:
					if out == r {
						out = r.WithContext(r.Context())
						out.Header = maps.Clone(r.Header)
					}
					delete(out.Header, field)
				case len(values) > 1:
					linger.Answer(w, r, func(w http.ResponseWriter) { writeAmbiguous(w, name) })
					return
				}
			}
			next.ServeHTTP(w, out)
			r.Pattern = out.Pattern // so that an outer middleware can read it too
		})
	}, nil
}

func writeAmbiguous(w http.ResponseWriter, name string) {
	problem.Write(w, problem.Details{
		Title: http.StatusText(http.StatusBadRequest), Status: http.StatusBadRequest,
		Detail: "More than one value of " + name,
	})
}

// plainName returns name in lower case, with a hyphen for each sign.
func plainName(name string) string {
	plain := []byte(name)
	for i, c := range plain {
		switch {
		case 'A' <= c && c <= 'Z':
			plain[i] = c | 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			plain[i] = '-'
		}
	}
	return string(plain)
}
