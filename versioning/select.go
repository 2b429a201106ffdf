package versioning

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/trivet-go/trivet/internal/settings"
)

// Select returns a handler that lets a handler for each version answer. handlers has one for each
// of [Config].Versions, by its name; the error names those that are missing or too many. Where the
// path names the version, the handlers get it without that segment. Requests that [Config].Skip
// names go to the head version's handler. If no [Versions.Resolve] is around it, Select resolves by
// itself. It panics if one of handlers is nil.
func (v *Versions) Select(handlers map[string]http.Handler) (http.Handler, error) {
	f := settings.Of("versioning", "Select")
	list := make([]http.Handler, len(v.versions))
	for i := range v.versions {
		name := v.versions[i].Name
		h, ok := handlers[name]
		switch {
		case !ok:
			f.Add(name, "has no handler")
		case h == nil:
			panic("versioning: nil handler")
		}
		list[i] = h
	}
	var unknown []string
	for name := range handlers {
		if v.table.index(name) < 0 {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		f.Add(fmt.Sprint(name), "is not one of Config.Versions")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	one := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := v.scopeOf(r)
		if s == nil {
			list[v.head()].ServeHTTP(w, r)
			return
		}
		s.serve(list[s.index], w, r)
	})
	resolving := v.Resolve(one)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v.scopeOf(r) != nil {
			one(w, r)
			return
		}
		resolving.ServeHTTP(w, r)
	}), nil
}

// serve lets next answer r, without the segment of the path that names the version.
func (s *scope) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	if s.prefix == "" || s.isCut {
		next.ServeHTTP(w, r)
		return
	}
	x := strip(s, w, r)
	defer func() { r.Pattern = x.request.Pattern }()
	next.ServeHTTP(&x.writer, &x.request)
	x.writer.finish()
}
