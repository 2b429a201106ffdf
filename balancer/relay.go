package balancer

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// relayBuffer is the size of each of a relay's two buffers. Most upgraded connections are many,
// idle and send little at a time.
const relayBuffer = 8 << 10

// farewellTime is how long the peers of an upgraded connection have to read that it ends.
const farewellTime = time.Second

// A relay passes on what the two peers of an upgraded connection say, until both have finished or
// one has gone.
type relay struct {
	client             net.Conn
	server             io.ReadWriteCloser
	toServer, toClient *direction
	ended              chan struct{} // closed when both directions have
}

// newRelay returns a relay of websocket frames. The client has already sent early.
func newRelay(client net.Conn, server io.ReadWriteCloser, early []byte) *relay {
	r := &relay{client: client, server: server, ended: make(chan struct{})}
	r.toServer = newDirection(io.MultiReader(bytes.NewReader(early), client), server, true)
	r.toClient = newDirection(server, client, false)
	return r
}

// run relays until the connections end or ctx does. Then it has closed both.
func (r *relay) run(ctx context.Context) {
	defer r.close()
	defer context.AfterFunc(ctx, r.goAway)()
	upstream := make(chan struct{})
	go func() {
		defer close(upstream)
		r.pass(r.toServer)
	}()
	r.pass(r.toClient)
	<-upstream
	close(r.ended)
}

func (r *relay) close() {
	r.client.Close()
	r.server.Close()
}

// pass passes one direction on, and its end.
func (r *relay) pass(d *direction) {
	if !d.copy() || !d.finish() {
		r.close()
	}
}

// goAway ends the relay: whoever has all of the frames that were begun is told so by a close frame,
// and has a moment to read it. That takes twice farewellTime at most.
func (r *relay) goAway() {
	defer r.close()
	if r.farewells() {
		wait := time.NewTimer(farewellTime)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.ended:
		}
	}
}

// farewells reports whether either peer could be told. It takes both turns first: a peer that goes
// when it is told ends the other's direction.
func (r *relay) farewells() bool {
	const half = farewellTime / 2
	wait, cancel := context.WithTimeout(context.Background(), half)
	defer cancel()
	var free []*direction
	for _, d := range [...]*direction{r.toClient, r.toServer} {
		if d.take(wait) {
			free = append(free, d)
		}
	}
	stuck := time.AfterFunc(half, r.close) // ends a farewell that does not get through
	defer stuck.Stop()
	var told atomic.Bool
	var all sync.WaitGroup
	for _, d := range free {
		all.Go(func() {
			defer func() { <-d.turn }()
			if d.farewell() {
				told.Store(true)
			}
		})
	}
	all.Wait()
	return told.Load()
}

// closeWrite reports whether it could close one half of a connection.
func closeWrite(c any) bool {
	half, ok := c.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// A direction is what one peer says to the other.
type direction struct {
	src    io.Reader
	dst    io.Writer
	masked bool // as the frames of clients are (RFC 6455, section 5.1)

	turn   chan struct{} // holds a token while dst is written to, and guards the fields below
	frames frames
	over   bool // src has ended, or a farewell has been said
}

func newDirection(src io.Reader, dst io.Writer, masked bool) *direction {
	return &direction{src: src, dst: dst, masked: masked, turn: make(chan struct{}, 1)}
}

// copy copies src to dst, and reports whether it has come to src's end.
func (d *direction) copy() bool {
	buf := make([]byte, relayBuffer)
	for {
		n, err := d.src.Read(buf)
		if n > 0 && !d.write(buf[:n]) {
			return false
		}
		if err != nil {
			return err == io.EOF
		}
	}
}

// take takes the turn, and reports whether it could before ctx ended.
func (d *direction) take(ctx context.Context) bool {
	select {
	case d.turn <- struct{}{}:
		return true
	default:
	}
	select {
	case d.turn <- struct{}{}:
		return true
	case <-ctx.Done(): // a write does not get through
		return false
	}
}

func (d *direction) write(p []byte) bool {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if d.over {
		return true // nothing may follow a close frame
	}
	d.frames.advance(p)
	_, err := d.dst.Write(p)
	return err == nil
}

// finish passes on that src has ended, and reports whether it could.
func (d *direction) finish() bool {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if d.over {
		return true
	}
	d.over = true
	return closeWrite(d.dst)
}

// farewell sends a close frame, unless that would stand inside another frame or behind another
// close frame. It reports whether it did. The turn is the caller's.
func (d *direction) farewell() bool {
	if d.over || !d.frames.whole() || d.frames.closed {
		return false
	}
	d.over = true
	if _, err := d.dst.Write(goingAway(d.masked)); err != nil {
		return false
	}
	closeWrite(d.dst)
	return true
}
