package versioning

import (
	"net/http"
	"strconv"
	"strings"
)

// finish completes the response of a handler that has returned. The error, if there is one, is to
// be told the client.
func (c *converter) finish() *ConversionError {
	if c.Hijacked {
		return nil
	}
	if c.mode == undecided {
		c.decide(http.StatusOK)
	}
	switch c.mode {
	case buffering:
		if c.incomplete() {
			c.fail(errIncomplete)
		} else {
			c.finishDocument()
		}
	case itemizing:
		if c.items.finish(); c.mode == itemizing && c.incomplete() {
			c.fail(errIncomplete)
		}
	}
	if c.mode == broken {
		if c.Status != 0 {
			// The client must not take what it got for the whole.
			panic(http.ErrAbortHandler)
		}
		return c.err
	}
	c.trailers()
	return nil
}

// incomplete reports whether the handler has written another body than it announced, as one does
// that copies from a server that fails. Then net/http would break off, since the client would miss
// bytes; of a converted body it could not know.
func (c *converter) incomplete() bool {
	return c.declared >= 0 && c.written != c.declared && c.request.Method != http.MethodHead
}

// finishDocument converts and sends the body that was kept.
func (c *converter) finishDocument() {
	text := c.buf
	if len(text) > 0 {
		var err error
		if text, err = convertText(text, c.steps, c.conversion.trace); err != nil {
			c.fail(err)
			return
		}
	}
	dropBodyFields(c.own)
	c.converted = true
	// HTTP/1.1 has trailers only where there is no Content-Length.
	if (len(text) > 0 || c.request.Method != http.MethodHead) && !c.hasTrailers() {
		c.own["Content-Length"] = []string{strconv.Itoa(len(text))}
	}
	c.mode = passing
	c.send()
	if len(text) > 0 {
		_, _ = c.Recorder.Write(text) // fails only if the client has left
	}
}

// hasTrailers reports whether the handler has announced or set trailer fields.
func (c *converter) hasTrailers() bool {
	for name := range c.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return len(c.own["Trailer"]) > 0
}

// trailers hands on the trailer fields, which the handler has set since the header was sent.
func (c *converter) trailers() {
	outer := c.Recorder.Header()
	for name, values := range c.header {
		bare, unannounced := strings.CutPrefix(name, http.TrailerPrefix)
		if (unannounced || listed(outer["Trailer"], name)) && !(c.converted && isDigest(bare)) {
			outer[name] = values
		}
	}
}
