package balancer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// checkUpgrade returns an error if the server switches to a protocol that it was not asked for (RFC
// 9110, section 7.8). The holder of the raw connection would then speak past what everybody else
// believes it carries.
func checkUpgrade(req *http.Request, resp *http.Response) error {
	to := resp.Header["Upgrade"]
	if len(to) == 1 && listHas(req.Header["Connection"], "upgrade") && listHas(req.Header["Upgrade"], to[0]) {
		return nil
	}
	return fmt.Errorf("balancer: the server switched to protocol %q when %q was asked for",
		to, req.Header["Upgrade"])
}

// listHas reports whether token is among the members of a field with a list, in whatever case.
func listHas(field []string, token string) bool {
	for _, line := range field {
		for member := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(member, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// A tunnel is the body of a 101: the connection itself. Reads and Close go through the attempt.
type tunnel struct {
	io.ReadCloser
	io.Writer
	conn io.ReadCloser
}

// CloseWrite lets a proxy pass on that one side has finished while the other still speaks.
func (t tunnel) CloseWrite() error {
	if c, ok := t.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// upgrade makes a tunnel of the client's and the server's connection.
func (x *exchange) upgrade() {
	resp := x.resp
	if err := checkUpgrade(x.out, resp); err != nil { // a wrapper may have made resp
		x.fail(err)
		return
	}
	if x.upload != nil && !x.upload.ended.Load() {
		// RFC 9110, section 7.8: the new protocol follows the request. What comes next could
		// belong to either.
		x.fail(errors.New("balancer: the server switched protocols before the request had ended"))
		return
	}
	server, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		x.fail(errors.New("balancer: the body of a 101 cannot be written to"))
		return
	}
	if !x.modify() {
		return
	}
	client, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.fail(fmt.Errorf("balancer: the client's connection cannot be taken over: %w", err))
		return
	}
	if x.switchProtocols(buffered.Writer) != nil {
		client.Close()
		return
	}
	// What the client has sent behind its request lies in the reader.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	newRelay(client, server, early).run(x.in.Context())
}

// switchProtocols sends the 101.
func (x *exchange) switchProtocols(w *bufio.Writer) error {
	h := x.w.Header()
	protocol := x.resp.Header["Upgrade"]
	removeHopByHop(x.resp.Header)
	addHeader(h, x.resp.Header)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, protocol
	delete(h, "Content-Length") // RFC 9110, section 8.6
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(w)
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}
