package versioning

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
)

// upBody converts the body of r: a document at once, lines as they are read.
func (c *conversion) upBody(r *http.Request, steps []step) *ConversionError {
	kind := kindOf(r.Header)
	if kind != document && kind != lines || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if encoded(r.Header) {
		return c.failed(Up, http.StatusUnsupportedMediaType, errEncoded)
	}
	if kind == lines {
		dropBodyFields(r.Header)
		r.ContentLength = -1
		trailer := r.Trailer
		r.Trailer = withoutDigests(trailer)
		r.Body = &lineReader{
			conversion: c, src: r.Body, lines: bufio.NewReader(r.Body), steps: steps,
			max: c.versions.cfg.MaxItem, read: trailer, trailer: r.Trailer,
		}
		return nil
	}
	most := c.versions.cfg.MaxBody
	if r.ContentLength > most {
		return c.failed(Up, http.StatusRequestEntityTooLarge, errTooLarge)
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), int64(len(text)) > most:
		return c.failed(Up, http.StatusRequestEntityTooLarge, errTooLarge)
	case err != nil:
		return c.failed(Up, http.StatusBadRequest, err)
	}
	if len(text) > 0 {
		if text, err = convertText(text, steps, c.trace); err != nil {
			return c.failed(Up, http.StatusBadRequest, err)
		}
	}
	dropBodyFields(r.Header)
	r.Trailer = withoutDigests(r.Trailer)
	r.Header.Set("Content-Length", strconv.Itoa(len(text)))
	r.ContentLength = int64(len(text))
	r.TransferEncoding = nil
	r.Body = &replaced{Reader: bytes.NewReader(text), Closer: r.Body}
	return nil
}

// withoutDigests returns a copy of h, trailer fields, without those over the bytes of a body.
func withoutDigests(h http.Header) http.Header {
	h = h.Clone()
	maps.DeleteFunc(h, func(name string, _ []string) bool { return isDigest(name) })
	return h
}

// A replaced is a body that reads as another one.
type replaced struct {
	io.Reader
	io.Closer
}

// A lineReader is a body whose lines are converted as they are read.
type lineReader struct {
	conversion *conversion
	src        io.Closer
	lines      *bufio.Reader
	steps      []step
	max        int64
	line, out  []byte
	err        error

	// The trailer fields as net/http reads them, and as the handler gets them.
	read, trailer http.Header
}

func (l *lineReader) Close() error { return l.src.Close() }

func (l *lineReader) Read(p []byte) (int, error) {
	for len(l.out) == 0 && l.err == nil {
		l.next()
	}
	if len(l.out) == 0 {
		return 0, l.err
	}
	n := copy(p, l.out)
	l.out = l.out[n:]
	return n, nil
}

// next converts one more line.
func (l *lineReader) next() {
	l.line = l.line[:0]
	for {
		part, err := l.lines.ReadSlice('\n')
		l.line = append(l.line, part...)
		if int64(len(l.line)) > l.max {
			l.err = l.conversion.failed(Up, http.StatusRequestEntityTooLarge, errItem)
			return
		}
		if err != bufio.ErrBufferFull {
			l.err = err
			break
		}
	}
	if l.err == io.EOF {
		for name := range l.trailer {
			l.trailer[name] = l.read[name]
		}
	}
	if l.err != nil && l.err != io.EOF {
		return
	}
	out, err := convertLine(l.line, l.steps, l.conversion.trace)
	if err != nil {
		l.err = l.conversion.failed(Up, http.StatusBadRequest, err)
		return
	}
	l.out = out
}

// convertLine converts a line, perhaps an empty one, with its end.
func convertLine(line []byte, steps []step, ran func(*change)) ([]byte, error) {
	if len(bytes.TrimSpace(line)) == 0 {
		return line, nil
	}
	return convertText(line, steps, ran)
}
