package origin_test

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
)

func proxies(t testing.TB, unix bool, prefixes ...string) *origin.Proxies {
	t.Helper()
	var list []netip.Prefix
	for _, p := range prefixes {
		list = append(list, netip.MustParsePrefix(p))
	}
	f := settings.Of("test", "Config")
	p := origin.NewProxies(f, list, unix)
	require.NoError(t, f.Err())
	return &p
}

func from(remoteAddr string, header ...string) *http.Request {
	r := &http.Request{RemoteAddr: remoteAddr, Host: "asked.test", Header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestPrefixesAreChecked(t *testing.T) {
	f := settings.Of("test", "Config")
	p := origin.NewProxies(f, []netip.Prefix{
		netip.MustParsePrefix("10.1.2.3/8"),
		{},
		netip.MustParsePrefix("::ffff:192.0.2.0/120"),
		netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 90),
		netip.PrefixFrom(netip.MustParseAddr("192.0.2.1"), 33),
	}, false)
	require.EqualError(t, f.Err(), "test: Config.TrustedProxies[1]: is not a prefix\n"+
		"test: Config.TrustedProxies[3]: ::ffff:10.0.0.0/90 is an IPv4 address with fewer than 96 bits\n"+
		"test: Config.TrustedProxies[4]: is not a prefix")
	for peer, want := range map[string]bool{
		"10.9.9.9:1": true, "[::ffff:10.9.9.9]:1": true, "192.0.2.77:1": true, "[::ffff:192.0.2.77]:1": true,
		"11.0.0.1:1": false, "192.0.3.1:1": false, "[::1]:1": false,
	} {
		require.Equal(t, want, p.Peer(from(peer)).Trusted, peer)
	}
}

func TestR36_RemoteAddrInEveryForm(t *testing.T) {
	tests := []struct {
		remoteAddr string
		text, port string
		unix       bool
	}{
		{"192.0.2.1:80", "192.0.2.1", "80", false},
		{"192.0.2.1", "192.0.2.1", "", false},
		{"[2001:db8::1]:80", "2001:db8::1", "80", false},
		{"[2001:db8::1]", "2001:db8::1", "", false},
		{"2001:db8::1", "2001:db8::1", "", false},
		{"[2001:DB8:0::1]:80", "2001:db8::1", "80", false},
		{"[fe80::1%eth0]:80", "fe80::1", "80", false},
		{"fe80::1%eth0", "fe80::1", "", false},
		{"[::ffff:192.0.2.1]:80", "192.0.2.1", "80", false},
		{"::ffff:192.0.2.1", "192.0.2.1", "", false},
		{"0.0.0.0:0", "0.0.0.0", "0", false},
		{"255.255.255.255:65535", "255.255.255.255", "65535", false},

		{"", "", "", true},
		{"@", "", "", true},
		{"@abstract", "", "", true},
		{"/run/app.sock", "", "", true},
		{"./app.sock", "", "", true},

		{"pipe", "", "", false},
		{"192.0.2.01:80", "", "", false},
		{"192.0.2.256:80", "", "", false},
		{"192.0.2.1:65536", "", "", false},
		{"192.0.2.1:http", "", "", false},
		{"192.0.2.1:", "", "", false},
		{"192.0.2.1%eth0", "", "", false},
		{"192.0.2:80", "", "", false},
		{"192..2.1:80", "", "", false},
		{"192.0.2.1.1:80", "", "", false},
		{"[192.0.2.1]:80", "", "", false},
		{"[2001:db8::1]:", "", "", false},
		{"[2001:db8::1:80", "", "", false},
		{"2001:db8::1]:80", "", "", false},
	}
	p := proxies(t, false)
	for _, tt := range tests {
		peer := p.Peer(from(tt.remoteAddr))
		require.Equal(t, tt.text, peer.Text(), "%q", tt.remoteAddr)
		require.Equal(t, tt.text != "", peer.Addr.IsValid(), "%q", tt.remoteAddr)
		require.Equal(t, tt.port, peer.Port, "%q", tt.remoteAddr)
		require.Equal(t, tt.unix, peer.Unix, "%q", tt.remoteAddr)
		require.False(t, peer.Trusted, "%q", tt.remoteAddr)
	}
}

func TestUnixPeersAreTrustedIfAsked(t *testing.T) {
	everybody := proxies(t, false, "0.0.0.0/0", "::/0")
	socket := proxies(t, true)
	for _, remoteAddr := range []string{"", "@", "@x", "/run/app.sock"} {
		require.False(t, everybody.Peer(from(remoteAddr)).Trusted, "%q", remoteAddr)
		require.True(t, socket.Peer(from(remoteAddr)).Trusted, "%q", remoteAddr)
	}
	require.False(t, socket.Peer(from("192.0.2.1:80")).Trusted)
	require.False(t, socket.Peer(from("pipe")).Trusted)

	r := from("@", "X-Forwarded-For", "203.0.113.9")
	peer := socket.Peer(r)
	require.Equal(t, "203.0.113.9", socket.Client(peer, r.Header, "X-Forwarded-For").String())
	require.Equal(t, "203.0.113.9", socket.ForwardedFor(peer, r.Header))
}

func TestHostAndScheme(t *testing.T) {
	const proxy, stranger = "10.0.0.1:1", "192.0.2.1:1"
	const forHost, forProto = "X-Forwarded-Host", "X-Forwarded-Proto"
	tests := []struct {
		name  string
		peer  string
		tls   bool
		field string
		value []string
		host  string
		https bool
	}{
		{"nothing said", proxy, false, forHost, nil, "asked.test", false},
		{"over TLS", proxy, true, forHost, nil, "asked.test", true},
		{"trusted host", proxy, false, forHost, []string{"front.test"}, "front.test", false},
		{"the last host", proxy, false, forHost, []string{"a.test", "b.test, c.test"}, "c.test", false},
		{"an empty host", proxy, false, forHost, []string{"a.test, "}, "asked.test", false},
		{"a stranger's host", stranger, false, forHost, []string{"front.test"}, "asked.test", false},
		{"trusted scheme", proxy, false, forProto, []string{"HTTPS"}, "asked.test", true},
		{"of a websocket", proxy, false, forProto, []string{"wss"}, "asked.test", true},
		{"http behind TLS", proxy, true, forProto, []string{"https", "http"}, "asked.test", false},
		{"a stranger's scheme", stranger, false, forProto, []string{"https"}, "asked.test", false},
	}
	p := proxies(t, false, "10.0.0.0/8")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := from(tt.peer)
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if tt.value != nil {
				r.Header[tt.field] = tt.value
			}
			peer := p.Peer(r)
			require.Equal(t, tt.host, peer.Host(r))
			require.Equal(t, tt.https, peer.HTTPS(r))
		})
	}
}

func TestSplitHost(t *testing.T) {
	for in, want := range map[string][2]string{
		"":            {"", ""},
		"a.test":      {"a.test", ""},
		"a.test:80":   {"a.test", "80"},
		"a.test:":     {"a.test", ""},
		"[::1]:80":    {"::1", "80"},
		"[::1]":       {"::1", ""},
		"192.0.2.1:1": {"192.0.2.1", "1"},
	} {
		host, port := origin.SplitHost(in)
		require.Equal(t, want, [2]string{host, port}, "%q", in)
	}
}

func TestAllocNothingForIPv4(t *testing.T) {
	p := proxies(t, false)
	r := from("192.0.2.1:80")
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if p.Peer(r).Text() == "" {
			t.Fatal("no text")
		}
	}))
}
