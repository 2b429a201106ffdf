package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

func requestFrom(remote string, header http.Header) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	if header != nil {
		r.Header = header
	}
	return r
}

// byProxies is the key of a client behind proxies.
func byProxies(t testing.TB) ratelimit.KeyFunc {
	t.Helper()
	key, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: proxies})
	require.NoError(t, err)
	return key
}

func xff(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }

func TestR01_ForwardedForIsBelievedFromProxiesOnly(t *testing.T) {
	for name, tt := range map[string]struct {
		remote string
		header http.Header
		want   string
	}{
		"no header":                 {"192.0.2.1:1", nil, "192.0.2.1"},
		"stranger lies":             {"192.0.2.1:1", xff("198.51.100.7"), "192.0.2.1"},
		"stranger claims to be one": {"192.0.2.1:1", xff("10.0.0.1"), "192.0.2.1"},
		"proxy says":                {"10.0.0.1:1", xff("198.51.100.7"), "198.51.100.7"},
		"client prepends":           {"10.0.0.1:1", xff("203.0.113.9, 198.51.100.7"), "198.51.100.7"},
		"client prepends a proxy":   {"10.0.0.1:1", xff("10.9.9.9, 198.51.100.7"), "198.51.100.7"},
		"two proxies": {
			"10.0.0.1:1", xff("203.0.113.9, 198.51.100.7, 10.0.0.2"), "198.51.100.7",
		},
		"proxies only":              {"10.0.0.1:1", xff("10.0.0.3, 10.0.0.2"), "10.0.0.3"},
		"proxy says nothing":        {"10.0.0.1:1", nil, "10.0.0.1"},
		"client's own line":         {"10.0.0.1:1", xff("203.0.113.9", "198.51.100.7"), "198.51.100.7"},
		"proxy's line is empty":     {"10.0.0.1:1", xff("203.0.113.9", ""), "203.0.113.9"},
		"garbage stops at the last": {"10.0.0.1:1", xff("203.0.113.9, unknown, 10.0.0.2"), "10.0.0.2"},
		"IPv6 proxy":                {"[fd00::1]:1", xff("2001:db8:1:2:3::4"), "2001:db8:1:2::"},
		"mapped proxy":              {"[::ffff:10.0.0.1]:1", xff("198.51.100.7"), "198.51.100.7"},
		"mapped stranger as IPv4":   {"[::ffff:192.0.2.1]:1", nil, "192.0.2.1"},
		"True-Client-IP is not asked": {
			"10.0.0.1:1", http.Header{"True-Client-Ip": {"198.51.100.7"}}, "10.0.0.1",
		},
		"X-Real-IP is not asked": {"10.0.0.1:1", http.Header{"X-Real-Ip": {"198.51.100.7"}}, "10.0.0.1"},
		"Forwarded is not asked": {
			"10.0.0.1:1", http.Header{"Forwarded": {"for=198.51.100.7"}}, "10.0.0.1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			key, ok := byProxies(t)(requestFrom(tt.remote, tt.header))
			require.True(t, ok)
			require.Equal(t, tt.want, key)
		})
	}
}

func TestR02_OneWayToWriteAnAddress(t *testing.T) {
	for entry, want := range map[string]string{
		"198.51.100.7":                                   "198.51.100.7",
		"198.51.100.7:8080":                              "198.51.100.7",
		" \t198.51.100.7 ":                               "198.51.100.7",
		"::ffff:198.51.100.7":                            "198.51.100.7",
		"[::ffff:198.51.100.7]:80":                       "198.51.100.7",
		"2001:db8::1":                                    "2001:db8::",
		"[2001:db8::1]":                                  "2001:db8::",
		"[2001:db8::1]:443":                              "2001:db8::",
		"2001:DB8:0:0:0:0:0:1":                           "2001:db8::",
		"2001:db8::1%eth0":                               "2001:db8::",
		", ,198.51.100.7, ,,":                            "198.51.100.7",
		"198.51.100.07":                                  "10.0.0.1", // leading zeros are octal to some
		"198.51.100":                                     "10.0.0.1",
		"[198.51.100.7]":                                 "10.0.0.1",
		"198.51.100.7 203.0.113.9":                       "10.0.0.1",
		"198.51.100.7\r\n 203.0.113.9":                   "10.0.0.1",
		"\"198.51.100.7\"":                               "10.0.0.1",
		strings.Repeat("1", 10_000):                      "10.0.0.1",
		strings.Repeat("10.0.0.2,", 10_000):              "10.0.0.2",
		"198.51.100.7" + strings.Repeat(",10.0.0.2", 30): "198.51.100.7",
		"198.51.100.7" + strings.Repeat(",10.0.0.2", 31): "10.0.0.2", // not looked at
		"1.1.1.1" + strings.Repeat(",", 100_000):         "10.0.0.1",
	} {
		key, ok := byProxies(t)(requestFrom("10.0.0.1:1", xff(entry)))
		require.True(t, ok)
		require.Equal(t, want, key, "%.40q", entry)
	}
	many := make([]string, 10_000)
	key, ok := byProxies(t)(requestFrom("10.0.0.1:1", xff(append([]string{"198.51.100.7"}, many...)...)))
	require.True(t, ok)
	require.Equal(t, "10.0.0.1", key, "bounded work")
}

func TestR03_ExactlyOneSource(t *testing.T) {
	all := http.Header{
		"X-Forwarded-For": {"198.51.100.1"}, "X-Real-Ip": {"198.51.100.2"},
		"True-Client-Ip": {"198.51.100.3"},
		"Forwarded":      {`for=198.51.100.4;proto=https, for="[fd00::2]:1234"`},
	}
	for header, want := range map[string]string{
		"": "198.51.100.1", "x-forwarded-for": "198.51.100.1", "X-Real-IP": "198.51.100.2",
		"True-Client-IP": "198.51.100.3", "Forwarded": "198.51.100.4", "CF-Connecting-IP": "10.0.0.1",
	} {
		byIP, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: proxies, Header: header})
		require.NoError(t, err)
		key, ok := byIP(requestFrom("10.0.0.1:1", all))
		require.True(t, ok)
		require.Equal(t, want, key, header)
	}
	byIP, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: proxies, Header: "X-Real-IP"})
	require.NoError(t, err)
	key, _ := byIP(requestFrom("10.0.0.1:1", http.Header{"X-Real-Ip": {"203.0.113.9", "198.51.100.2"}}))
	require.Equal(t, "198.51.100.2", key, "what the proxy added last")
}

func TestR03_Forwarded(t *testing.T) {
	byIP, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: proxies, Header: "Forwarded"})
	require.NoError(t, err)
	for value, want := range map[string]string{
		`for=198.51.100.4`:                                "198.51.100.4",
		`For="198.51.100.4:80";by=10.0.0.1`:               "198.51.100.4",
		`proto=https; FOR=198.51.100.4`:                   "198.51.100.4",
		`for="[2001:db8:0:1::5]"`:                         "2001:db8:0:1::",
		`for=203.0.113.9, for=198.51.100.4`:               "198.51.100.4",
		`for=203.0.113.9, for=198.51.100.4, for=10.1.1.1`: "198.51.100.4",
		`for=unknown`:                                     "10.0.0.1",
		`for=_hidden, for=10.1.1.1`:                       "10.1.1.1",
		`by=10.0.0.9`:                                     "10.0.0.1",
		`for=198.51.100.4;for=203.0.113.9`:                "10.0.0.1", // which one?
		// the client's quote swallows the proxy's words
		`for="203.0.113.9, for=198.51.100.4`:            "10.0.0.1",
		`for="203.0.113.9", for=198.51.100.4`:           "198.51.100.4",
		`for="\"", for=198.51.100.4`:                    "10.0.0.1",
		`secret="a,b;for=203.0.113.9";for=198.51.100.4`: "198.51.100.4",
	} {
		key, ok := byIP(requestFrom("10.0.0.1:1", http.Header{"Forwarded": {value}}))
		require.True(t, ok)
		require.Equal(t, want, key, value)
	}
}

func TestR04_IPv6CountsByNetwork(t *testing.T) {
	for bits, want := range map[int]string{
		0: "2001:db8:1:2::", 64: "2001:db8:1:2::", 56: "2001:db8:1::", 48: "2001:db8:1::",
		128: "2001:db8:1:2:3:4:5:6",
	} {
		byIP, err := ratelimit.ByIP(ratelimit.IPConfig{IPv6Bits: bits})
		require.NoError(t, err)
		key, ok := byIP(requestFrom("[2001:db8:1:2:3:4:5:6]:443", nil))
		require.True(t, ok)
		require.Equal(t, want, key)
		again, _ := byIP(requestFrom("[2001:db8:1:2:ffff::1%eth0]:444", nil))
		require.Equal(t, bits != 128, again == key)
	}
}

func TestByIPNamesEveryFault(t *testing.T) {
	for bits, valid := range map[int]bool{31: false, 32: true, 128: true, 129: false} {
		_, err := ratelimit.ByIP(ratelimit.IPConfig{IPv6Bits: bits})
		require.Equal(t, valid, err == nil, bits)
	}
	_, err := ratelimit.ByIP(ratelimit.IPConfig{IPv6Bits: 16, TrustedProxies: []netip.Prefix{{}}})
	require.ErrorContains(t, err, "ratelimit: IPConfig.IPv6Bits: 16 is not between 32 and 128")
	require.ErrorContains(t, err, "ratelimit: IPConfig.TrustedProxies[0]: is not a prefix")
}

func TestPeersWithoutAnAddress(t *testing.T) {
	for _, remote := range []string{"", "@", "/run/x.sock", "pipe"} {
		_, ok := ratelimit.ByPeer(requestFrom(remote, nil))
		require.False(t, ok, remote)
		_, ok = byProxies(t)(requestFrom(remote, xff("198.51.100.7")))
		require.False(t, ok, "%q is not trusted", remote)
	}
	unix, err := ratelimit.ByIP(ratelimit.IPConfig{TrustUnix: true})
	require.NoError(t, err)
	for _, remote := range []string{"", "@", "/run/x.sock"} {
		key, ok := unix(requestFrom(remote, xff("198.51.100.7")))
		require.True(t, ok, remote)
		require.Equal(t, "198.51.100.7", key)
		_, ok = unix(requestFrom(remote, nil))
		require.False(t, ok, "%q without the field", remote)
	}
	_, ok := unix(requestFrom("pipe", xff("198.51.100.7")))
	require.False(t, ok, "no unix socket")
	key, _ := unix(requestFrom("192.0.2.1:1", xff("198.51.100.7")))
	require.Equal(t, "192.0.2.1", key, "no proxy is trusted")
}

// peerOf is what is expected of an address with or without port and brackets.
func peerOf(remote string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(remote); err == nil {
		return addr.Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		port := remote[strings.LastIndexByte(remote, ':')+1:]
		return ap.Addr().Unmap(), len(port) <= 5 // netip takes more zeros
	}
	if inner, ok := strings.CutPrefix(remote, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			addr, err := netip.ParseAddr(inner)
			return addr.Unmap(), err == nil && addr.Is6()
		}
	}
	return netip.Addr{}, false
}

// hopsOf is what FuzzAddress expects: the walk, written as plainly as can be.
func hopsOf(lines []string) (hops []string) {
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, ",") {
			if entry = strings.Trim(entry, " \t"); entry != "" {
				hops = append(hops, entry)
			}
		}
	}
	return hops
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		"198.51.100.7", "10.0.0.2, 10.0.0.3", "a,,b", `for="[::1]:2"`, `for="a, for=b`, "::ffff:10.0.0.1",
		"fe80::1%a,1",
	} {
		f.Add(s, "10.0.0.1")
		f.Add(s, s)
	}
	byXFF := byProxies(f)
	byForwarded, err := ratelimit.ByIP(ratelimit.IPConfig{TrustedProxies: proxies, Header: "Forwarded"})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, first, second string) {
		lines := []string{first, second}
		for _, key := range []func(*http.Request) (string, bool){byXFF, byForwarded} {
			got, ok := key(
				requestFrom("10.0.0.1:1", http.Header{"X-Forwarded-For": lines, "Forwarded": lines}),
			)
			require.True(t, ok)
			addr, err := netip.ParseAddr(got)
			require.NoError(t, err)
			require.Equal(t, got, addr.String(), "canonical")
			require.False(t, addr.Is4In6())
			stranger, ok := key(
				requestFrom("192.0.2.1:1", http.Header{"X-Forwarded-For": lines, "Forwarded": lines}),
			)
			require.True(t, ok)
			require.Equal(t, "192.0.2.1", stranger)
		}
		peer, valid := peerOf(first)
		direct, ok := ratelimit.ByPeer(requestFrom(first, nil))
		require.Equal(t, valid, ok)
		if ok && peer.Is4() {
			require.Equal(t, peer.String(), direct)
		}
		hops := hopsOf(lines)
		if len(hops) > 0 && strings.Count(first+second, ",") < 20 && len(first+second) < 4000 {
			// If the last hop is a stranger's plain address, that is the key.
			addr, err := netip.ParseAddr(hops[len(hops)-1])
			if err == nil && addr.Is4() && !proxies[0].Contains(addr) {
				got, _ := byXFF(requestFrom("10.0.0.1:1", xff(lines...)))
				require.Equal(t, addr.String(), got)
			}
		}
	})
}

// TestR02_PeersAsNetipReadsThem: the quick way to read a peer's address takes what netip takes, and
// gives the same key.
func TestR02_PeersAsNetipReadsThem(t *testing.T) {
	byIP := ratelimit.KeyFunc(ratelimit.ByPeer)
	for _, remote := range []string{
		"192.0.2.1:1", "0.0.0.0:0", "255.255.255.255:65535", "192.0.2.1:65536", "192.0.2.1:", "192.0.2.1",
		"192.0.2.256:1", "192.0.2.01:1", "192.0.2:1", "192.0.2.1.5:1", "192.0.2.:1", ".0.2.1:1", "1..2.3:1",
		"192.0.2.1:+1", "192.0.2.1:1:2", "192.0.2.1:000001", "192.0.2.1:00001", "[::1]:1", "[::1]", "::1",
		"[::ffff:192.0.2.1]:1", "[fe80::1%eth0]:1", "00.0.0.0:1", "1.2.3.4:1 ", " 1.2.3.4:1", "", ":",
		"1.2.3.4:99999999999", "a.b.c.d:1",
	} {
		key, ok := byIP(requestFrom(remote, nil))
		peer, valid := peerOf(remote)
		require.Equal(t, valid, ok, remote)
		if ok && peer.Is4() {
			require.Equal(t, peer.String(), key)
		}
	}
}
