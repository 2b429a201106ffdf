package telemetry

import (
	"context"
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
// Where Routes are nested, the innermost one that knows a route counts.
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
	var route string
	x.tel.guard(func() { route = x.tel.routeOf(r) })
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.route == "" {
		x.route = route
	}
}

// findRoute returns the route of x, or "".
func (x *exchange) findRoute() string {
	x.mu.Lock()
	route := x.route
	x.mu.Unlock()
	if route == "" {
		route = x.tel.routeOf(x.request)
	}
	return route
}

// routeOf returns the route that is known of r.
func (t *Telemetry) routeOf(r *http.Request) string {
	if t.cfg.RouteFunc != nil {
		if route := t.cfg.RouteFunc(r); route != "" {
			return clip(route, maxRoute)
		}
	}
	return clip(patternPath(r.Pattern), maxRoute)
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
	return context.WithValue(ctx, templateKey{}, clip(template, maxRoute))
}
