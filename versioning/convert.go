package versioning

import "net/http"

func (v *Versions) Convert(next http.Handler) http.Handler {
	if next == nil {
		panic("versioning: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := v.scopeOf(r); s != nil {
			s.serve(next, w, r)
		} else {
			next.ServeHTTP(w, r)
		}
	})
}

type Change struct{}
