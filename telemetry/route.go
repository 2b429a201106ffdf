package telemetry

import (
	"context"
	"net/http"
	"strings"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// Route returns a handler that tells the enclosing [Telemetry.Middleware] by which route next
// served a request. Middleware finds the pattern of a ServeMux by itself as long as the mux gets
// the same *http.Request. It needs Route if something between the two copies the request, as every
// middleware does that adds to the context:
//
//	t.Middleware(authenticate(telemetry.Route(mux)))
//
// [Config.RouteFunc], if set, is called here, with the request that next got. So for chi,
// r.Use(telemetry.Route) lets it find the pattern wherever Middleware is.
//
// Where Routes are nested, the innermost one that knows a route counts. The pattern of the outer
// one is put in front of it if [http.StripPrefix] removed the part of the path that it matched.
// Route panics if next is nil.
func Route(next http.Handler) http.Handler {
	if next == nil {
		panic("telemetry: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ex := exchangeFrom(r.Context())
		if ex == nil {
			next.ServeHTTP(w, r)
			return
		}
		ex.mu.Lock()
		ex.inner = r
		ex.mu.Unlock()
		defer func() { ex.setRoute(r) }() // also on panic
		next.ServeHTTP(w, r)
	})
}

func (ex *exchange) setRoute(r *http.Request) {
	route := ex.tel.routeOf(r)
	ex.mu.Lock()
	defer ex.mu.Unlock()
	if ex.route == "" {
		ex.route, ex.routePath = route, r.URL.Path
	} else {
		ex.mountLocked(r.URL.Path, route)
	}
}

// findRoute returns the route of x, or "".
func (ex *exchange) findRoute() string {
	ex.mu.Lock()
	found := ex.route != ""
	ex.mu.Unlock()
	if !found {
		return ex.tel.routeOf(ex.request)
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.mountLocked(ex.path, patternPath(ex.request.Pattern))
	return ex.route
}

// mountLocked prepends to the route the part of the outer pattern that http.StripPrefix removed: a
// route has all static segments (conventions, http.route). path is what the outer pattern matched.
// It takes the pattern's words and not the bytes that were removed, which are a stranger's. The two
// correspond if they have as many segments.
func (ex *exchange) mountLocked(path, pattern string) {
	subtree := strings.HasSuffix(pattern, "/") || strings.HasSuffix(pattern, "...}")
	stripped, ok := strings.CutSuffix(path, ex.routePath)
	if !subtree || !ok || stripped == "" {
		return
	}
	prefix := pattern[:strings.LastIndexByte(pattern, '/')]
	if strings.Count(prefix, "/") == strings.Count(stripped, "/") && !strings.HasSuffix(stripped, "/") {
		ex.route, ex.routePath = redact.Valid(prefix+ex.route, maxRoute), path
	}
}

// routeOf returns the route that RouteFunc knows of r, otherwise that of its Pattern; "" for none.
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

// patternPath returns the path of a ServeMux pattern, "[METHOD ][HOST]/[PATH]". The method has an
// attribute of its own, and http.route has no host.
func patternPath(pattern string) string {
	if i := strings.IndexByte(pattern, '/'); i >= 0 {
		return pattern[i:]
	}
	return pattern
}

type templateKey struct{}

// WithURLTemplate returns a context that names the target of requests made with it, such as
// /users/{id}, for the span names and metrics of [Telemetry.Transport]. There must be few
// templates: each is a series.
func WithURLTemplate(ctx context.Context, template string) context.Context {
	return context.WithValue(ctx, templateKey{}, redact.Valid(template, maxRoute))
}
