package origin

import (
	"net/url"
	"strings"
)

// URLHost returns u's host in one of the ways to write it, for what is kept by host: in lower case,
// without a final dot, and with its port only if that is not the default of u's scheme. It is "" if
// u is nil.
func URLHost(u *url.URL) string {
	if u == nil {
		return ""
	}
	if isPlain(u.Host) {
		return u.Host
	}
	name, port := SplitHost(u.Host)
	dotless, dotted := strings.CutSuffix(name, ".")
	switch {
	case port == "", port == "80" && u.Scheme == "http", port == "443" && u.Scheme == "https":
		return strings.ToLower(dotless)
	case dotted && u.Host[0] != '[':
		return strings.ToLower(dotless + ":" + port)
	}
	return strings.ToLower(u.Host)
}

// isPlain reports whether host, which has neither a port nor a final dot, is in lower case already,
// as most are.
func isPlain(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.' && i < len(host)-1:
		default:
			return false
		}
	}
	return true
}
