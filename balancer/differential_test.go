//go:build unix

package balancer_test

import (
	"context"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A bench has both proxies before the same servers. Everything speaks over unix sockets, of which a
// million are cheap.
type bench struct {
	server           rawServer
	balancers        map[string]*balancer.Balancer // by the protocol of the server
	handlers, rivals map[string]string             // the sockets of the fronts, likewise
	close            func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	require.NoError(t, err)
	b := &bench{
		balancers: map[string]*balancer.Balancer{}, handlers: map[string]string{},
		rivals: map[string]string{},
	}
	var closers []func()
	listen := func(name string) (net.Listener, string) {
		path := filepath.Join(dir, name)
		ln, err := net.Listen("unix", path)
		require.NoError(t, err)
		return ln, path
	}
	front := func(name string, h http.Handler) string {
		ln, path := listen(name)
		s := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(nothing{}, "", 0)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		go func() { _ = s.Serve(ln) }()
		closers = append(closers, func() { s.Close() })
		return path
	}
	for _, up := range []string{"1", "2"} {
		ln, path := listen("server" + up)
		closers = append(closers, func() { ln.Close() })
		proto, serve := backend.HTTP1, b.server.http1
		if up == "2" {
			proto, serve = backend.H2C, b.server.http2
		}
		go b.server.serve(ln, serve)
		transport := func() *http.Transport {
			tr := backend.Transport(proto)
			tr.DisableCompression = true
			tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			}
			return tr
		}
		lb, err := balancer.New(balancer.Config{
			Resolver: balancer.Static("server:1"), Transport: transport(), SlowStart: -1,
		})
		require.NoError(t, err)
		target := &url.URL{Scheme: "http", Host: "server"}
		h, err := lb.Handler(target, balancer.HandlerConfig{})
		require.NoError(t, err)
		b.balancers[up] = lb
		b.handlers[up] = front("h"+up, h)
		tr := transport()
		b.rivals[up] = front("r"+up, &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.Out.Host = r.In.Host
				r.SetXForwarded()
			},
			Transport: tr, FlushInterval: -1, ErrorLog: log.New(nothing{}, "", 0),
		})
		closers = append(closers, func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := lb.Close(ctx); err != nil {
				t.Error("Close:", err)
			}
			tr.CloseIdleConnections()
		})
	}
	b.close = func() {
		for _, f := range closers {
			f()
		}
		os.RemoveAll(dir)
	}
	return b
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }

// An outcome is what both ends have got.
type outcome struct {
	server heard
	client got
}

func (b *bench) run(t *testing.T, g *generated, socket string) (o outcome) {
	name := fmt.Sprint(g.seed, "-", filepath.Base(socket))
	b.server.begin(g, name)
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		b.server.end(name)
		return o
	}
	if g.proto == "2" {
		o.client = g.ask2(c, name)
	} else {
		o.client = g.ask1(c, name)
	}
	c.Close()
	o.server = b.server.end(name)
	return o
}

// withoutFraming returns h without what the proxy's own connections need.
func withoutFraming(h http.Header) http.Header {
	h = maps.Clone(h)
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding", "Date", "Trailer",
		exchangeField} {
		h.Del(name)
	}
	return h
}

// differ returns the rule by which Handler may differ from the ReverseProxy in an exchange, "" if
// both have done the same, or "?" and what differs.
func differ(g *generated, ours, theirs outcome) (rule, what string) {
	if g.leave {
		return "the client left", ""
	}
	if rule := refusedByRule(g); rule != "" {
		// Status 0 is net/http's refusal over HTTP/2.
		refused := ours.client.status == 400 || g.proto == "2" && ours.client.status == 0
		if ours.server.times == 0 && refused || rule == "dot segments" && ours.server.times > 0 {
			return rule, ""
		}
		return "?", "is not refused: " + rule
	}
	switch {
	case g.proto == "2" && slices.Contains(g.trailers, field{"Authorization", "x"}):
		return "net/http's server resets the stream of some trailers", "" // at some time
	case g.upstream == "2" && theirs.client.status == 502 && slices.ContainsFunc(g.fields,
		func(f field) bool { return f[0] == "Upgrade" }):
		return "only upgrades to websocket are passed on", ""
	case g.reply.status < 100:
		if ours.client.status == 502 {
			return "a status that is none is 502", ""
		}
		return "?", fmt.Sprint("status ", ours.client.status)
	case ours.client.status == 502 && g.reply.fault != "" && theirs.client.status == 502:
		return "a refusal is a problem document", ""
	case g.reply.fault == "body" && ours.client.status == g.reply.status &&
		theirs.client.status == g.reply.status:
		if ours.client.cut || g.proto == "1.0" {
			return "", "" // how much of it came is a matter of time
		}
		return "?", "a part is taken for the whole"
	}
	if what := serversDiffer(g, ours.server, theirs.server); what != "" {
		return "?", what
	}
	return clientsDiffer(g, ours.client, theirs.client)
}

// refusedByRule returns the rule by which Handler answers 400 what the ReverseProxy sends on.
func refusedByRule(g *generated) string {
	switch {
	case strings.Contains(g.path, "..") || strings.Contains(g.path, "/.") || strings.Contains(g.path, "%2"):
		if g.path != "/a%2fb" {
			return "dot segments"
		}
	case g.host == "u@a" || g.host == "a:b" || g.host == "a/b" || g.host == "[::1":
		return "a Host that is none"
	}
	if strings.Contains(g.query, ";") || strings.Contains(g.query, "%z") || strings.HasSuffix(g.query, "%") {
		return "a query that is ambiguous"
	}
	if g.host == "u@a" || g.host == "a:b" || g.host == "a/b" || g.host == "[::1" {
		return "a Host that is none"
	}
	return ""
}

func serversDiffer(g *generated, ours, theirs heard) string {
	if g.reply.early {
		return "" // the rest of the request is a matter of time
	}
	if ours.times != theirs.times && g.reply.fault == "" {
		return fmt.Sprint("sent ", ours.times, " and ", theirs.times, " times")
	}
	if ours.line != theirs.line || ours.body != theirs.body {
		return fmt.Sprintf("the server gets %s and %d bytes, of theirs %s and %d", ours.line, len(ours.body),
			theirs.line, len(theirs.body))
	}
	a, b := withoutFraming(ours.header), withoutFraming(theirs.header)
	if b["Accept-Encoding"] == nil && slices.Equal(a["Accept-Encoding"], []string{"identity"}) {
		delete(a, "Accept-Encoding") // so that the transport does not unpack
	}
	delete(b, "X-Real-Ip") // a stranger's word
	delete(b, "Upgrade")   // to other protocols than websocket
	if !maps.EqualFunc(a, b, slices.Equal) {
		return fmt.Sprintf("the server gets %v, of theirs %v", a, b)
	}
	// The ReverseProxy sends the names of trailers and no values.
	want := http.Header{}
	for _, f := range g.trailers {
		if g.announced && (f[0] == "Sum" || f[0] == "X-Any") {
			want[f[0]] = []string{f[1]}
		}
	}
	if len(want) != len(ours.trailer) || len(want) > 0 && !maps.EqualFunc(want, ours.trailer, slices.Equal) {
		return fmt.Sprintf("the server gets the trailers %v for %v", ours.trailer, g.trailers)
	}
	return ""
}

func clientsDiffer(g *generated, ours, theirs got) (rule, what string) {
	if ours.status != theirs.status || ours.cut != theirs.cut {
		if g.reply.early && ours.status == g.reply.status && !ours.cut {
			return "an early answer arrives", ""
		}
		return "?", fmt.Sprintf("status %d cut %v, of theirs %d %v", ours.status, ours.cut, theirs.status,
			theirs.cut)
	}
	if ours.body != theirs.body {
		if g.reply.early && strings.HasPrefix(ours.body, theirs.body) {
			return "an early answer arrives", ""
		}
		return "?", fmt.Sprintf("%d bytes, of theirs %d", len(ours.body), len(theirs.body))
	}
	a, b := withoutFraming(ours.header), withoutFraming(theirs.header)
	if a["Content-Type"] == nil && b["Content-Type"] != nil {
		delete(b, "Content-Type")
		rule = "no Content-Type is made up"
	}
	if !maps.EqualFunc(a, b, slices.Equal) {
		return "?", fmt.Sprintf("%v, of theirs %v", a, b)
	}
	if !slices.Equal(ours.info, theirs.info) {
		rule = "informational responses pass the rules of fields"
		for _, line := range ours.info {
			if g.proto == "1.0" || strings.Contains(line, "X-Hop") {
				return "?", line
			}
		}
		if g.proto != "1.0" && len(ours.info) != len(theirs.info) {
			return "?", fmt.Sprintf("%v, of theirs %v", ours.info, theirs.info)
		}
	}
	trailer := maps.Clone(theirs.trailer)
	for name := range trailer {
		if name == "Set-Cookie" || name == "Content-Type" {
			delete(trailer, name)
			rule = "trailers pass the rules of fields"
		}
	}
	if !maps.EqualFunc(ours.trailer, trailer, slices.Equal) {
		return "?", fmt.Sprintf("trailers %v, of theirs %v", ours.trailer, trailer)
	}
	return rule, ""
}

const maxUnexplained = 10

// Handler does with generated exchanges what httputil.ReverseProxy does with them, or what a rule
// says. With TRIVET_SOAK=1 there are 200,000: TestSoakOfExchanges has a million.
func TestHandlerBesideReverseProxy(t *testing.T) {
	exchanges, workers := 2000, 2
	if os.Getenv("TRIVET_SOAK") == "1" {
		exchanges, workers = 200_000, 8
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	var next, unexplained atomic.Int64
	var mu sync.Mutex
	rules := map[string]int{}
	var wg sync.WaitGroup
	for range workers {
		b := newBench(t)
		wg.Go(func() {
			defer b.close()
			for {
				seed := int(next.Add(1))
				if seed > exchanges || unexplained.Load() > maxUnexplained {
					break
				}
				g := generate(seed)
				ours := b.run(t, g, b.handlers[g.upstream])
				theirs := b.run(t, g, b.rivals[g.upstream])
				rule, what := differ(g, ours, theirs)
				if ours.client.hangs {
					rule, what = "?", "hangs"
				}
				if rule == "?" {
					unexplained.Add(1)
					short := *g
					short.body, short.reply.body = fmt.Sprint(len(g.body)), fmt.Sprint(len(g.reply.body))
					t.Errorf("seed %d: %s\n%+v\n%+v", seed, what, short, theirs.client.status)
				}
				mu.Lock()
				rules[rule]++
				mu.Unlock()
			}
			for up, lb := range b.balancers {
				for deadline := time.Now().Add(patience); lb.Stats().InFlight != 0; runtime.Gosched() {
					if time.Now().After(deadline) {
						t.Errorf("%d requests are in flight to servers of HTTP/%s", lb.Stats().InFlight, up)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		name := rule
		if name == "" {
			name = "the same"
		}
		t.Logf("%7d %s", rules[rule], name)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if runtime.NumGoroutine() <= goroutines && openFiles(t) <= files {
			break
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before; %d files, %d before\n%s", runtime.NumGoroutine(), goroutines,
				openFiles(t), files, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
