package examples_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/telemetry"
)

// A clientLine is a slog.Handler that keeps the client's address of the last line.
type clientLine struct {
	slog.Handler
	lines   int
	address string // "" if the line has none
}

func (l *clientLine) Enabled(context.Context, slog.Level) bool { return true }

func (l *clientLine) Handle(_ context.Context, r slog.Record) error {
	l.lines++
	l.address = ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "client.address" {
			l.address = a.Value.String()
		}
		return l.address == ""
	})
	return nil
}

// A witness is a server behind proxies, and the next server behind it. It records the client that
// each package names for a request; "" is no client.
type witness struct {
	handler http.Handler
	log     clientLine
	limit   string   // the key
	sent    []string // the X-Forwarded-For that is sent on

	next ratelimit.KeyFunc // the key of the next server
	self string            // our address, from which the next server gets requests
}

// newWitness returns a witness that trusts proxies, and unix sockets if unix is true. The next
// server trusts the same ones and the witness, whose requests come from self.
func newWitness(t *testing.T, proxies []string, unix bool, self string) *witness {
	w := &witness{self: self}
	var trusted []netip.Prefix
	for _, p := range proxies {
		trusted = append(trusted, netip.MustParsePrefix(p))
	}
	lines, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: &w.log, Client: telemetry.ClientFull,
	})
	require.NoError(t, err)
	tel, err := telemetry.New(telemetry.Config{
		TracerProvider: noop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider(),
		AccessLog: lines, TrustedProxies: trusted, TrustUnix: unix,
	})
	require.NoError(t, err)
	limit, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: trusted, TrustUnix: unix, IPv6Bits: 128})
	require.NoError(t, err)

	b, err := balancer.New(balancer.Config{Resolver: balancer.NewPushed()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	proxy, err := b.Handler(&url.URL{Scheme: "http", Host: "next.test"}, balancer.HandlerConfig{
		TrustedProxies: trusted, TrustUnix: unix,
		Transport: func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				w.sent = r.Header["X-Forwarded-For"]
				resp := &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}
				return resp, nil
			})
		},
	})
	require.NoError(t, err)
	w.handler = tel.Middleware(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.limit, _ = limit(r)
		proxy.ServeHTTP(rw, r)
	}))

	if self == "@" {
		unix = true
	} else {
		trusted = append(trusted, netip.MustParsePrefix(self+"/32"))
	}
	w.next, err = ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: trusted, TrustUnix: unix, IPv6Bits: 128})
	require.NoError(t, err)
	return w
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// check sends a request through w, requires that all name the same client and returns it.
func (w *witness) check(t *testing.T, peer string, lines []string) string {
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, Host: "asked.test", RemoteAddr: peer,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
	}
	if lines != nil {
		r.Header["X-Forwarded-For"] = lines
	}
	before := w.log.lines
	w.limit, w.sent = "not asked", []string{"not sent"}
	w.handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(t.Context()))
	if w.log.lines != before+1 {
		t.Fatalf("%d lines of one request", w.log.lines-before)
	}
	if w.log.address != w.limit {
		t.Fatalf("of %q with %q the log names %q, the limit %q", peer, lines, w.log.address, w.limit)
	}
	if len(w.sent) == 0 {
		if w.limit != "" {
			t.Fatalf("of %q with %q the client %q is not sent on", peer, lines, w.limit)
		}
		return ""
	}
	next := &http.Request{RemoteAddr: w.self, Header: http.Header{"X-Forwarded-For": w.sent}}
	if w.self != "@" {
		next.RemoteAddr += ":4711"
	}
	if key, _ := w.next(next); key != w.limit {
		t.Fatalf("of %q with %q the next server reads %q in %q, this one %q",
			peer, lines, key, w.sent, w.limit)
	}
	return w.limit
}

// These are trusted proxies and others, in every form that a RemoteAddr or an entry of
// X-Forwarded-For can have. None is the self of a witness.
var (
	proxyForms = []string{
		"10.0.0.1:80", "10.0.0.2", "[::ffff:10.0.0.3]:80", "::ffff:10.0.0.4", "[2001:db8:1::1]:80",
		"2001:db8:1::2", "[2001:DB8:1:0::3]", "[2001:db8:1::4%eth0]:80", "2001:db8:1::5%eth0",
	}
	otherForms = []string{
		"203.0.113.9:80", "203.0.113.9", "[::ffff:203.0.113.9]:80", "::ffff:203.0.113.9", "[2001:db8::9]:80",
		"2001:db8::9", "[2001:DB8:0::9]", "[fe80::9%eth0]:80", "fe80::9%eth0", "0.0.0.0", "[::]:1",
	}
	unixForms = []string{"", "@", "@abstract", "/run/app.sock", "./app.sock"}
	noAddress = []string{
		"pipe", "unknown", "_hidden", "203.0.113.09", "203.0.113.256", "203.0.113.9:", "203.0.113.9:65536",
		"203.0.113.9%eth0", "[203.0.113.9]:80", "[2001:db8::9", "2001:db8::9]:80", `"203.0.113.9"`, "1.2.3",
		":80", "\x00", strings.Repeat("9", 70), strings.Repeat("%", 5000),
	}
	emptyForms = []string{"", " ", "\t", "  \t "}
)

func oneOf(rnd *rand.Rand, lists ...[]string) string {
	list := lists[rnd.IntN(len(lists))]
	return list[rnd.IntN(len(list))]
}

// forwardedLines returns an X-Forwarded-For with entries of any kind, followed by trusted hops.
// Often there are so many hops that the last other entry is near the bounds of what is read.
func forwardedLines(rnd *rand.Rand) []string {
	var lines []string
	for range rnd.IntN(4) {
		var entries []string
		for range rnd.IntN(4) {
			entries = append(entries, oneOf(rnd, otherForms, otherForms, proxyForms, noAddress, emptyForms))
		}
		hops := rnd.IntN(4)
		if rnd.IntN(4) == 0 {
			hops = 26 + rnd.IntN(10)
		}
		for range hops {
			entries = append(entries, oneOf(rnd, proxyForms, proxyForms, proxyForms, emptyForms))
		}
		line := strings.Join(entries, []string{",", ", ", " ,\t"}[rnd.IntN(3)])
		if rnd.IntN(20) == 0 {
			line += strings.Repeat(" ", 3900+rnd.IntN(300))
		}
		lines = append(lines, line)
	}
	if lines == nil && rnd.IntN(2) == 0 {
		return []string{}
	}
	return lines
}

// witnesses calls test n times, each with another seed, for each of several servers.
func witnesses(t *testing.T, n int, test func(t *testing.T, w *witness, rnd *rand.Rand)) {
	const tcp, unix = "198.51.100.1", "@"
	networks := []string{"10.0.0.0/8", "2001:db8:1::/48"}
	for name, build := range map[string]func(*testing.T) *witness{
		"trusts nobody": func(t *testing.T) *witness { return newWitness(t, nil, false, tcp) },
		"trusts proxies": func(t *testing.T) *witness {
			return newWitness(t, networks, false, tcp)
		},
		"trusts all": func(t *testing.T) *witness {
			return newWitness(t, []string{"::ffff:10.0.0.0/104", "2001:db8:1::/48"}, true, tcp)
		},
		"is behind and before sockets": func(t *testing.T) *witness {
			return newWitness(t, networks, true, unix)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := build(t)
			for seed := range uint64(n) {
				test(t, w, rand.New(rand.NewPCG(seed, 36)))
			}
		})
	}
}

// The log, the limit and the next server name the same client, however the peer is written.
func TestR36_PeersInEveryFormAreOneClientToAll(t *testing.T) {
	witnesses(t, 12_500, func(t *testing.T, w *witness, rnd *rand.Rand) {
		var lines []string
		if rnd.IntN(2) == 0 {
			lines = []string{oneOf(rnd, otherForms, proxyForms, noAddress, emptyForms)}
		}
		w.check(t, oneOf(rnd, proxyForms, otherForms, unixForms, noAddress), lines)
	})
}

// The log, the limit and the next server name the same client, whatever X-Forwarded-For contains.
func TestO22_ForwardedFieldsOfAnyKindNameOneClientToAll(t *testing.T) {
	witnesses(t, 12_500, func(t *testing.T, w *witness, rnd *rand.Rand) {
		w.check(t, oneOf(rnd, proxyForms, proxyForms, unixForms, otherForms), forwardedLines(rnd))
	})
}

// The requests that the tests above generate have all kinds of clients.
func TestGeneratedForwardingFieldsVary(t *testing.T) {
	w := newWitness(t, []string{"10.0.0.0/8", "2001:db8:1::/48"}, false, "198.51.100.1")
	rnd := rand.New(rand.NewPCG(1, 2))
	counts := map[string]int{}
	for range 2000 {
		peer := oneOf(rnd, proxyForms, unixForms, otherForms)
		client := w.check(t, peer, forwardedLines(rnd))
		switch {
		case client == "":
			counts["nobody"]++
		case strings.Contains(peer, client):
			counts["the peer"]++
		case strings.HasPrefix(client, "10.") || strings.HasPrefix(client, "2001:db8:1:"):
			counts["a proxy"]++
		default:
			counts["another one"]++
		}
	}
	for _, kind := range []string{"nobody", "the peer", "a proxy", "another one"} {
		require.Greater(t, counts[kind], 100, "%s of %v", kind, counts)
	}
}
