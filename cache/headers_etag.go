package cache

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
)

// entityTag returns a strong entity tag of a representation: it differs if the body does, or what
// header says of its form (RFC 9110, section 8.8.3.3).
func entityTag(header http.Header, body []byte) string {
	const opaque = 16 // bytes of the digest: two bodies with the same one are not found by chance
	sum := sha256.New()
	for _, name := range [...]string{"Content-Type", "Content-Encoding", "Content-Language"} {
		for _, value := range header[name] {
			io.WriteString(sum, value)
			sum.Write([]byte{0})
		}
		sum.Write([]byte{1})
	}
	sum.Write(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:opaque]) + `"`
}

// sniffLength is how much of a body net/http looks at.
const sniffLength = 512

// sniff sets Content-Type as net/http would when it sends the body, which begins with p.
func sniff(header http.Header, p []byte) {
	if _, ok := header["Content-Type"]; ok || len(p) == 0 || header.Get("Content-Encoding") != "" ||
		len(header["Transfer-Encoding"]) > 0 {
		return
	}
	header["Content-Type"] = []string{http.DetectContentType(p)}
}

// hasTrailers reports whether header has trailers that were not announced.
func hasTrailers(header http.Header) bool {
	for name := range header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}
