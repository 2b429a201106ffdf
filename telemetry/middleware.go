package telemetry

import "net/http"

// Middleware returns a handler that observes each request to next. Put it outermost: what
// is outside of it, nobody sees. It panics if next is nil.
//
// A panic of next is recorded and goes on unless [Config.Panics] says otherwise;
// [http.ErrAbortHandler] always goes on. If telemetry itself fails, the request does not notice.
func (t *Telemetry) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("telemetry: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t.cfg.Skip != nil && t.skip(r) {
			next.ServeHTTP(w, r)
			return
		}
		x := t.begin(w, r)
		defer func() {
			v := recover()
			r.Pattern = x.request.Pattern // for who wrapped us and looks for it as we do
			// The frames of the first panic are still on the stack: nobody misses them.
			if again := x.end(v); again != nil {
				panic(again)
			}
		}()
		next.ServeHTTP(&x.writer, x.request)
		x.done = true
	})
}

func (t *Telemetry) skip(r *http.Request) (skip bool) {
	defer t.caught()
	return t.cfg.Skip(r)
}
