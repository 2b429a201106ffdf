package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// A sent is the origin of a Transport.
type sent struct {
	next http.RoundTripper
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (o *sent) fetch(f *fill) {
	for {
		resp, err := o.next.RoundTrip(f.outgoing())
		if err != nil {
			f.fail(err, nil)
			return
		}
		if resp.Body == nil {
			resp.Body = http.NoBody
		}
		own := resp.Header
		if own == nil {
			own = make(http.Header)
		}
		own = plainNames(own)
		length := int64(-1)
		if own.Get("Content-Length") == "" {
			length = resp.ContentLength
		}
		f.offer = resp // which is the client's once it is decided, if it is not stored
		if f.decide(arrival{status: resp.StatusCode, header: own}) {
			drain(resp.Body)
			f.plain()
			continue
		}
		if length >= 0 && f.from == 0 && !f.x.head() {
			f.mu.Lock()
			f.length = length
			f.mu.Unlock()
		}
		if f.updated != nil {
			drain(resp.Body)
			f.finish(nil, nil)
			return
		}
		if f.hand(resp) {
			return
		}
		o.copy(f, resp)
		return
	}
}

// hand leaves a response that is not stored to the client that waits for it.
func (f *fill) hand(resp *http.Response) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done && f.entry == nil && f.updated == nil && resp == f.offer
}

// handLocked is called before the client that waits learns of the header: it must not look for the
// body where it never comes.
func (f *fill) handLocked() {
	if f.offer == nil || f.entry != nil || f.updated != nil || f.from > 0 {
		return
	}
	if len(f.readers) == 0 {
		f.offer.Body.Close()
	} else {
		f.direct = f.offer
	}
	f.done, f.stream.ended = true, true
}

// copy reads the body to its end.
func (o *sent) copy(f *fill, resp *http.Response) {
	defer resp.Body.Close()
	stop := context.AfterFunc(f.ctx, func() { resp.Body.Close() })
	defer stop()
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if werr := f.write(buf[:n]); werr != nil {
				f.finish(nil, werr)
				return
			}
		}
		switch {
		case err == io.EOF:
			f.finish(resp.Trailer, nil)
			return
		case err != nil:
			if f.ctx.Err() != nil {
				err = errors.Join(context.Cause(f.ctx), err)
			}
			f.finish(nil, err)
			return
		}
	}
}

// drain reads the little that a response without a body may have, so that its connection can be
// used again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	body.Close()
}
