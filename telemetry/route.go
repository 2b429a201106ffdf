package telemetry

import (
	"context"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
	"net/http"
	"strings"
)

// Route returns a handler that tells the enclosing [Telemetry.Middleware] by which route next
// served a request. Middleware finds the pattern of a ServeMux by itself as long as it gets the same
// *http.Request; it needs Route if something between the two copies the request, as
// every middleware does that adds to the context:
//
//	t.Middleware(authenticate(telemetry.Route(mux)))
//
// With [Config.RouteFunc] it is called here, with the request that next got. So for chi,
// r.Use(telemetry.Route) lets it find the pattern wherever Middleware is.
// Where Routes are nested, the innermost one that knows a route counts, with the pattern of the outer one in front if
// [http.StripPrefix] took what it stands for.
func Route(next http.Handler) http.Handler {
	if next == nil {
		panic("telemetry: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeFrom(r.Context())
		if x == nil {
			next.ServeHTTP(w, r)
			return
		}
		defer func() { x.setRoute(r) }() // also on panic
		next.ServeHTTP(w, r)
	})
}

func (x *exchange) setRoute(r *http.Request) {
	route := x.tel.routeOf(r)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.route == "" {
		x.route, x.below = route, r.URL.Path
	} else {
		x.mountLocked(r.URL.Path, route)
	}
}

// findRoute returns the route of x, or "".
func (x *exchange) findRoute() string {
	x.mu.Lock()
	found := x.route != ""
	x.mu.Unlock()
	if !found {
		return x.tel.routeOf(x.request)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mountLocked(x.path, patternPath(x.request.Pattern))
	return x.route
}

// mountLocked puts what was stripped from path on the way to the route in front of it, in the words of the outer pattern: a
// route has all static segments (conventions, http.route). The bytes that were stripped are a stranger's. They and the pattern
// are the same if both have as many segments.
func (x *exchange) mountLocked(path, pattern string) {
	subtree := strings.HasSuffix(pattern, "/") || strings.HasSuffix(pattern, "...}")
	stripped, ok := strings.CutSuffix(path, x.below)
	if !subtree || !ok || stripped == "" {
		return
	}
	prefix := pattern[:strings.LastIndexByte(pattern, '/')]
	if strings.Count(prefix, "/") == strings.Count(stripped, "/") && !strings.HasSuffix(stripped, "/") {
		x.route, x.below = redact.Valid(prefix+x.route, maxRoute), path
	}
}

// routeOf returns the route that is known of r.
func (t *Telemetry) routeOf(r *http.Request) string {
	route := ""
	if t.cfg.RouteFunc != nil {
		t.guard(func() { route = t.cfg.RouteFunc(r) })
	}
	if route == "" {
		route = patternPath(r.Pattern)
	}
	return redact.Valid(route, maxRoute)
}

// patternPath returns the path of a ServeMux pattern, "[METHOD ][HOST]/[PATH]". The method has an attribute
// of its own, and http.route has no host.
func patternPath(pattern string) string {
	if i := strings.IndexByte(pattern, '/'); i >= 0 {
		return pattern[i:]
	}
	return pattern
}

type templateKey struct{}

// WithURLTemplate returns a context that names the target of requests made with it, such as
// /users/{id}, for the span names and metrics of [Telemetry.Transport]. It must be low in cardinality.
func WithURLTemplate(ctx context.Context, template string) context.Context {
	return context.WithValue(ctx, templateKey{}, redact.Valid(template, maxRoute))
}
