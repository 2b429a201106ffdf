package main

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// A Route sends requests to an upstream. As in http.ServeMux the most specific host decides, then
// the most specific path, in whatever order the routes stand; among routes that share both, the
// method decides.
type Route struct {
	// Host is "api.example.com", or "*.example.com" for all names of one label or more before that.
	// Of several, the name itself decides, then the longest; if empty, any.
	Host string `yaml:"host"`

	Path string `yaml:"path"` // "/users/" includes all paths below it, "/users" is only that path; "/"

	// Methods are the methods of the route; GET includes HEAD. If empty, the route gets the methods
	// that no other route with its host and path names.
	Methods []string `yaml:"methods"`

	Upstream string    `yaml:"upstream"` // required, unless there are versions or a redirect
	Redirect *Redirect `yaml:"redirect"` // answers instead of an upstream; none
	Timeout  Duration  `yaml:"timeout"`  // for the whole exchange; no limit

	StallTimeout Timeout `yaml:"stall_timeout"` // instead of the server's
	MaxBody      Size    `yaml:"max_body"`      // instead of the server's; may be more

	Versions *Versions   `yaml:"versions"` // of an API, each with an upstream of its own; none
	Cache    *RouteCache `yaml:"cache"`    // answers what it may from memory; none
	Rollout  *Rollout    `yaml:"rollout"`  // tries a new release on some of the requests; none
	Shadow   *Shadow     `yaml:"shadow"`   // sends copies of requests to another upstream; none

	Limits      []string `yaml:"limits"`      // names of limits; a request must keep all of them
	Concurrency int      `yaml:"concurrency"` // requests in flight at once, more get 503; no limit

	Headers Headers `yaml:"headers"` // changes of the headers of requests and answers; none
}

func (r Route) withDefaults(i int, c Config, f *faults) Route {
	at := func(path ...any) []any { return append([]any{"routes", i}, path...) }
	f.duration(&r.Timeout, 0, at("timeout")...)
	f.timeout(&r.StallTimeout, time.Duration(c.Server.StallTimeout), at("stall_timeout")...)
	f.size(&r.MaxBody, c.Server.MaxBody, at("max_body")...)
	if r.Path == "" {
		r.Path = "/"
	}
	// http.ServeMux would take braces and spaces for a pattern. It cleans a request's path, so that
	// an unclean route would never match.
	clean := path.Clean(r.Path)
	if r.Path != "/" && strings.HasSuffix(r.Path, "/") {
		clean += "/"
	}
	if prefix, ok := strings.CutSuffix(r.Path, "/*"); ok {
		f.add(fmt.Sprintf("%q is only that path: write %q for all paths below it", r.Path, prefix+"/"),
			at("path")...)
	} else if clean != r.Path || r.Path[0] != '/' || strings.ContainsAny(r.Path, "{} ?#%") ||
		strings.ContainsFunc(r.Path, unicode.IsControl) {
		f.add(fmt.Sprintf("%q is not a clean path that begins with a slash", r.Path), at("path")...)
	}
	r.Host = strings.ToLower(r.Host)
	if name := strings.TrimPrefix(r.Host, "*."); r.Host != "" && !hostName.MatchString(name) {
		text := fmt.Sprintf("%q is not a host name without port and final dot, in ASCII", r.Host)
		if url := schemeFault(r.Host, "a host name"); url != "" {
			text = url
		} else if r.Host == "*" {
			text += ": a star stands only for whole labels at the beginning, as in *.example.com. " +
				"For all hosts leave it out"
		} else if strings.Contains(name, "*") {
			text += ": a star stands only for whole labels at the beginning, as in *.example.com"
		}
		f.add(text, at("host")...)
	}
	r.Methods = slices.Clone(r.Methods)
	for j, m := range r.Methods {
		if strings.EqualFold(m, "ANY") || strings.EqualFold(m, "ALL") {
			f.add(fmt.Sprintf("%q is not a method: for all methods leave the key methods out", m),
				at("methods", j)...)
		} else if !fieldName.MatchString(m) || m != strings.ToUpper(m) || m == http.MethodConnect {
			f.add(fmt.Sprintf("%q is not a method such as GET; CONNECT cannot be proxied", m),
				at("methods", j)...)
		}
	}
	if r.Redirect != nil {
		redirect := *r.Redirect
		r.Redirect = &redirect
		redirect.check(r, f, at("redirect")...)
	} else if r.Versions != nil {
		r.Versions.check(r, c.Upstreams, f, at("versions")...)
	} else if _, ok := c.Upstreams[r.Upstream]; !ok {
		f.add(fmt.Sprintf("%q is not one of the upstreams: %s", r.Upstream, names(c.Upstreams)),
			at("upstream")...)
	}
	if r.Cache != nil {
		r.Cache.check(f, at("cache")...)
	}
	if r.Rollout != nil {
		r.Rollout.check(r, c, f, at("rollout")...)
	}
	if r.Shadow != nil {
		r.Shadow.check(r, c.Upstreams, f, at("shadow")...)
	}
	r.Limits = slices.Clone(r.Limits)
	if len(r.Limits) > maxLimits {
		f.add(fmt.Sprintf("has more than %d", maxLimits), at("limits")...)
	}
	for j, name := range r.Limits {
		l, ok := c.Limits[name]
		first := c.Limits[r.Limits[0]]
		switch {
		case !ok:
			f.add(fmt.Sprintf("%q is not one of the limits: %s", name, names(c.Limits)), at("limits", j)...)
		case slices.Contains(r.Limits[:j], name):
			f.add(fmt.Sprintf("%q stands here twice", name), at("limits", j)...)
		case l.Store != first.Store && first.Store != "":
			f.add(fmt.Sprintf("%q counts in %s, but %q in %s: "+
				"those of one route are decided together, so in one store",
				name, l.Store, r.Limits[0], first.Store), at("limits", j)...)
		}
	}
	r.Headers.check(c.Server, f, at("headers")...)
	if r.Concurrency < 0 {
		f.add("must be positive", at("concurrency")...)
	}
	return r
}
