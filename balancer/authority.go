package balancer

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/trivet-go/trivet/internal/grammar"
)

// messageFault returns what is wrong with a request that no server should get, "" if nothing is.
// net/http checks most of it for HTTP/1.1 and little for HTTP/2.
func messageFault(r *http.Request) string {
	switch {
	case !grammar.IsToken(r.Method):
		return "The request's method is malformed"
	case !validHost(r.Host):
		return "The request's Host is malformed"
	case r.ProtoMajor == 2 && !validLength(r):
		return "The request's Content-Length is malformed"
	}
	return ""
}

// validLength reports whether an HTTP/2 request's Content-Length fields, of which net/http looks at
// the first, are one number and can be right.
func validLength(r *http.Request) bool {
	values := r.Header["Content-Length"]
	for _, v := range values {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil || v[0] == '+' || v != values[0] {
			return false
		}
		if n > 0 && r.ContentLength == 0 { // the stream has ended with the header
			return false
		}
	}
	return true
}

// validHost reports whether s is a host with or without a port (RFC 9110, section 7.2; RFC 3986,
// section 3.2.2), or empty: the target's host is sent then. net/http would send an empty Host for
// some others.
func validHost(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		addr, err := netip.ParseAddr(s[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return false
		}
		host, port = "", s[end+1:]
		if port != "" && port[0] != ':' {
			return false
		}
		port = strings.TrimPrefix(port, ":")
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
		if host == "" {
			return false
		}
	}
	for i := range len(host) {
		switch c := host[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~%!$&'()*+,;=", c) < 0:
			return false
		}
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	return len(port) <= 5
}
