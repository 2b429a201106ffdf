package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// isGRPC reports whether a request with that header speaks gRPC. gRPC-Web, whose name begins in the
// same way, is another protocol.
func isGRPC(h http.Header) bool {
	const name = "application/grpc"
	media := h.Get("Content-Type")
	return len(media) >= len(name) && strings.EqualFold(media[:len(name)], name) &&
		(len(media) == len(name) || strings.IndexByte("+; ", media[len(name)]) >= 0)
}

// grpcStatus returns the status of gRPC that says the same as a refusal of HTTP. Where the table of
// gRPC's own clients for foreign answers (doc/http-grpc-status-mapping.md) knows no more than the
// status, this one says which of the gateway's refusals it can be.
func grpcStatus(status int) int {
	switch status {
	case http.StatusBadRequest:
		return 3 // INVALID_ARGUMENT
	case http.StatusUnauthorized:
		return 16 // UNAUTHENTICATED
	case http.StatusForbidden:
		return 7 // PERMISSION_DENIED
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusNotImplemented:
		return 12 // UNIMPLEMENTED: no route, or a version that has ended
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return 4 // DEADLINE_EXCEEDED
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests,
		http.StatusRequestHeaderFieldsTooLarge:
		return 8 // RESOURCE_EXHAUSTED: clients do not repeat it, as they do UNAVAILABLE
	case http.StatusInternalServerError:
		return 13 // INTERNAL
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// passedOn marks the header of an upstream's answer. It is no name of a field, so nobody can send
// it.
const passedOn = "passed on"

// A grpcWriter turns the refusals of the gateway into such that a client of gRPC understands: what
// telemetry, before it, has seen as 503 goes out as 200 with a grpc-status. It leaves alone what an
// upstream has answered, which modifyResponse has marked.
type grpcWriter struct {
	http.ResponseWriter
	http1  bool
	begun  bool // a final header has been passed on
	status int  // of a refusal
	sent   bool // the refusal has been: what follows of its document goes nowhere
}

// Unwrap lets http.ResponseController find what else the writer can.
func (w *grpcWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *grpcWriter) WriteHeader(status int) {
	_, passed := w.Header()[passedOn]
	delete(w.Header(), passedOn)
	switch {
	case w.status != 0: // one too many
	case status >= 400 && !passed && !w.begun:
		w.status = status
	default:
		w.begun = w.begun || status >= 200
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *grpcWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.begun = true
		return w.ResponseWriter.Write(p)
	}
	w.refuse(p)
	return len(p), nil
}

// FlushError flushes. Of a refusal over HTTP/2, header and end must leave in one frame, so it is
// left to the end of the handler.
func (w *grpcWriter) FlushError() error {
	if w.status != 0 {
		if w.refuse(nil); !w.http1 {
			return nil
		}
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// end sends a refusal that has no document. It must be called when the handler has returned.
func (w *grpcWriter) end() {
	if w.status != 0 {
		w.refuse(nil)
	}
}

// refuse sends the refusal, with the text of its problem document.
func (w *grpcWriter) refuse(document []byte) {
	if w.sent {
		return
	}
	w.sent = true
	var said struct{ Title, Detail string }
	_ = json.Unmarshal(document, &said) // without one the status says enough
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Content-Length", "0")
	h.Set("Grpc-Status", strconv.Itoa(grpcStatus(w.status)))
	h.Set("Grpc-Message", percentEncoded(cmp.Or(said.Detail, said.Title, http.StatusText(w.status))))
	w.ResponseWriter.WriteHeader(http.StatusOK)
}

// percentEncoded returns text in the form that grpc-message has (gRPC over HTTP2, "Responses").
func percentEncoded(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
