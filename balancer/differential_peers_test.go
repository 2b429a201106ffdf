//go:build unix

package balancer_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience is how long a peer waits before it says that something hangs.
const patience = time.Minute

// A heard is what a server has got of one exchange.
type heard struct {
	times   int
	line    string
	header  http.Header
	body    string
	broken  bool // the body has not come to its end
	trailer http.Header
}

// A rawServer answers the exchanges that are on, over HTTP/1 or HTTP/2, byte by byte.
type rawServer struct {
	mu sync.Mutex // guards the field below
	on map[string]*running
}

// A running exchange, and what the server has got of it.
type running struct {
	*generated
	heard
}

// exchangeField names the exchange that a request belongs to. One may be late, of a client that
// left.
const exchangeField = "X-Exchange"

func (s *rawServer) begin(g *generated, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on == nil {
		s.on = map[string]*running{}
	}
	s.on[name] = &running{generated: g}
}

// end ends an exchange. A request that comes after it belongs to none.
func (s *rawServer) end(name string) heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer delete(s.on, name)
	return s.on[name].heard
}

// hear notes what f says of the exchange of that name. It returns nil if it is not on.
func (s *rawServer) hear(name string, f func(h *heard)) *generated {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.on[name]
	if r == nil {
		return nil
	}
	f(&r.heard)
	return r.generated
}

func (s *rawServer) serve(ln net.Listener, conn func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			conn(c)
		}()
	}
}

// http1 serves one connection.
func (s *rawServer) http1(c net.Conn) {
	buf := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(buf)
		if err != nil {
			return
		}
		name := r.Header.Get(exchangeField)
		g := s.hear(name, func(h *heard) {
			h.times++
			h.line, h.header = r.Method+" "+r.RequestURI+" "+r.Host, r.Header
		})
		if g == nil {
			return
		}
		if g.tunnel != "" {
			tunnelServer(c, buf, g, name)
			return
		}
		read := func() bool {
			body, err := io.ReadAll(r.Body)
			s.hear(name, func(h *heard) { h.body, h.broken, h.trailer = string(body), err != nil, r.Trailer })
			return err == nil
		}
		if !g.reply.early && !read() {
			return
		}
		raw, end := g.reply.raw(name)
		_, err = io.WriteString(c, raw)
		if g.reply.early && !read() {
			return
		}
		if err != nil || end || g.reply.proto == "1.0" || r.Close {
			return
		}
	}
}

// http2 serves one connection, with one stream at a time.
func (s *rawServer) http2(c net.Conn) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	if fr.WriteSettings() != nil {
		return
	}
	names, times := map[uint32]string{}, 0 // of streams that are open
	last, refused := uint32(math.MaxUint32), map[uint32]bool{}
	for last == math.MaxUint32 || len(names) > 0 {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		id, end := f.Header().StreamID, false
		if id > last || refused[id] {
			continue // it has been told that it is not processed
		}
		var g *generated
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
			continue
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = fr.WritePing(true, f.Data)
			}
			continue
		case *http2.RSTStreamFrame:
			delete(names, id)
			continue
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
			first := f.PseudoValue("method") != ""
			if first {
				for _, hf := range f.RegularFields() {
					if http.CanonicalHeaderKey(hf.Name) == exchangeField {
						names[id] = hf.Value
					}
				}
			}
			g = s.hear(names[id], func(h *heard) {
				h.fields(f, first)
				times = h.times
			})
			switch {
			case g == nil || !first:
			case times == 1 && g.reply.refusal == "stream":
				_ = fr.WriteRSTStream(id, http2.ErrCodeRefusedStream)
				refused[id] = true
				delete(names, id)
				continue
			case times == 1 && g.reply.refusal == "goaway" && last == math.MaxUint32:
				last = id - 1
				_ = fr.WriteGoAway(last, http2.ErrCodeNo, nil)
				delete(names, id)
				continue
			case g.reply.early:
				if !replyH2(fr, enc, &block, id, g, names[id]) {
					return
				}
			}
		case *http2.DataFrame:
			end = f.StreamEnded()
			g = s.hear(names[id], func(h *heard) { h.body += string(f.Data()) })
			if n := uint32(len(f.Data())); n > 0 {
				_, _ = fr.WriteWindowUpdate(0, n), fr.WriteWindowUpdate(id, n)
			}
		default:
			continue
		}
		switch {
		case g == nil:
			_ = fr.WriteRSTStream(id, http2.ErrCodeCancel)
			end = true
		case end && !g.reply.early && !replyH2(fr, enc, &block, id, g, names[id]):
			return
		}
		if end {
			delete(names, id)
		}
	}
}

// fields notes the header or trailer of a request.
func (h *heard) fields(f *http2.MetaHeadersFrame, first bool) {
	fields := http.Header{}
	for _, hf := range f.RegularFields() {
		fields.Add(hf.Name, hf.Value)
	}
	if !first {
		h.trailer = fields
		return
	}
	h.times++
	h.line = f.PseudoValue("method") + " " + f.PseudoValue("path") + " " + f.PseudoValue("authority")
	h.header = fields
}

// replyH2 answers on a stream. It returns false if the connection is to end.
func replyH2(
	fr *http2.Framer, enc *hpack.Encoder, block *bytes.Buffer, id uint32, g *generated, name string,
) bool {
	a := &g.reply
	header := func(status int, fields []field, end bool) {
		block.Reset()
		if status >= 0 {
			_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: fmt.Sprintf("%03d", status)})
		}
		for _, f := range fields {
			_ = enc.WriteField(hpack.HeaderField{Name: strings.ToLower(f[0]), Value: f[1]})
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end,
		})
	}
	switch a.fault {
	case "silent", "garbage":
		return false
	case "header":
		_ = fr.WriteRSTStream(id, http2.ErrCodeInternal)
		return true
	}
	for _, code := range a.info {
		header(code, []field{{"Link", fmt.Sprint("</", code, ">")}}, false)
	}
	fields := append(slices.Clone(a.fields), field{exchangeField, name})
	if a.framing == "length" {
		fields = append(fields, field{"Content-Length", fmt.Sprint(len(a.body))})
	}
	for _, f := range a.trailers {
		fields = append(fields, field{"Trailer", f[0]})
	}
	header(a.status, fields, a.framing == "")
	if a.framing == "" {
		return true
	}
	body := a.body
	if a.fault == "body" {
		_ = fr.WriteData(id, false, []byte(body[:len(body)/4]))
		_ = fr.WriteRSTStream(id, http2.ErrCodeInternal)
		return true
	}
	const frame = 16_000 // as large as any peer takes
	for ; len(body) > frame; body = body[frame:] {
		_ = fr.WriteData(id, false, []byte(body[:frame]))
	}
	_ = fr.WriteData(id, len(a.trailers) == 0, []byte(body))
	if len(a.trailers) > 0 {
		header(-1, a.trailers, true)
	}
	return true
}

// A got is what a client has got of one exchange.
type got struct {
	info    []string
	status  int // 0 if there is no answer
	header  http.Header
	body    string
	cut     bool // the answer has not come to its end
	trailer http.Header
	hangs   bool
	keep    bool // the connection can be used again
}

// ask1 sends an exchange over HTTP/1 and returns what comes back.
func (g *generated) ask1(c net.Conn, name string) (a got) {
	_ = c.SetDeadline(time.Now().Add(patience))
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s HTTP/%s\r\nHost: %s\r\n%s: %s\r\n", g.method, g.path, g.query,
		g.proto, g.host, exchangeField, name)
	for _, f := range g.fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	switch {
	case g.chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
		if g.announced {
			for _, f := range g.trailers {
				fmt.Fprintf(&b, "Trailer: %s\r\n", f[0])
			}
		}
		b.WriteString("\r\n")
		if g.body != "" {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(g.body), g.body)
		}
		if !g.leave {
			b.WriteString("0\r\n")
			for _, f := range g.trailers {
				fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
			}
			b.WriteString("\r\n")
		}
	case g.body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(g.body))
		b.WriteString(g.body[:len(g.body)/2])
		if !g.leave {
			b.WriteString(g.body[len(g.body)/2:])
		}
	default:
		b.WriteString("\r\n")
	}
	if _, err := io.WriteString(c, b.String()); err != nil || g.leave {
		return a
	}
	buf := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(buf, &http.Request{Method: g.method})
		if err != nil {
			ne, ok := err.(net.Error)
			a.hangs = ok && ne.Timeout()
			return a
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 {
			a.info = append(a.info, fmt.Sprint(resp.StatusCode, " ", withoutFraming(resp.Header)))
			continue
		}
		a.status, a.header = resp.StatusCode, resp.Header
		body, err := io.ReadAll(resp.Body)
		a.body, a.cut, a.trailer = string(body), err != nil, resp.Trailer
		ne, ok := err.(net.Error)
		a.hangs = ok && ne.Timeout()
		a.keep = err == nil && !resp.Close && g.proto == "1.1" && buf.Buffered() == 0
		return a
	}
}

// ask2 does so over HTTP/2.
func (g *generated) ask2(c net.Conn, name string) (a got) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return a
	}
	fr := http2.NewFramer(c, c)
	fr.AllowIllegalWrites = true
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	write := func(fields []field, end bool) {
		block.Reset()
		for _, f := range fields {
			_ = enc.WriteField(hpack.HeaderField{Name: strings.ToLower(f[0]), Value: f[1]})
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end,
		})
	}
	_ = fr.WriteSettings()
	fields := append([]field{
		{":method", g.method}, {":path", g.path + g.query}, {":scheme", "http"}, {":authority", g.host},
		{exchangeField, name},
	}, g.fields...)
	if g.body != "" && !g.chunked {
		fields = append(fields, field{"Content-Length", fmt.Sprint(len(g.body))})
	}
	if g.announced {
		for _, f := range g.trailers {
			fields = append(fields, field{"Trailer", f[0]})
		}
	}
	write(fields, g.body == "" && !g.chunked)
	if g.body != "" || g.chunked {
		half := g.body[:len(g.body)/2]
		_ = fr.WriteData(1, false, []byte(half))
		if g.leave {
			_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
			return a
		}
		_ = fr.WriteData(1, len(g.trailers) == 0, []byte(g.body[len(half):]))
		if len(g.trailers) > 0 {
			write(g.trailers, true)
		}
	}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			ne, ok := err.(net.Error)
			a.hangs, a.cut = ok && ne.Timeout(), true
			return a
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			h := http.Header{}
			for _, hf := range f.RegularFields() {
				h.Add(hf.Name, hf.Value)
			}
			switch status := f.PseudoValue("status"); {
			case status == "":
				a.trailer = h
			case status[0] == '1':
				a.info = append(a.info, fmt.Sprint(status, " ", withoutFraming(h)))
			default:
				_, _ = fmt.Sscan(status, &a.status)
				a.header = h
			}
			if f.StreamEnded() {
				return a
			}
		case *http2.DataFrame:
			a.body += string(f.Data())
			if f.StreamEnded() {
				return a
			}
		case *http2.RSTStreamFrame:
			a.cut = true
			return a
		}
	}
}
