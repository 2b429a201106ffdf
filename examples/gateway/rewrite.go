package main

import (
	"cmp"
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/trivet-go/trivet/telemetry"
)

// strip returns r without the upstream's strip_prefix at the beginning of its path. A path that
// begins with something else stays.
func (u *upstream) strip(r *http.Request) *http.Request {
	if u.cfg.StripPrefix == "" {
		return r
	}
	path := r.URL.EscapedPath()
	if strings.Contains(path, "/.") {
		path = withoutDots(path) // as the balancer's Handler reads it
	}
	rest, ok := cutPath(path, u.cfg.StripPrefix)
	if !ok || rest != "" && rest[0] != '/' {
		return r
	}
	rest = cmp.Or(rest, "/")
	plain, err := url.PathUnescape(rest)
	if err != nil {
		return r // cannot happen: it is part of what has been encoded well
	}
	stripped := r.WithContext(context.WithValue(r.Context(), strippedKey{}, true))
	stripped.URL = new(url.URL)
	*stripped.URL = *r.URL
	stripped.URL.Path, stripped.URL.RawPath = plain, rest
	return stripped
}

// strippedKey marks requests whose paths have lost strip_prefix.
type strippedKey struct{}

// prefixField tells an upstream what its paths have lost, for the links and redirects that it
// makes.
const prefixField = "X-Forwarded-Prefix"

// rewrite gives the request to the upstream its host, the changes of its route, and the gateway's
// id and trace. The balancer's Handler has already removed the forwarding fields of peers that are
// not trusted.
func (u *upstream) rewrite(r *httputil.ProxyRequest) {
	if u.cfg.Host != "" {
		r.Out.Host = u.cfg.Host
	}
	h := r.Out.Header
	e := editOf(r.In.Context())
	e.drop(r.Out.Trailer)
	if u.cfg.Sticky == nil { // else the host is not chosen yet: see edit
		e.apply(h)
	}
	if r.In.Context().Value(strippedKey{}) != nil {
		prefix := strings.TrimSuffix(h.Get(prefixField), "/") // of a trusted proxy that has removed one
		h.Set(prefixField, prefix+(&url.URL{Path: u.cfg.StripPrefix}).EscapedPath())
	}
	for name := range h {
		if name != requestID && spells(name, requestID) {
			delete(h, name)
		}
	}
	// The gateway's own trace goes on: telemetry's transport adds its context. A client's trace and
	// baggage end here.
	for _, name := range [...]string{"Traceparent", "Tracestate", "Baggage"} {
		delete(h, name)
	}
	h.Set(requestID, telemetry.RequestID(r.In.Context()))
}

// spells reports whether a server could take name for field. CGI reads underscores as hyphens, and
// some servers read any sign as a hyphen.
func spells(name, field string) bool {
	return len(name) == len(field) && strings.EqualFold(strings.Map(hyphen, name), field)
}

// hyphen returns a hyphen unless r is a letter or digit.
func hyphen(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}
