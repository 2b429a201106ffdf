package balancer

import (
	"net/http"

	"github.com/trivet-go/trivet/internal/linger"
)

// Refuse lets write answer r before its body has been read, and sees to it that the client gets the
// answer: if a connection is closed while data of the client's lies unread, it is reset, and the
// reset may overtake the answer. So after an answer to a large upload the connection is read on for
// up to 30 s and 64 MiB, on a goroutine of its own, and closed. Handlers in front of a
// [Balancer.Handler] answer with it; a Handler itself needs no help.
func Refuse(w http.ResponseWriter, r *http.Request, write func(w http.ResponseWriter)) {
	linger.Answer(w, r, write)
}

// isEarly reports whether the answer comes before the request has ended, and the client could miss
// it, or the server the rest of the request, if nothing were done about it.
//
// net/http reads the rest of a small body before it writes the header, and the transport, which
// then finds none, closes its connection. That is well if the answer is a refusal that is here
// already. Of a body that the server still reads it would take away, and a refusal that ends when
// the server says so would be cut.
func (x *exchange) isEarly() bool {
	return x.upload != nil && !x.upload.ended.Load() && x.in.ProtoMajor == 1 &&
		(x.resp.StatusCode < 300 || x.resp.ContentLength < 0 || linger.Needed(x.in))
}

// finishEarly closes the connection after an early answer, if the request has still not ended.
func (x *exchange) finishEarly() {
	if x.upload.ended.Load() {
		return
	}
	x.upload.close()
	whole := x.w.Header()["Content-Length"] != nil || !hasBody(x.in, x.resp) || !x.in.ProtoAtLeast(1, 1)
	if whole && http.NewResponseController(x.w).Flush() == nil && linger.Close(x.w) {
		x.upload.await()
		return
	}
	linger.Read(x.w, x.rest()) // the end of the answer is written when the handler has returned
}

// refuse lets write answer instead of a server, and brings the answer to a client that still sends.
func (x *exchange) refuse(write func(w http.ResponseWriter)) {
	x.closeAfterHTTP10()
	switch {
	case x.upload == nil && x.out != nil, x.upload != nil && x.upload.ended.Load():
		write(x.w)
		return
	case x.upload != nil:
		x.upload.close()
	}
	linger.Answer(x.w, x.rest(), write)
	if x.upload != nil && linger.Needed(x.in) {
		x.upload.await()
	}
}

// rest returns the client's request as linger reads on in it: after Reads of the transport's.
func (x *exchange) rest() *http.Request {
	if x.upload == nil {
		return x.in
	}
	r := *x.in
	r.Body = restOfUpload{x.upload}
	return &r
}

// closeAfterHTTP10 makes net/http close the connection after an HTTP/1.0 request that may have had
// a body. net/http has dropped a Transfer-Encoding from it: where the next request begins is not
// known. RFC 9112, section 6.1 has it closed after a GET or HEAD with one, too. That is not told
// from one without, of clients that mean to keep their connection: it is kept.
func (x *exchange) closeAfterHTTP10() {
	if x.in.ProtoMajor == 1 && x.in.ProtoMinor == 0 && (x.in.ContentLength != 0 ||
		x.in.Method != http.MethodGet && x.in.Method != http.MethodHead) {
		x.w.Header().Set("Connection", "close")
	}
}
