package telemetry_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/telemetry"
)

// The peer of a unix socket has no address. What it forwards is believed on request only.
func TestTrustUnix(t *testing.T) {
	for _, remote := range []string{"", "@", "/run/app.sock"} {
		for _, trust := range []bool{false, true} {
			l, out := logTo(t, telemetry.AccessLogConfig{Client: telemetry.ClientFull})
			b := newBench(t, telemetry.Config{TrustUnix: trust, AccessLog: l})
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = remote
			r.Header.Set("X-Forwarded-For", "203.0.113.9")
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("X-Forwarded-Host", "shop.test")
			serve(b.Middleware(http.NotFoundHandler()), r)
			span, line := text(b.span(t).Attributes()), out.all(t)[0]
			require.NotContains(t, span, "network.peer")
			if trust {
				require.Contains(t, span, "client.address=203.0.113.9 ")
				require.Contains(t, span, "server.address=shop.test server.port=443 ")
				require.Equal(t, "203.0.113.9", line["client.address"])
				require.Contains(t, b.points(t, "http.server.request.duration")[0], "url.scheme=https")
			} else {
				require.NotContains(t, span, "client.address")
				require.Contains(t, span, "server.address=example.com server.port=80 ")
				require.NotContains(t, line, "client.address")
				require.Contains(t, b.points(t, "http.server.request.duration")[0], "url.scheme=http ")
			}
		}
	}
}

// Whose request it is is found at its start: the line says what the span says, whatever a handler
// does to the request in between.
func TestOriginIsThatOfTheStart(t *testing.T) {
	for name, cfg := range map[string]telemetry.Config{
		"with spans": {}, "without": {TracerProvider: noop.NewTracerProvider()},
	} {
		t.Run(name, func(t *testing.T) {
			l, out := logTo(t, telemetry.AccessLogConfig{Client: telemetry.ClientFull})
			cfg.AccessLog = l
			cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")} // in IPv6 form
			b := newBench(t, cfg)
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("X-Forwarded-For", "203.0.113.9, , ") // empty elements do not count
			r.Header.Set("X-Forwarded-Host", "shop.test")
			serve(b.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				r.RemoteAddr = "198.51.100.1:1"
				r.Host = "other.test"
				r.Header.Set("X-Forwarded-For", "198.51.100.2")
				r.Header.Del("X-Forwarded-Host")
			})), r)
			line := out.all(t)[0]
			require.Equal(t, "203.0.113.9", line["client.address"])
			require.Equal(t, "shop.test", line["server.address"])
			for _, s := range b.spans.Ended() {
				require.Contains(t, text(s.Attributes()), "client.address=203.0.113.9 ")
			}
		})
	}
}

func TestNewRefusesProxiesThatMatchNobody(t *testing.T) {
	_, err := telemetry.New(telemetry.Config{TrustedProxies: []netip.Prefix{
		{}, netip.MustParsePrefix("::ffff:10.0.0.0/90"), netip.MustParsePrefix("10.0.0.0/8"),
	}})
	require.ErrorContains(t, err, "telemetry: Config.TrustedProxies[0]: ")
	require.ErrorContains(t, err, "telemetry: Config.TrustedProxies[1]: ")
	require.NotContains(t, err.Error(), "TrustedProxies[2]")
}

// What is shown to people is a word, and an unknown value is no panic.
func TestEnumerationsPrintAsWords(t *testing.T) {
	require.Equal(t, "pass_on answer_500 unknown", fmt.Sprint(telemetry.PassOn, " ", telemetry.Answer500, " ",
		telemetry.PanicAction(9)))
	require.Equal(t, "network full none unknown", fmt.Sprint(telemetry.ClientNetwork, " ",
		telemetry.ClientFull, " ", telemetry.ClientNone, " ", telemetry.ClientDetail(-1)))
	require.Equal(t, "availability latency page ticket", fmt.Sprint(telemetry.Availability, " ",
		telemetry.Latency, " ", telemetry.Page, " ", telemetry.Ticket))
}
