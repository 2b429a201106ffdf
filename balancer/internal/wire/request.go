package wire

import (
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"reflect"
	"strings"
)

// maxBody is the largest body of a request that is written before anything is read. A server that
// answers without reading it must not block the write: what the kernel keeps for a connection is
// more.
const maxBody = 64 << 10

// simple reports whether r is one of the requests that Transport takes itself: nothing in it asks
// for more than to be written and answered. Whatever net/http would refuse, it is left to.
func simple(r *http.Request) bool {
	if r.URL == nil || r.URL.Scheme != "http" || r.URL.Host == "" || r.Header == nil || r.Close ||
		r.Method == http.MethodConnect || !token(r.Method) ||
		len(r.Trailer) > 0 || len(r.TransferEncoding) > 0 {
		return false
	}
	//lint:ignore SA1019 it still counts
	if r.Cancel != nil {
		return false
	}
	if r.Body != nil && r.Body != http.NoBody &&
		(r.ContentLength <= 0 || r.ContentLength > maxBody || !inMemory(r)) {
		return false
	}
	for name, values := range r.Header {
		switch name {
		case "Upgrade", "Expect", "Connection", "Te", "Trailer", "Transfer-Encoding":
			return false
		}
		if !token(name) || name == "" {
			return false
		}
		for _, v := range values {
			if !plain(v) {
				return false
			}
		}
	}
	return true
}

// token reports whether s has no other characters than a token may have (RFC 9110, section 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || !tokens[c] {
			return false
		}
	}
	return true
}

var tokens = func() (t [0x80]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" {
		t[c] = true
	}
	return t
}()

// plain reports whether s has no control characters other than tabs, as field values must.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

var memoryBodies = [...]reflect.Type{
	reflect.TypeOf(io.NopCloser(struct{ io.Reader }{})), reflect.TypeOf(io.NopCloser(&bytes.Reader{})),
}

// inMemory reports whether the body of r is there in full: it is one of those that http.NewRequest
// knows, which also have GetBody.
func inMemory(r *http.Request) bool {
	if r.GetBody == nil {
		return false
	}
	t := reflect.TypeOf(r.Body)
	return t == memoryBodies[0] || t == memoryBodies[1]
}

// outgoing returns r as it is written: with a field that asks for gzip, if net/http would add it.
func (t *Transport) outgoing(r *http.Request) *http.Request {
	if t.base.DisableCompression || r.Header.Get("Accept-Encoding") != "" || r.Header.Get("Range") != "" ||
		r.Method == http.MethodHead {
		return r
	}
	out := *r // a transport must not change its request
	out.Header = make(http.Header, len(r.Header)+1)
	for name, values := range r.Header {
		out.Header[name] = values
	}
	out.Header["Accept-Encoding"] = askGzip
	return &out
}

// askGzip marks the requests that outgoing has changed: nobody else has this slice.
var askGzip = []string{"gzip"}

// asksGzip reports whether outgoing, and not its caller, asks for gzip in r.
func asksGzip(base *http.Transport, r *http.Request) bool {
	if base.DisableCompression {
		return false
	}
	v := r.Header["Accept-Encoding"]
	return len(v) == 1 && &v[0] == &askGzip[0]
}

// rewound returns r with its body from the beginning.
func rewound(r *http.Request) (*http.Request, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	again, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	out := *r
	out.Body = again
	return &out, nil
}

// mayRepeat reports whether r, which failed on a connection that had been idle, may be sent again:
// no byte of it was sent, or it may be repeated and none of a response came.
func (c *conn) mayRepeat(r *http.Request, err error) bool {
	if c.answered || err == (timeoutError{}) {
		return false
	}
	if c.written == 0 {
		return c.writeErr != nil
	}
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, keyed := r.Header["Idempotency-Key"]
	_, keyedToo := r.Header["X-Idempotency-Key"]
	return keyed || keyedToo
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

func mime(h http.Header) textproto.MIMEHeader { return textproto.MIMEHeader(h) }

func isGzip(resp *http.Response) bool {
	return strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip")
}
