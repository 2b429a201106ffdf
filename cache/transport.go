package cache

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Transport returns a RoundTripper that answers from the cache, and sends through next what the
// cache cannot. If next is nil, [http.DefaultTransport] is used.
//
// What may be stored is fetched by a request whose context has the values of the caller's and goes
// on when the caller leaves.
func (c *Cache) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{cache: c, next: next}
}

type transport struct {
	cache *Cache
	next  http.RoundTripper
}

// CloseIdleConnections is for http.Client.CloseIdleConnections.
func (t *transport) CloseIdleConnections() {
	if closer, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	c := t.cache
	if c.cfg.Skip != nil && c.cfg.Skip(r) {
		c.skipped(r)
		return t.next.RoundTrip(r)
	}
	x := exchanges.Get().(*exchange)
	defer x.release()
	why := x.begin(c, r, false)
	x.sender = t.next
	if why == ReasonNone && r.Method == methodQuery {
		if ok, err := x.readBody(); err != nil {
			r.Body.Close()
			return nil, err
		} else if !ok {
			why = ReasonTooLarge
		}
	}
	if why == ReasonNone {
		x.setKey()
		if x.answer(r.Context()) {
			return x.response(r)
		}
		why = x.rep.reason
	}
	return x.send(why)
}

// send sends a request that the cache cannot answer.
func (x *exchange) send(why Reason) (*http.Response, error) {
	r := x.r
	if x.c.cfg.Unkeyed == UnkeyedDrop && x.fields&(hasUnkeyed|hasOddName) != 0 {
		r = r.Clone(r.Context())
		x.c.unkeyed(r, x.fields)
	}
	began := time.Now()
	resp, err := x.sender.RoundTrip(r)
	told := false
	defer func() {
		if !told && resp != nil && resp.Body != nil { // Observe has panicked: nobody gets it
			resp.Body.Close()
		}
	}()
	x.rep = reply{outcome: Pass, reason: why, length: -1, err: err}
	x.began = began
	if err != nil {
		x.rep.outcome = Error
		x.settle(r.Context(), 0)
		told = true
		return nil, err
	}
	if unsafeMethod(r.Method) {
		x.invalidate(r.Context(), resp.StatusCode, plainNames(resp.Header))
	} else if x.head() && x.echo != nil {
		x.update(r.Context(), resp.StatusCode, plainNames(resp.Header), nil, began)
	}
	if resp.Header != nil {
		resp.Header.Add("Cache-Status", x.c.fetchedState(why, 0, false, false, why))
	}
	x.settle(r.Context(), resp.StatusCode)
	told = true
	return resp, nil
}

// response returns the reply as a Response to r.
func (x *exchange) response(r *http.Request) (*http.Response, error) {
	rep, ctx := &x.rep, r.Context()
	switch {
	case rep.panicked != nil:
		x.settle(ctx, 0)
		panic(rep.panicked)
	case rep.status == 0:
		x.settle(ctx, 0)
		return nil, rep.err
	case rep.direct != nil:
		return x.handed(r), nil
	}
	held := &heldResponse{Response: http.Response{
		StatusCode: rep.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Request:       r,
		ContentLength: -1,
	}}
	resp := &held.Response
	if rep.entry != nil && rep.status == rep.entry.Status {
		resp.Status = rep.policy.status
	} else {
		resp.Status = statusText(rep.status)
	}
	switch {
	case rep.entry != nil:
		x.fromEntry(held)
	case rep.reason == ReasonIfCached:
		resp.Header = http.Header{"Cache-Status": {rep.state}}
		resp.Body, resp.ContentLength = http.NoBody, 0
	default:
		resp.Header = make(http.Header, len(rep.header)+1)
		layOver(resp.Header, rep.header, rep.bare)
		rep.sendAge(resp.Header)
		resp.Header["Cache-Status"] = append(resp.Header["Cache-Status"], rep.state)
		if rep.bare {
			rep.rd.close()
			resp.Body, resp.ContentLength = http.NoBody, 0
			break
		}
		resp.ContentLength = contentLength(rep.header)
		resp.Body = &fillBody{rd: rep.rd, ctx: ctx, resp: resp}
	}
	x.settle(ctx, rep.status)
	return resp, nil
}

// A heldResponse is a Response and the body that it may have, in one object.
type heldResponse struct {
	http.Response
	stored storedBody
}

func statusText(code int) string { return strconv.Itoa(code) + " " + http.StatusText(code) }

// fromEntry fills in what comes from a stored response.
func (x *exchange) fromEntry(held *heldResponse) {
	rep, resp := &x.rep, &held.Response
	fields := len(rep.policy.names) + 2 // Age, Cache-Status; a map of eight is two objects, of nine four
	if rep.length >= 0 || rep.contentRange != "" {
		fields += 2
	}
	resp.Header = make(http.Header, fields)
	rep.fields(resp.Header)
	for name, values := range rep.trailer {
		if resp.Trailer == nil {
			resp.Trailer = make(http.Header, len(rep.trailer))
		}
		resp.Trailer[name] = slices.Clone(values)
	}
	switch {
	case x.head():
		resp.ContentLength = contentLength(resp.Header)
		resp.Body = http.NoBody
	case rep.bare || len(rep.body) == 0 && len(rep.parts) == 0:
		resp.ContentLength = 0
		resp.Body = http.NoBody
	default:
		if rep.length >= 0 {
			resp.ContentLength = rep.length
		} else {
			resp.ContentLength = int64(len(rep.body))
		}
		held.stored = storedBody{first: rep.body, rest: rep.parts}
		resp.Body = &held.stored
	}
}

// handed returns the response that a fill leaves to its one reader.
func (x *exchange) handed(r *http.Request) *http.Response {
	rep, ctx := &x.rep, r.Context()
	resp, f := rep.direct, rep.rd.f
	status := resp.StatusCode
	if rep.bare {
		status = http.StatusNotModified
	}
	x.settle(ctx, status)
	resp.Request = r
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	resp.Header.Add("Cache-Status", rep.state)
	body := resp.Body
	stop := context.AfterFunc(ctx, func() { f.cancel(context.Cause(ctx)) })
	rd := rep.rd
	end := func() {
		stop()
		f.cancel(nil)
		rd.close()
	}
	if rep.bare {
		body.Close()
		end()
		resp.StatusCode, resp.Status = status, "304 Not Modified"
		resp.Body, resp.ContentLength = http.NoBody, 0
		return resp
	}
	handed := &handedBody{ReadCloser: body, end: end}
	if w, ok := body.(io.Writer); ok {
		resp.Body = struct {
			*handedBody
			io.Writer
		}{handed, w}
	} else {
		resp.Body = handed
	}
	return resp
}

// A handedBody ends its fetch when it is closed.
type handedBody struct {
	io.ReadCloser
	end func()
}

func (b *handedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// A storedBody reads what is stored.
type storedBody struct {
	first []byte
	rest  [][]byte
}

func (b *storedBody) Read(p []byte) (int, error) {
	for len(b.first) == 0 {
		if len(b.rest) == 0 {
			return 0, io.EOF
		}
		b.first, b.rest = b.rest[0], b.rest[1:]
	}
	n := copy(p, b.first)
	b.first = b.first[n:]
	return n, nil
}

// WriteTo lets io.Copy do without a buffer.
func (b *storedBody) WriteTo(w io.Writer) (n int64, err error) {
	for len(b.first) > 0 || len(b.rest) > 0 {
		m, err := w.Write(b.first)
		n += int64(m)
		b.first = b.first[m:]
		if err != nil {
			return n, err
		}
		if len(b.first) == 0 && len(b.rest) > 0 {
			b.first, b.rest = b.rest[0], b.rest[1:]
		}
	}
	return n, nil
}

func (b *storedBody) Close() error {
	b.first, b.rest = nil, nil
	return nil
}

// A fillBody reads what a fill fetches.
type fillBody struct {
	rd   *reader
	ctx  context.Context // of the request that this is the response's body of
	resp *http.Response
	left []byte
	last int
	err  error
}

func (b *fillBody) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		data, _, err := b.rd.next(b.ctx, b.last)
		b.left, b.last = data, len(data)
		if err == errTruncated {
			err = io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			for name, values := range b.rd.f.trailerFields() {
				if b.resp.Trailer == nil {
					b.resp.Trailer = make(http.Header)
				}
				b.resp.Trailer[name] = slices.Clone(values)
			}
		}
		b.err = err
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *fillBody) Close() error {
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	b.left = nil
	b.rd.close()
	return nil
}
