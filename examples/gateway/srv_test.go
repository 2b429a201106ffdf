package main

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/trivet-go/trivet/internal/backend"
)

var nameServerAddr atomic.Pointer[string] // of the test's name server; nil: the system's are asked

// The resolver stays the same, since clients of earlier tests may still dial.
func init() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(
		ctx context.Context, network, addr string,
	) (net.Conn, error) {
		if own := nameServerAddr.Load(); own != nil {
			network, addr = "udp", *own
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
}

// nameServer makes the process ask a name server of the test's, for which answer returns the
// records of a name.
func nameServer(t *testing.T, answer func(q dnsmessage.Question) []dnsmessage.ResourceBody) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			q := m.Questions[0]
			for _, body := range answer(q) {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: body,
				})
			}
			if packed, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	addr := conn.LocalAddr().String()
	nameServerAddr.Store(&addr)
	t.Cleanup(func() {
		nameServerAddr.Store(nil)
		conn.Close()
		<-served
	})
}

// DNS says which hosts and ports there are, and which of them is the reserve.
func TestHostsOfSRVRecords(t *testing.T) {
	a, b := backend.Start(t, backend.Config{Name: "a"}), backend.Start(t, backend.Config{Name: "b"})
	service := func(priority uint16, addr string) dnsmessage.ResourceBody {
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		n, err := strconv.ParseUint(port, 10, 16)
		require.NoError(t, err)
		return &dnsmessage.SRVResource{
			Priority: priority, Weight: 1, Port: uint16(n), Target: dnsmessage.MustNewName("host.test."),
		}
	}
	records := map[string][]dnsmessage.ResourceBody{
		"_http._tcp.mail.test.": {service(20, a.Addr), service(10, b.Addr)},
		"_web._tcp.mail.test.":  {service(0, a.Addr)},
	}
	nameServer(t, func(q dnsmessage.Question) []dnsmessage.ResourceBody {
		switch {
		case q.Type == dnsmessage.TypeSRV:
			return records[q.Name.String()]
		case q.Type == dnsmessage.TypeA && q.Name.String() == "host.test.":
			return []dnsmessage.ResourceBody{&dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}
		}
		return nil
	})
	text := func(srv string) string {
		return "upstreams: {mail: {url: \"http://mail.test\", srv: " + srv + "}}\nroutes: [{upstream: mail}]"
	}
	g := start(t, text("http"))
	c := client(t)
	for range 5 {
		resp, body := get(t, c, g.url)
		require.Equal(t, "b", resp.Header.Get("Backend"), body)
	}
	hosts := g.current.Load().upstreams["mail"].hosts()
	require.Len(t, hosts, 2)
	reloadText(t, g, text("web"))
	require.Eventually(t, func() bool {
		resp, _ := get(t, c, g.url)
		return resp.Header.Get("Backend") == "a"
	}, eventually, tick)
}
