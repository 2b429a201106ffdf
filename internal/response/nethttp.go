package response

import (
	"errors"
	"log"
	"net/http"
	"path"
	"reflect"
	"runtime"
	"strings"
)

// What net/http's own writers do by methods that nobody else can have or call.

// maxBytesReader is the type of what http.MaxBytesReader returns.
var maxBytesReader = reflect.TypeOf(http.MaxBytesReader(nil, nil, 0))

// begin comes before the final header goes out, with the status code that it will have. It sees to
// it that the connection is closed after a request that is too large, and that the answer does not
// wait for the rest of it: http.MaxBytesReader tells net/http's writer so by a method that only
// that has. A request is too large if its Body says so, or its handler: a reader that is not the
// request's Body cannot be seen from here.
func (r *Recorder) begin(code int) {
	if r.Status != 0 || r.request == nil || r.request.ProtoMajor != 1 || r.request.ContentLength == 0 {
		return
	}
	tooLarge := code == http.StatusRequestEntityTooLarge
	if body := r.request.Body; !tooLarge && reflect.TypeOf(body) == maxBytesReader {
		_, err := body.Read(nil) // reads nothing, but returns the error of an earlier Read
		var limit *http.MaxBytesError
		tooLarge = errors.As(err, &limit)
	}
	if tooLarge {
		r.ResponseWriter.Header().Set("Connection", "close")
	}
}

// complain tells the server's log of a header that the handler should not have sent, as net/http
// does.
func (r *Recorder) complain() {
	if r.request == nil {
		return
	}
	server, ok := r.request.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return
	}
	printf := log.Printf
	if server.ErrorLog != nil {
		printf = server.ErrorLog.Printf
	}
	caller := handlersFrame()
	printf("http: superfluous response.WriteHeader call from %s (%s:%d)",
		caller.Function, path.Base(caller.File), caller.Line)
}

// handlersFrame returns the frame of the handler that called WriteHeader, perhaps through net/http
// and the WriteHeader of other writers around this one.
func handlersFrame() (frame runtime.Frame) {
	pc := make([]uintptr, 32)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)])
	for more := true; more; {
		frame, more = frames.Next()
		if !strings.HasSuffix(frame.Function, ".WriteHeader") &&
			!strings.HasPrefix(frame.Function, "net/http.") {
			break
		}
	}
	return frame
}
