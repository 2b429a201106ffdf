package wire

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
)

// errClosed is the error of reads after Close; it reads as net/http's.
var errClosed = errors.New("http: read on closed response body")

// A body is the body of a response. At its end the connection is idle; if it is closed before, so
// is the connection.
type body struct {
	conn  *conn
	src   io.Reader
	ctx   context.Context // of the request
	trace *httptrace.ClientTrace
	stop  func() bool // ends what the context's end does
	keep  bool        // the connection can be used again

	mu  sync.Mutex // Close may be called during a Read
	err error      // of all further reads
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := b.src.Read(p)
	if err != nil {
		err = b.end(err)
	}
	return n, err
}

// end ends the body, whose read has failed with err, and returns what to tell the reader.
func (b *body) end(err error) error {
	if err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	b.mu.Lock()
	if b.err != nil {
		defer b.mu.Unlock()
		return b.err // closed meanwhile
	}
	b.err = err
	b.mu.Unlock() // put calls a hook, which may close the body
	if !b.stop() || err != io.EOF || !b.keep {
		// Also if the context has ended just now: the connection is being closed.
		b.conn.close()
		return err
	}
	b.conn.put(b.trace)
	return err
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = errClosed
		b.stop()
		b.conn.close()
	}
	return nil
}

// inflate makes resp, whose body is b, what it was before gzip.
func inflate(resp *http.Response, b *body) {
	resp.Body = &inflater{body: b}
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	resp.Uncompressed = true
}

// An inflater reads a body that is compressed by gzip.
type inflater struct {
	*body
	zip *gzip.Reader // nil before the first read
	err error
}

func (f *inflater) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if f.zip == nil {
		if f.zip, f.err = gzip.NewReader(f.body); f.err != nil {
			return 0, f.err
		}
	}
	n, err := f.zip.Read(p)
	if err != nil {
		f.err = err
	}
	return n, err
}
