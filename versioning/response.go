package versioning

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/trivet-go/trivet/internal/response"
)

// A converter is the ResponseWriter that a handler gets whose response is converted.
type converter struct {
	response.Recorder // what goes out
	conversion        *conversion
	request           *http.Request // as the handler got it
	host              string        // that the client sent it to

	header      http.Header // the handler's: it begins as a copy of what is set outside
	status      int         // that the handler wrote; zero before
	own         http.Header // what the handler set, converted
	code        int         // to be sent
	unconverted http.Header // what the handler set, if it may be sent after all
	mode        mode
	steps       []step
	buf         []byte
	items       items
	converted   bool  // the body is not the handler's
	declared    int64 // the handler's Content-Length; negative if it has set none
	written     int64 // of the body that is converted
	err         *ConversionError
}

// A mode is what becomes of what a handler writes.
type mode uint8

const (
	undecided mode = iota // the handler has not written a status
	passing               // it goes out
	buffering             // it is kept until the handler is done
	itemizing             // it goes out item by item
	bodiless              // it is dropped: a change has given the response a status without a body
	broken                // it is dropped: there was an error
)

func newConverter(c *conversion, w http.ResponseWriter, r *http.Request) *converter {
	header := w.Header().Clone()
	if header == nil {
		header = http.Header{}
	}
	return &converter{
		Recorder: *response.NewRecorder(w, r), conversion: c, request: r, host: r.Host, header: header,
	}
}

// Header returns the handler's header. What it leaves alone stays as it is set outside; what it
// sets is converted.
func (c *converter) Header() http.Header { return c.header }

// appended reports whether a handler's values of a field stand beside those that are set outside.
func appended(name string) bool { return name == "Vary" || name == "Link" || name == "Set-Cookie" }

// ownFields returns a copy of what the handler has set.
func (c *converter) ownFields() http.Header {
	outer := c.Recorder.Header()
	own := make(http.Header, len(c.header))
	for name, values := range c.header {
		have, ok := outer[name]
		switch {
		case ok && slices.Equal(values, have):
			continue
		case appended(name) && len(values) > len(have) && slices.Equal(values[:len(have)], have):
			values = values[len(have):]
		}
		own[name] = slices.Clone(values)
	}
	return own
}

// lay puts own over what is set outside, and removes what the handler has removed.
func (c *converter) lay(own http.Header) {
	outer := c.Recorder.Header()
	for name := range outer {
		if _, ok := c.header[name]; !ok {
			delete(outer, name)
		}
	}
	for name, values := range own {
		if !appended(name) {
			outer[name] = values
			continue
		}
		for _, value := range values {
			if name == "Set-Cookie" {
				outer[name] = append(outer[name], value)
			} else {
				addOnce(outer, name, value)
			}
		}
	}
}

// inform sends a 1xx response, which no change is about.
func (c *converter) inform(code int) {
	outer := c.Recorder.Header()
	saved := maps.Clone(outer)
	own := c.ownFields()
	c.conversion.giveBack(own, c.host)
	c.lay(own)
	c.Recorder.WriteHeader(code)
	clear(outer)
	maps.Copy(outer, saved)
}

func (c *converter) WriteHeader(code int) {
	switch {
	case c.status != 0 || c.Hijacked:
	case code < 100 || code > 999:
		c.Recorder.WriteHeader(code) // panics as net/http does
	case code < 200 && code != http.StatusSwitchingProtocols:
		c.inform(code)
	default:
		c.decide(code)
	}
}

// decide decides what becomes of the response, of which the handler has written the header.
func (c *converter) decide(code int) {
	cv := c.conversion
	c.status, c.code = code, code
	c.own = c.ownFields()
	kind := kindOf(c.header)
	if cv.chain.bodies {
		if tag := c.own.Get("ETag"); tag != "" {
			c.own.Set("ETag", markTag(tag, cv.mark()))
		}
	}
	if cv.versions.cfg.OnError == Pass {
		c.unconverted = c.own.Clone()
	}
	resp := Response{Status: code, Header: c.own, Request: c.request}
	for i := len(cv.applied) - 1; i >= 0; i-- {
		d := cv.applied[i]
		if d.ResponseBody.Converts() && (code < 400 || d.Errors) {
			c.steps = append(c.steps, step{d, &d.ResponseBody})
		}
		if d.Response == nil {
			continue
		}
		cv.trace(d)
		if err := d.Response(&resp); err != nil {
			c.fail(&stepError{d.Name, err})
			return
		}
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	c.code, c.own = resp.Status, resp.Header
	switch {
	case c.code == code:
	case c.code < 200 || c.code > 999:
		c.fail(fmt.Errorf("a change has made the status %d", c.code))
		return
	case c.code == http.StatusNoContent || c.code == http.StatusNotModified:
		dropBodyFields(c.own)
		delete(c.own, "Content-Type")
		delete(c.own, "Content-Encoding")
		c.converted = true
		c.send()
		c.mode = bodiless
		return
	}
	c.declared = contentLength(c.header)
	if len(c.steps) == 0 || kind == otherBody {
		c.pass()
		return
	}
	delete(c.own, "Accept-Ranges") // none is served
	delete(c.header, "Accept-Ranges")
	switch {
	case code == http.StatusNoContent, code == http.StatusNotModified, code == http.StatusSwitchingProtocols:
		delete(c.own, "Content-Length") // of the head version
		c.pass()
	case encoded(c.header):
		c.fail(errEncoded)
	case code == http.StatusPartialContent:
		c.fail(errPartial)
	case kind == document:
		if c.declared > cv.versions.cfg.MaxBody {
			c.fail(errTooLarge)
			return
		}
		c.mode = buffering
	default:
		dropBodyFields(c.own)
		c.converted = true
		c.items = items{converter: c, events: kind == events}
		c.send()
		c.mode = itemizing
	}
}

// send sends the header.
func (c *converter) send() {
	c.conversion.giveBack(c.own, c.host)
	c.lay(c.own)
	c.Recorder.WriteHeader(c.code)
}

// pass sends the header and lets the body follow as it is.
func (c *converter) pass() {
	c.mode = passing
	c.send()
}

// fail gives up. Unless something has been sent, or Config.OnError says otherwise, the client will
// get an error.
func (c *converter) fail(err error) {
	c.err = c.conversion.failed(Down, http.StatusInternalServerError, err)
	if c.unconverted == nil || c.Status != 0 {
		c.mode, c.buf = broken, nil
		return
	}
	c.code, c.own = c.status, c.unconverted
	c.pass()
	if buf := c.buf; len(buf) > 0 {
		c.buf = nil
		_, _ = c.Recorder.Write(buf) // an error comes back at the next write
	}
	c.err = nil
}

func (c *converter) Write(p []byte) (int, error) {
	if c.Hijacked {
		return 0, http.ErrHijacked
	}
	if c.mode == undecided {
		c.decide(http.StatusOK)
	}
	c.written += int64(len(p))
	switch c.mode {
	case bodiless:
		return len(p), nil
	case buffering:
		if int64(len(c.buf)+len(p)) <= c.conversion.versions.cfg.MaxBody {
			c.buf = append(c.buf, p...)
			return len(p), nil
		}
		if c.fail(errTooLarge); c.mode == broken {
			return 0, c.err
		}
	case itemizing:
		return c.items.write(p)
	case broken:
		return 0, c.err
	}
	return c.Recorder.Write(p)
}

// WriteString lets io.WriteString write without a copy of s where the body passes.
func (c *converter) WriteString(s string) (int, error) {
	if c.mode == passing {
		return c.Recorder.WriteString(s)
	}
	return c.Write([]byte(s))
}

// ReadFrom keeps the way to sendfile open where the body passes.
func (c *converter) ReadFrom(src io.Reader) (n int64, err error) {
	if c.mode == undecided && !c.Hijacked {
		// No header is sent before src has given something.
		first := make([]byte, 512)
		for n == 0 && err == nil {
			var m int
			m, err = src.Read(first)
			n = int64(m)
		}
		if n > 0 {
			if _, werr := c.Write(first[:n]); werr != nil {
				return 0, werr
			}
		}
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
	}
	var rest int64
	if c.mode == passing {
		rest, err = c.Recorder.ReadFrom(src)
	} else {
		rest, err = io.Copy(struct{ io.Writer }{c}, src)
	}
	return n + rest, err
}

// FlushError flushes what passes, and the items that are complete. Of a body that is converted as a
// whole nothing can be sent before its end: then it returns [http.ErrNotSupported].
func (c *converter) FlushError() error {
	if c.Hijacked {
		return http.ErrHijacked
	}
	if c.mode == undecided {
		c.decide(http.StatusOK)
	}
	switch c.mode {
	case buffering:
		return http.ErrNotSupported
	case broken:
		return c.err
	}
	return c.Recorder.FlushError()
}

// Flush serves callers that assert http.Flusher.
func (c *converter) Flush() { _ = c.FlushError() }
