package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/trivet-go/trivet/balancer"
)

// A Redirect answers the requests of a route instead of an upstream.
type Redirect struct {
	// To is a URL, or a path on the same host. If it ends with "/*", what follows the route's path
	// takes the place of the star. The request's query is kept unless To has one of its own.
	// Required.
	To string `yaml:"to"`

	Status int `yaml:"status"` // 301, 302, 303, 307 or 308; 307
}

// redirectStatuses are those that send a client somewhere else (RFC 9110, section 15.4).
var redirectStatuses = []int{
	http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
	http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
}

// check adds to f the faults of the key redirect of a route.
func (d *Redirect) check(r Route, f *faults, path ...any) {
	for key, given := range map[string]bool{
		"upstream": r.Upstream != "", "versions": r.Versions != nil, "cache": r.Cache != nil,
		"rollout": r.Rollout != nil, "shadow": r.Shadow != nil, "timeout": r.Timeout != 0,
		"headers": newEdit(r.Headers.Request) != nil,
	} {
		at := with(path[:len(path)-1], key)
		if key == "headers" {
			at = append(at, "request")
		}
		if given {
			f.add("has no meaning beside redirect", at...)
		}
	}
	if d.Status == 0 {
		d.Status = http.StatusTemporaryRedirect
	}
	if !slices.Contains(redirectStatuses, d.Status) {
		f.add(fmt.Sprintf("%d is not one of: 301, 302, 303, 307, 308", d.Status), with(path, "status")...)
	}
	to, err := url.Parse(d.To)
	switch {
	case err != nil || strings.ContainsFunc(d.To, notInURL) || !local(to) && !foreign(to):
		f.add(unsecret(d.To)+" is neither a URL such as https://example.com/ nor a path that begins with "+
			"one slash, encoded as in a URL", with(path, "to")...)
	case strings.Contains(strings.TrimSuffix(d.To, "/*"), "*"):
		f.add("may have a star only at its end, after a slash", with(path, "to")...)
	case strings.HasSuffix(d.To, "/*") && !strings.HasSuffix(r.Path, "/"):
		f.add("has a star, but the route's path is only that path: nothing follows it", with(path, "to")...)
	}
}

// notInURL reports whether r must be encoded in a URL. Browsers read a backslash as a slash.
func notInURL(r rune) bool { return r <= ' ' || r >= 0x7F || strings.ContainsRune("\\\"<>^`{|}", r) }

// local reports whether u is a path on the same host. With two slashes it would name another one.
func local(u *url.URL) bool {
	return u.Scheme == "" && u.Host == "" && u.User == nil && strings.HasPrefix(u.Path, "/") &&
		!strings.HasPrefix(u.Path, "//")
}

// foreign reports whether u is a whole URL.
func foreign(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && validAddr(u.Host)
}

// leadsBack reports whether the redirect of route r leads to r again, as far as one can see: what
// another host's URL leads to is not known.
func (c Config) leadsBack(r Route) bool {
	to, err := url.Parse(r.Redirect.To)
	return err == nil && local(to) && (r.Redirect.keepsMethod() || c.takesGET(r)) &&
		c.literally(r.Host, strings.TrimSuffix(to.Path, "*")) == r.Host+r.Path
}

// keepsMethod reports whether clients go on with the method that they have; else they go on with
// GET.
func (d *Redirect) keepsMethod() bool {
	return d.Status == http.StatusTemporaryRedirect || d.Status == http.StatusPermanentRedirect
}

// takesGET reports whether r is the route of its host and path that gets GET.
func (c Config) takesGET(r Route) bool {
	if len(r.Methods) > 0 {
		return slices.Contains(r.Methods, http.MethodGet) || slices.Contains(r.Methods, http.MethodHead)
	}
	return !slices.ContainsFunc(c.Routes, func(other Route) bool {
		return other.Host == r.Host && other.Path == r.Path && slices.Contains(other.Methods, http.MethodGet)
	})
}

// handler returns what answers the requests of a route with that path. Where it sends a client is
// never more for the client to choose than what follows a path of the file: neither host nor
// scheme.
func (d *Redirect) handler(path string) http.Handler {
	to, fragment, fragments := strings.Cut(d.To, "#")
	to, query, queries := strings.Cut(to, "?")
	to, star := strings.CutSuffix(to, "/*")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		location, asked := to, query
		if star {
			// Dots would lead out of what the file says, and a slash at the beginning would make a
			// host of the rest where the file says "/*".
			rest, _ := cutPath(withoutDots(r.URL.EscapedPath()), path)
			location += "/" + strings.TrimLeft(rest, "/\\")
		}
		if !queries {
			asked = r.URL.RawQuery
		}
		if asked != "" {
			location += "?" + encodeRest(asked)
		}
		if fragments {
			location += "#" + fragment
		}
		balancer.Refuse(w, r, func(w http.ResponseWriter) {
			w.Header().Set("Location", location)
			w.WriteHeader(d.Status)
		})
	})
}

// encodeRest encodes what may not stand in a query, which a client has sent as it is.
func encodeRest(query string) string {
	var b strings.Builder
	for i := range len(query) {
		if c := query[i]; c == '#' || notInURL(rune(c)) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// cutPath removes prefix, which is decoded, from the beginning of an encoded path, and reports
// whether it was there. An encoded slash is none.
func cutPath(encoded, prefix string) (rest string, ok bool) {
	for i := range len(prefix) {
		if encoded == "" {
			return "", false
		}
		c, n := encoded[0], 1
		if c == '%' && len(encoded) > 2 {
			plain, err := url.PathUnescape(encoded[:3])
			if err != nil || plain == "/" {
				return "", false
			}
			c, n = plain[0], 3
		}
		if c != prefix[i] {
			return "", false
		}
		encoded = encoded[n:]
	}
	return encoded, true
}
