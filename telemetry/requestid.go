package telemetry

import (
	"context"
	"crypto/rand"
	"net/http"
)

const maxRequestID = 128

// RequestID returns the id of the request that ctx belongs to, or "". See [Config.RequestID].
func RequestID(ctx context.Context) string {
	if x := exchangeFrom(ctx); x != nil {
		return x.id
	}
	return ""
}

// requestID returns the id that the client sent, if it is one, or a new one. A client's id ends in
// log lines, headers and perhaps file names, so it may hold nothing that means something there.
func (t *Telemetry) requestID(r *http.Request) string {
	if ids := r.Header[t.cfg.RequestID]; len(ids) == 1 && validRequestID(ids[0]) {
		return ids[0]
	}
	return rand.Text()
}

func validRequestID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return id != "" && len(id) <= maxRequestID && id[0] != '.' && id[0] != '-'
}
