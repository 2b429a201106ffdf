package main

import (
	"maps"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/trivet-go/trivet/balancer"
)

// validAuthority reports whether host is an authority (RFC 3986, section 3.2) without user
// information. An empty one is valid and stands for the default host (RFC 9112, section 3.3).
func validAuthority(host string) bool {
	port := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
		if host == "" {
			return false
		}
	}
	if port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return ok && err == nil && ip.Is6() && ip.Zone() == ""
	}
	return !strings.ContainsFunc(host, func(r rune) bool { return !inName(r) })
}

// inName reports whether r may stand in a name (RFC 3986, section 3.2.2). A percent sign may not: a
// server could decode it, as no route does.
func inName(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		strings.ContainsRune("-._~!$&'()*+,;=", r)
}

// plainPath returns a decoded path as the most lenient server would read it: with backslashes as
// slashes and without parameters. serve refuses a path that reads as another route's this way,
// since it would get around that route's limits.
func plainPath(p string) string {
	segments := strings.Split(strings.ReplaceAll(p, "\\", "/"), "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return cleanPath(strings.Join(segments, "/"))
}

// routedHost returns host as routes compare it and as upstreams get it: in lower case and without a
// final dot (RFC 9110, section 4.2.3; RFC 3986, section 3.2.2). It keeps the port.
func routedHost(host string) string {
	host = strings.ToLower(host)
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		name, port = host[:i], host[i:]
	}
	return strings.TrimSuffix(name, ".") + port
}

// route returns the handler for r's host and path, and the pattern that matched. Host names are
// compared without case, port and final dot.
//
// A path that is not clean is looked up as the clean one. If every way to read it leads to the same
// route, it goes on as it is: a path may hold a URL, and to some servers an empty segment is a
// name. Otherwise the client is sent to the clean one, so that the upstream cannot see another
// route's path in it.
func (gen *generation) route(r *http.Request) (h http.Handler, pattern string) {
	lookup := *r
	lookup.Host = routedHost(r.Host)
	if strings.Contains(lookup.Host, ":") { // an error costs an allocation
		if host, _, err := net.SplitHostPort(lookup.Host); err == nil {
			lookup.Host = strings.TrimSuffix(host, ".")
		}
	}
	escaped := r.URL.EscapedPath()
	clean := cleanPath(escaped)
	if clean != escaped {
		// ServeMux would redirect here, too, but encode the path twice: "//a%20b" as "/a%2520b".
		plain, _ := url.PathUnescape(clean)
		lookup.URL = &url.URL{Path: plain, RawPath: clean, RawQuery: r.URL.RawQuery}
	}
	h, pattern = gen.find(&lookup)
	if pattern == "" {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			refuse(w, r, http.StatusNotFound, "no route for this host and path")
		}), ""
	}
	switch {
	case clean == escaped || escaped == "": // the empty path is "/" (RFC 9110, section 4.2.3)
	case gen.cfg.literally(lookup.Host, r.URL.Path) == pattern &&
		gen.cfg.literally(lookup.Host, withoutDots(r.URL.Path)) == pattern:
	default:
		h = http.RedirectHandler(lookup.URL.String(), http.StatusTemporaryRedirect)
	}
	if _, ok := h.(methods); !ok { // a redirect of this function, or of ServeMux to the path with a slash
		to := h
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			balancer.Refuse(w, r, func(w http.ResponseWriter) { to.ServeHTTP(w, r) })
		})
	}
	return h, pattern
}

// find looks up a request whose path is clean and whose host is one that routes can have. Routes
// with the host itself go first, then those with the longest name behind a star.
func (gen *generation) find(r *http.Request) (h http.Handler, pattern string) {
	h, pattern = gen.routes.Handler(r)
	if len(gen.wildcards) == 0 || pattern != "" && pattern[0] != '/' {
		return h, pattern
	}
	for i := 1; i < len(r.Host); i++ {
		// A client may send any number of dots, so what is too long for a name is not looked up.
		if r.Host[i] != '.' || len(r.Host)-i > gen.longestWildcard {
			continue
		}
		wildcard, ok := gen.wildcards[r.Host[i:]]
		if !ok {
			continue
		}
		named := *r
		named.Host = wildcard
		if h, pattern := gen.routes.Handler(&named); pattern != "" && pattern[0] == '*' {
			return h, pattern
		}
	}
	return h, pattern
}

// noteHost prepares find for a route's host.
func (gen *generation) noteHost(host string) {
	if suffix, ok := strings.CutPrefix(host, "*"); ok {
		gen.wildcards[suffix] = host
		gen.longestWildcard = max(gen.longestWildcard, len(suffix))
	}
}

// hostRank returns how well the host of a route fits that of a request: not at all (-1), as any
// does (0), by a star, the longer the better, or as the same name.
func hostRank(route, host string) int {
	suffix, wild := strings.CutPrefix(route, "*")
	switch {
	case route == "":
		return 0
	case route == host:
		return math.MaxInt
	case wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix):
		return len(suffix)
	}
	return -1
}

// literally returns the pattern of the route that takes a path as it is spelt, or "".
func (c Config) literally(host, path string) string {
	best, rank := -1, -1
	for i, r := range c.Routes {
		below := strings.HasSuffix(r.Path, "/") && strings.HasPrefix(path, r.Path)
		if !below && path != r.Path {
			continue
		}
		n := hostRank(r.Host, host)
		if n > rank || n >= 0 && n == rank && len(r.Path) > len(c.Routes[best].Path) {
			best, rank = i, n
		}
	}
	if best < 0 {
		return ""
	}
	return c.Routes[best].Host + c.Routes[best].Path
}

// withoutDots returns p without dot segments (RFC 3986, section 5.2.4). Empty segments stay.
func withoutDots(p string) string {
	var kept []string
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	for i, s := range segments {
		switch s {
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
			fallthrough
		case ".":
			if i == len(segments)-1 {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, s)
		}
	}
	return "/" + strings.Join(kept, "/")
}

// cleanPath returns p without empty and dot segments.
func cleanPath(p string) string {
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// label returns the name of the route for people and in metrics: "GET,PUT api.example.com/users/".
func (r Route) label() string {
	return strings.TrimSpace(strings.Join(r.Methods, ",") + " " + r.Host + r.Path)
}

// keys returns the combinations of host, path and method that the route takes. No two routes may
// share one.
func (r Route) keys() []string {
	if len(r.Methods) == 0 {
		return []string{r.Host + r.Path}
	}
	var keys []string
	for _, m := range r.Methods {
		keys = append(keys, m+" "+r.Host+r.Path)
	}
	return keys
}

// methods are the routes that share a host and path, by method. The route of "" gets the other
// methods.
type methods map[string]http.Handler

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := m[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = m[http.MethodGet]
	}
	if h == nil {
		h = m[""]
	}
	if h == nil {
		allow := slices.Collect(maps.Keys(m))
		if m[http.MethodGet] != nil && m[http.MethodHead] == nil {
			allow = append(allow, http.MethodHead)
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		refuse(w, r, http.StatusMethodNotAllowed, "this path does not take "+methodForHumans(r.Method))
		return
	}
	h.ServeHTTP(w, r)
}

// methodForHumans returns the name of a method for an error: clients choose it, of any length.
func methodForHumans(m string) string {
	if len(m) > 20 {
		return "this method"
	}
	return m
}
