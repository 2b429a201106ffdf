package balancer_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/trivet-go/trivet/balancer"
)

// A zone is a DNS server whose answers a test sets. It serves sockets, or pipes inside a synctest
// bubble.
type zone struct {
	mu    sync.Mutex // guards the fields below
	addrs map[string][]netip.Addr
	srv   map[string][]dnsmessage.SRVResource
	fail  map[string]dnsmessage.RCode // instead of an answer
	mute  bool                        // no answer at all
	muted map[string]bool             // nor for these names
	asked map[string][]time.Time      // by name, for A and SRV
	tcp   int                         // queries over streams
}

func newZone() *zone {
	return &zone{
		addrs: map[string][]netip.Addr{}, srv: map[string][]dnsmessage.SRVResource{},
		fail: map[string]dnsmessage.RCode{}, asked: map[string][]time.Time{},
	}
}

// set makes addrs the addresses of name.
func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addrs[name] = nil
	for _, a := range addrs {
		z.addrs[name] = append(z.addrs[name], netip.MustParseAddr(a))
	}
	delete(z.fail, name)
}

func (z *zone) setFail(name string, code dnsmessage.RCode) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.fail[name] = code
}

func (z *zone) times(name string) []time.Time {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.asked[name])
}

// reply answers a query in at most limit bytes; nil is no answer.
func (z *zone) reply(query []byte, limit int) []byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	if q.Type != dnsmessage.TypeAAAA {
		z.asked[name] = append(z.asked[name], time.Now())
	}
	if z.mute || z.muted[name] {
		return nil
	}
	addrs, known := z.addrs[name]
	records, service := z.srv[name]
	answer := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID:                 m.ID,
			Response:           true,
			Authoritative:      true,
			RecursionAvailable: true,
			RCode:              z.fail[name],
		},
		Questions: m.Questions,
	}
	if !known && !service && answer.RCode == 0 {
		answer.RCode = dnsmessage.RCodeNameError
	}
	if answer.RCode == 0 {
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
		for _, a := range addrs {
			switch {
			case q.Type == dnsmessage.TypeA && a.Is4():
				answer.Answers = append(
					answer.Answers,
					dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}},
				)
			case q.Type == dnsmessage.TypeAAAA && a.Is6():
				answer.Answers = append(
					answer.Answers,
					dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}},
				)
			}
		}
		for _, r := range records {
			if q.Type == dnsmessage.TypeSRV {
				answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: head, Body: &r})
			}
		}
	}
	packed, err := answer.Pack()
	if err != nil {
		return nil
	}
	if len(packed) > limit {
		answer.Answers, answer.Truncated = nil, true
		packed, _ = answer.Pack()
	}
	return packed
}

// stream answers the queries of one connection (RFC 1035, section 4.2.2).
func (z *zone) stream(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		z.mu.Lock()
		z.tcp++
		z.mu.Unlock()
		if answer := z.reply(query, 65535); answer != nil {
			if _, err := c.Write(binary.BigEndian.AppendUint16(nil, uint16(len(answer)))); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}
}

// piped returns a resolver that asks z without sockets, inside a synctest bubble.
func (z *zone) piped(t *testing.T) *net.Resolver {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // net's queries end by their own deadline
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go z.stream(server)
		return client, nil
	}}
}

// listen serves z on a UDP and a TCP socket, and returns a resolver that asks there.
func (z *zone) listen(t *testing.T) *net.Resolver {
	t.Helper()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		udp.Close()
		tcp.Close()
		wg.Wait()
	})
	wg.Go(func() {
		query := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(query)
			if err != nil {
				return
			}
			if answer := z.reply(query[:n], 512); answer != nil {
				_, _ = udp.WriteTo(answer, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { z.stream(c) })
		}
	})
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			addr := udp.LocalAddr()
			if strings.HasPrefix(network, "tcp") {
				addr = tcp.Addr()
			}
			return new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
		},
	}
}

// A watch collects what a resolver says.
type watch struct {
	mu      sync.Mutex // guards the fields below
	sets    [][]balancer.Endpoint
	errs    []error
	refresh chan struct{}
	spoken  chan struct{} // one value after each word
}

// observe runs r for target until the test ends.
func observe(t *testing.T, r balancer.Resolver, target string) *watch {
	t.Helper()
	u, err := url.Parse(target)
	require.NoError(t, err)
	w := &watch{refresh: make(chan struct{}, 1), spoken: make(chan struct{}, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Resolve(ctx, u, w.refresh, func(set []balancer.Endpoint, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if err != nil {
				w.errs = append(w.errs, err)
			} else {
				w.sets = append(w.sets, slices.SortedFunc(
					slices.Values(set),
					func(a, b balancer.Endpoint) int { return cmp.Compare(a.Addr, b.Addr) },
				))
			}
			w.spoken <- struct{}{}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// last returns the addresses of the last set.
func (w *watch) last() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) == 0 {
		return nil
	}
	all := []string{}
	for _, e := range w.sets[len(w.sets)-1] {
		all = append(all, e.Addr)
	}
	return all
}

func (w *watch) counts() (sets, errs int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sets), len(w.errs)
}

// service returns a zone with SRV records of users.test, "priority weight target" each, on port 80.
func service(records ...string) *zone {
	z := newZone()
	for _, r := range records {
		var srv dnsmessage.SRVResource
		var target string
		_, err := fmt.Sscan(r, &srv.Priority, &srv.Weight, &target)
		if err != nil {
			panic(err)
		}
		srv.Port, srv.Target = 80, dnsmessage.MustNewName(target)
		z.srv["_http._tcp.users.test"] = append(z.srv["_http._tcp.users.test"], srv)
	}
	return z
}
