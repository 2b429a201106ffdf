package balancer

import (
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
