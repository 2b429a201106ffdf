package versioning

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/response"
)

// A stripped is a request without the segment of its path that names the version, and the writer
// that gives the segment back to Location and Content-Location. It is one allocation.
type stripped struct {
	request  http.Request
	url      url.URL
	writer   writer
	location location
}

// strip returns r without the prefix of s.
func strip(s *scope, w http.ResponseWriter, r *http.Request) *stripped {
	x := &stripped{request: *r, url: *r.URL}
	slashes := cut(&x.url, s.prefix)
	x.request.URL = &x.url
	x.location = location{scope: s, host: r.Host, slashes: slashes}
	x.writer = writer{Recorder: *response.NewRecorder(w, &x.request), owner: &x.location}
	return x
}

// cut removes the segment that names the version from r, a copy of the request, and lets the writer
// of s give it back.
func (s *scope) cut(r *http.Request) {
	if s.prefix == "" {
		return
	}
	u := *r.URL
	s.slashes = cut(&u, s.prefix)
	r.URL, s.isCut, s.host = &u, true, r.Host
}

// cut removes prefix, the first segment, from Path and RawPath alike. It reports whether the path
// begins with two slashes then.
func cut(u *url.URL, prefix string) (slashes bool) {
	if u.RawPath != "" {
		u.RawPath = afterPrefix(u.EscapedPath(), prefix)
	}
	u.Path = afterPrefix(u.Path, prefix)
	return strings.HasPrefix(u.Path, "//")
}

func afterPrefix(path, prefix string) string {
	path = strings.TrimPrefix(path, prefix)
	if path == "" {
		return "/"
	}
	return path
}

// A location gives the segment that names the version back.
type location struct {
	scope   *scope
	host    string // that the request was sent to
	slashes bool   // its path began with two slashes when it was cut
}

func (l location) complete(h http.Header) {
	for _, field := range [...]string{"Location", "Content-Location"} {
		if values := h[field]; len(values) == 1 {
			if given := l.giveBack(values[0]); given != values[0] {
				h[field] = []string{given}
			}
		}
	}
}

// giveBack returns target, a URL that the handler wrote, with the segment that was taken from the
// request's path. Relative targets need none: clients resolve them beside the path that they know.
// What is on another host, or names a version itself, stays.
func (l location) giveBack(target string) string {
	if l.slashes && strings.HasPrefix(target, "//") {
		// The handler redirects to the path that it got, which is no host: /v2//x was not one
		// either.
		return l.scope.prefix + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Opaque != "" || !strings.HasPrefix(u.Path, "/") {
		return target
	}
	if u.Host == "" && (u.Scheme != "" || strings.HasPrefix(target, "//")) {
		return target
	}
	if u.Host != "" && !sameHost(u.Scheme, u.Host, l.host) {
		return target
	}
	v := l.scope.versions
	for i := range v.cfg.Sources {
		if s := &v.cfg.Sources[i]; s.kind == sourcePath {
			// A segment that could be a version and is none is the start of a route, such as /404.
			text, ok := s.inSegment(firstSegment(u.Path), &v.table)
			if ok {
				if index, _ := v.table.find(text, time.Now()); index >= 0 {
					return target
				}
			}
		}
	}
	at := 0
	if u.Host != "" {
		at = strings.Index(target, "//") + 2
		at += strings.IndexByte(target[at:], '/')
	}
	return target[:at] + l.scope.prefix + target[at:]
}

// sameHost reports whether a URL with that scheme and host is on the host of a request. A scheme
// may differ: a proxy in front may be the one that speaks TLS.
func sameHost(scheme, host, requested string) bool {
	port := ":80"
	switch strings.ToLower(scheme) {
	case "https":
		port = ":443"
	case "http", "":
	default:
		return false
	}
	return strings.EqualFold(strings.TrimSuffix(host, port), strings.TrimSuffix(requested, port))
}
