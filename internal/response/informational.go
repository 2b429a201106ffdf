package response

import "net/http"

// Inform sends the informational (1xx) response code with the fields of w's header, which the
// caller may change when Inform has returned.
//
// That is not so with WriteHeader alone. When an HTTP/2 client resets the stream, net/http's
// WriteHeader returns while another goroutine still reads the header: a write to it then ends the
// process. net/http makes itself a copy if there is a Content-Length, which it leaves out of
// informational responses (RFC 9110, section 8.6).
func Inform(w http.ResponseWriter, code int) {
	h := w.Header()
	if _, ok := h["Content-Length"]; !ok {
		h["Content-Length"] = nil
		defer delete(h, "Content-Length")
	}
	w.WriteHeader(code)
}
