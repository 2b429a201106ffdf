package origin_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestClient(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		want  string
	}{
		{"no field", nil, "10.0.0.1"},
		{"an empty field", []string{""}, "10.0.0.1"},
		{"one hop", []string{"203.0.113.9"}, "203.0.113.9"},
		{"hearsay", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9"},
		{"over trusted hops", []string{"1.1.1.1, 203.0.113.9", "10.0.0.3,10.0.0.2"}, "203.0.113.9"},
		{"only trusted hops", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"empty elements do not count", []string{"203.0.113.9, ,, ", "", ","}, "203.0.113.9"},
		{"what is no address ends the walk", []string{"203.0.113.9, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"with a port", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{"IPv6 in brackets", []string{"[2001:db8::9]:4711"}, "2001:db8::9"},
		{"with a zone", []string{"fe80::9%eth0"}, "fe80::9"},
		{"mapped", []string{"203.0.113.9, ::ffff:10.0.0.2"}, "203.0.113.9"},
		{"a long entry", []string{"203.0.113.9" + strings.Repeat("%", 60)}, "10.0.0.1"},
		{"quotes mean nothing in a list", []string{`"203.0.113.9"`}, "10.0.0.1"},
		{"31 trusted hops", []string{"203.0.113.9" + strings.Repeat(",10.0.0.2", 30)}, "203.0.113.9"},
		{"more hops than are read", []string{"203.0.113.9" + strings.Repeat(",10.0.0.2", 31)}, "10.0.0.2"},
		{"more lines than are read", append([]string{"203.0.113.9"}, make([]string, 40)...), "10.0.0.1"},
		{"an address cut off", []string{"203.0.113.9" + strings.Repeat(" ", 4092)}, "10.0.0.1"},
	}
	p := proxies(t, false, "10.0.0.0/8")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := from("10.0.0.1:1")
			if tt.lines != nil {
				r.Header["X-Forwarded-For"] = tt.lines
			}
			require.Equal(t, tt.want, p.Client(p.Peer(r), r.Header, "X-Forwarded-For").String())
		})
	}
}

func TestClientOfForwarded(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"Forwarded", `for=203.0.113.9;proto=https, For="10.0.0.2:80"`, "203.0.113.9"},
		{"Forwarded, quoted", `by="a,b;c";for="[2001:db8::9]:80"`, "2001:db8::9"},
		{"Forwarded without for", "for=203.0.113.9, proto=https", "10.0.0.1"},
		{"Forwarded with two", "for=1.1.1.1;for=203.0.113.9", "10.0.0.1"},
		{"Forwarded, obfuscated", "for=203.0.113.9, for=_hidden, for=10.0.0.2", "10.0.0.2"},
		{"Forwarded with an open quote", `for=203.0.113.9, for="10.0.0.2`, "10.0.0.1"},
		{"Forwarded with an escape", `for="203.0.113\.9"`, "10.0.0.1"},
	}
	p := proxies(t, false, "10.0.0.0/8")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := from("10.0.0.1:1", "Forwarded", tt.line, "X-Forwarded-For", "1.1.1.1")
			require.Equal(t, tt.want, p.Client(p.Peer(r), r.Header, "Forwarded").String())
		})
	}
}

func TestOnlyTheNamedFieldOfTrustedPeersIsRead(t *testing.T) {
	p := proxies(t, false, "10.0.0.0/8")
	r := from("10.0.0.1:1", "X-Real-Ip", "203.0.113.9", "X-Forwarded-For", "1.1.1.1")
	require.Equal(t, "203.0.113.9", p.Client(p.Peer(r), r.Header, "X-Real-Ip").String())
	r.RemoteAddr = "192.0.2.1:1"
	require.Equal(t, "192.0.2.1", p.Client(p.Peer(r), r.Header, "X-Real-Ip").String())
}

func TestForwardedFor(t *testing.T) {
	hops := func(n int) string { return strings.Repeat(", 10.0.0.1", n) }
	tests := []struct {
		name  string
		peer  string
		lines []string
		want  string
	}{
		{"a stranger's is replaced", "192.0.2.1:1", []string{"203.0.113.9"}, "192.0.2.1"},
		{"none", "10.0.0.1:1", nil, "10.0.0.1"},
		{"appended", "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9"}, "1.1.1.1, 203.0.113.9, 10.0.0.1"},
		{"joined", "10.0.0.1:1", []string{"1.1.1.1", "203.0.113.9"}, "1.1.1.1, 203.0.113.9, 10.0.0.1"},
		{"empty", "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"no port", "10.0.0.1", []string{"203.0.113.9"}, "203.0.113.9, 10.0.0.1"},
		{"a zone", "[fe80::1%eth0]:1", []string{"203.0.113.9"}, "fe80::1"},
		{"a stranger's socket", "@", []string{"203.0.113.9"}, ""},
		{"what was read of too many", "10.0.0.1:1", []string{"203.0.113.9" + hops(40)}, "10.0.0.1"},
		{"as many as are read", "10.0.0.1:1", []string{"203.0.113.9" + hops(30)}, "203.0.113.9, 10.0.0.1"},
		{"one less", "10.0.0.1:1", []string{"203.0.113.9" + hops(29)}, "203.0.113.9" + hops(30)},
		{"too long", "10.0.0.1:1", []string{"203.0.113.9" + strings.Repeat(" ", 5000)}, "10.0.0.1"},
		{"hearsay may be long", "10.0.0.1:1", []string{strings.Repeat("x", 5000) + ", 203.0.113.9"},
			strings.Repeat("x", 5000) + ", 203.0.113.9, 10.0.0.1"},
	}
	p := proxies(t, false, "10.0.0.0/8")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := from(tt.peer)
			if tt.lines != nil {
				r.Header["X-Forwarded-For"] = tt.lines
			}
			require.Equal(t, tt.want, p.ForwardedFor(p.Peer(r), r.Header))
		})
	}
}

// A server behind us, which trusts us and whom we trust, reads the client that we read, whatever
// stands in the field.
func TestO22_TheNextServerReadsTheSameClient(t *testing.T) {
	p := proxies(t, true, "10.0.0.0/8", "2001:db8:1::/48")
	proxy := rapid.SampledFrom([]string{
		"10.0.0.2", "10.0.0.3:80", " 10.0.0.4 ", "2001:db8:1::7", "[2001:db8:1::7]:80", "::ffff:10.0.0.5", "",
	})
	other := rapid.SampledFrom([]string{
		"203.0.113.9", "203.0.113.9:80", "2001:db8::9", "[2001:db8::9]", "fe80::1%eth0", " ", "unknown",
		"01.2.3.4", `"203.0.113.9"`, strings.Repeat("x", 70), strings.Repeat(" ", 4000),
	})
	line := rapid.Custom(func(t *rapid.T) string {
		// Chains of any length whose last stranger stands near the bounds of what is read.
		entries := rapid.SliceOfN(other, 0, 3).Draw(t, "others")
		n := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(26, 34)).Draw(t, "proxies")
		return strings.Join(append(entries, rapid.SliceOfN(proxy, n, n).Draw(t, "chain")...), ",")
	})
	peers := rapid.SampledFrom([]string{
		"10.0.0.1:1", "10.0.0.1", "[2001:db8:1::1]:1", "[::ffff:10.0.0.1]:1", "192.0.2.1:1", "@", "", "pipe",
	})
	rapid.Check(t, func(t *rapid.T) {
		r := &http.Request{RemoteAddr: peers.Draw(t, "peer"), Header: http.Header{}}
		for _, l := range rapid.SliceOfN(line, 0, 3).Draw(t, "lines") {
			r.Header.Add("X-Forwarded-For", l)
		}
		peer := p.Peer(r)
		client := p.Client(peer, r.Header, "X-Forwarded-For")
		sent := p.ForwardedFor(peer, r.Header)

		next := &http.Request{RemoteAddr: "10.9.9.9:1", Header: http.Header{}}
		if sent == "" {
			if client.IsValid() {
				t.Fatalf("client %v is not sent on", client)
			}
			return
		}
		next.Header.Set("X-Forwarded-For", sent)
		if got := p.Client(p.Peer(next), next.Header, "X-Forwarded-For"); got != client {
			t.Fatalf("the next server reads %v in %q, we %v", got, sent, client)
		}
	})
}

func FuzzClient(f *testing.F) {
	f.Add("10.0.0.1:1", "X-Forwarded-For", "1.1.1.1, 203.0.113.9")
	f.Add("10.0.0.1:1", "Forwarded", `for="[2001:db8::9]:80";proto=https`)
	f.Add("[fe80::1%eth0]:1", "X-Forwarded-For", ",,, 10.0.0.2")
	f.Add("@", "X-Forwarded-For", "::ffff:203.0.113.9")
	p := proxies(f, true, "10.0.0.0/8", "fe80::/10")
	f.Fuzz(func(t *testing.T, remoteAddr, field, value string) {
		r := &http.Request{RemoteAddr: remoteAddr, Header: http.Header{field: {value}}}
		peer := p.Peer(r)
		client := p.Client(peer, r.Header, field)
		if !peer.Trusted {
			require.Equal(t, peer.Addr, client)
		}
		if client.IsValid() {
			require.Equal(t, client.Unmap().WithZone(""), client)
			again, err := netip.ParseAddr(client.String())
			require.NoError(t, err)
			require.Equal(t, client, again)
		}
		if peer.Addr.IsValid() {
			require.Equal(t, peer.Addr.String(), peer.Text())
			if ap, err := netip.ParseAddrPort(remoteAddr); err == nil { // netip as the oracle
				require.Equal(t, ap.Addr().Unmap().WithZone(""), peer.Addr)
			}
		} else if _, err := netip.ParseAddrPort(remoteAddr); err == nil {
			t.Fatalf("%q is an address to netip", remoteAddr)
		}
	})
}
