package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// eachHTTP runs f with a client of HTTP/1.1 and with one of HTTP/2, whose server has h2c.
func eachHTTP(t *testing.T, f func(t *testing.T, c *http.Client)) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2=%t", h2), func(t *testing.T) {
			p := new(http.Protocols)
			p.SetHTTP1(!h2)
			p.SetUnencryptedHTTP2(h2)
			tr := &http.Transport{Protocols: p}
			t.Cleanup(tr.CloseIdleConnections)
			f(t, &http.Client{Transport: tr})
		})
	}
}

// trailing answers with the request's trailers as JSON, and with trailers of its own.
var trailing = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Trailer", "X-Sum, X-Internal, X_internal, Server")
	_ = json.NewEncoder(w).Encode(r.Trailer)
	w.(http.Flusher).Flush()
	for _, name := range []string{"X-Sum", "X-Internal", "X_internal", "Server"} {
		w.Header().Set(name, "trailer")
	}
	w.Header().Set(http.TrailerPrefix+"X-Internal-Late", "trailer")
})

// TestL47_TrailersPassTheRulesOfHeaders: what a route removes or sets in a header, and what only
// the gateway may say, stands in no trailer either, however it is spelt.
func TestL47_TrailersPassTheRulesOfHeaders(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: trailing})
	for _, sticky := range []string{"", ", sticky: {cookie: c}"} {
		g := start(t, fmt.Sprintf(`
server: {h2c: true, deadline_field: X-Deadline, hint_field: X-Hint}
upstreams: {app: {hosts: [%q]%s}}
routes:
  - upstream: app
    headers:
      request: {set: {X-Tenant: "42"}, remove: [X-Role]}
      response: {set: {Server: trivet}, remove: [X-Internal, X-Internal-Late]}
`, b.Addr, sticky))
		eachHTTP(t, func(t *testing.T, c *http.Client) {
			req := request(t, "POST", g.url)
			req.Body = io.NopCloser(strings.NewReader("body"))
			req.Trailer = http.Header{}
			for _, name := range []string{
				"X-Role", "X_Role", "X-Tenant", "X.Tenant", "Trivet-Shadow", "Trivet_Shadow", "X-Deadline",
				"X_Deadline", "X-Hint", "X_Hint", "X-Checksum", "X-Forwarded-Prefix",
			} {
				req.Trailer[name] = []string{"client"}
			}
			resp, body := do(t, c, req)
			require.Equal(t, 200, resp.StatusCode, body)
			var got http.Header
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			require.Equal(t, http.Header{"X-Checksum": {"client"}}, got)
			require.Equal(t, http.Header{"X-Sum": {"trailer"}}, resp.Trailer)
			require.Equal(t, []string{"trivet"}, resp.Header["Server"])
		})
	}
}

// TestFieldsOfTrustedPeersInEverySpelling: those that only trusted peers may send are removed
// however they are spelt.
func TestFieldsOfTrustedPeersInEverySpelling(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: mirror})
	for _, hint := range []string{"", ", hint_field: X-Hint"} {
		g := start(t, fmt.Sprintf("server: {deadline_field: X-Request-Deadline%s}\n"+
			"upstreams: {app: {hosts: [%q]}}\nroutes: [{upstream: app}]", hint, b.Addr))
		_, got := mirrorOf(t, client(t), request(t, "GET", g.url, "X-Request-Deadline", "1000",
			"X_Request_Deadline", "1000", "X.Request-deadline", "1000", "X_Hint", "1", "X-Other", "kept"))
		for name := range got.Header {
			require.False(t, spells(name, "X-Request-Deadline"), name)
			require.False(t, hint != "" && spells(name, "X-Hint"), name)
		}
		require.Equal(t, "kept", got.Header.Get("X-Other"))
	}
}
