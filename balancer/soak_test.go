//go:build unix

package balancer_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/freeport"
)

// A soaked exchange is a generated one, and what else can happen to one that shares its proxy and
// servers with others.
type soaked struct {
	*generated
	quits int // how much of an answer the client reads before it leaves; -1 is all of it
	reset bool
}

func soakedExchange(seed int) soaked {
	r := rand.New(rand.NewPCG(uint64(seed), 7))
	x := soaked{generated: generate(seed), quits: -1, reset: r.IntN(2) == 0}
	if x.upstream == "2" && r.IntN(10) == 0 {
		x.reply.refusal = choose(r, "stream", "stream", "goaway")
	}
	switch n := r.IntN(400); {
	case n < 20:
		x.quits = choose(r, 0, 1, 20, 200, 2000)
	case n < 40:
		*x.generated = generated{
			seed: seed, proto: "1.1", method: "GET", path: "/", host: "a", upstream: "1",
			tunnel: choose(r, "client", "server", "reset", "both"), body: strings.Repeat("b", r.IntN(20_000)),
		}
	case n == 40 && x.proto != "1.0" && x.body != "":
		x.fields = append(x.fields, field{"Expect", "100-continue"})
	}
	return x
}

// tunnelServer upgrades to a connection on which the client's words are repeated.
func tunnelServer(c net.Conn, buf *bufio.Reader, g *generated, name string) {
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"%s: %s\r\n\r\n", exchangeField, name)
	if _, err := io.CopyN(c, buf, int64(len(g.body))); err != nil {
		return
	}
	switch g.tunnel {
	case "server":
		return
	case "both":
		_ = c.(*net.TCPConn).CloseWrite()
	}
	_, _ = io.Copy(io.Discard, buf)
}

// askTunnel upgrades a connection and speaks on it.
func (g *generated) askTunnel(c net.Conn, name string) (a got) {
	_ = c.SetDeadline(time.Now().Add(patience))
	early := len(g.body) / 2
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"%s: %s\r\n\r\n%s", exchangeField, name, g.body[:early])
	buf := bufio.NewReader(c)
	resp, err := http.ReadResponse(buf, nil)
	if err != nil {
		a.cut = true
		return a
	}
	a.status, a.header = resp.StatusCode, resp.Header
	if a.status != http.StatusSwitchingProtocols {
		return a
	}
	go func() { _, _ = io.WriteString(c, g.body[early:]) }() // ends at the latest when c is closed
	body := make([]byte, len(g.body))
	if _, err := io.ReadFull(buf, body); err != nil {
		a.cut = true
	}
	a.body = string(body)
	switch g.tunnel {
	case "server":
		_, err = io.Copy(io.Discard, buf)
	case "both":
		_ = c.(*net.TCPConn).CloseWrite()
		_, err = io.Copy(io.Discard, buf)
	}
	ne, ok := err.(net.Error)
	a.hangs = ok && ne.Timeout()
	return a
}

// A quitter leaves when it has read so much.
type quitter struct {
	net.Conn
	left int
}

func (q *quitter) Read(p []byte) (int, error) {
	if q.left <= 0 {
		return 0, io.EOF
	}
	n, err := q.Conn.Read(p[:min(len(p), q.left)])
	q.left -= n
	return n, err
}

// A basin is a Handler before servers of both versions of HTTP, one of which is dead.
type basin struct {
	server    rawServer
	balancers map[string]*balancer.Balancer // by the protocol of the server
	fronts    map[string]string             // the addresses of the Handlers, likewise
	close     func() error
}

func newBasin(t *testing.T, dead string) *basin {
	t.Helper()
	b := &basin{balancers: map[string]*balancer.Balancer{}, fronts: map[string]string{}}
	var closers []func() error
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return ln
	}
	for _, up := range []string{"1", "2"} {
		proto, serve := backend.HTTP1, b.server.http1
		if up == "2" {
			proto, serve = backend.H2C, b.server.http2
		}
		addrs := []string{dead}
		for range 3 {
			ln := listen()
			closers = append(closers, ln.Close)
			go b.server.serve(ln, serve)
			addrs = append(addrs, ln.Addr().String())
		}
		lb, err := balancer.New(balancer.Config{
			Resolver: balancer.Static(addrs...), Transport: backend.Transport(proto),
		})
		require.NoError(t, err)
		h, err := lb.Handler(&url.URL{Scheme: "http", Host: "server"}, balancer.HandlerConfig{})
		require.NoError(t, err)
		s := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(nothing{}, "", 0)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		ln := listen()
		go func() { _ = s.Serve(ln) }()
		b.balancers[up], b.fronts[up] = lb, ln.Addr().String()
		closers = append(closers, s.Close, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return lb.Close(ctx)
		})
	}
	b.close = func() (err error) {
		for _, f := range closers {
			if e := f(); e != nil {
				err = e
			}
		}
		return err
	}
	return b
}

// A bather is a client. It keeps its connections as long as it may.
type bather struct {
	basin *basin
	conns map[string]net.Conn // by front
}

// run runs one exchange and returns what the client got, and "" or what is wrong with it.
func (b *bather) run(x soaked) (a got, wrong string) {
	name, front := strconv.Itoa(x.seed), b.basin.fronts[x.upstream]
	b.basin.server.begin(x.generated, name)
	defer b.basin.server.end(name)
	c := b.conns[front]
	again := c != nil && x.proto == "1.1" && x.tunnel == ""
	if !again {
		var err error
		if c, err = net.Dial("tcp", front); err != nil {
			return a, err.Error()
		}
	}
	side := c
	if x.quits >= 0 {
		side = &quitter{c, x.quits}
	}
	switch {
	case x.tunnel != "":
		a = x.askTunnel(c, name)
	case x.proto == "2":
		a = x.ask2(side, name)
	default:
		a = x.ask1(side, name)
	}
	if a.keep && x.quits < 0 {
		if !again && b.conns[front] != nil {
			b.conns[front].Close()
		}
		b.conns[front] = c
	} else {
		if again {
			delete(b.conns, front)
		}
		if x.reset || x.tunnel == "reset" {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	switch of := a.header.Get(exchangeField); {
	case a.hangs && x.quits < 0:
		wrong = "hangs"
	case of != "" && of != name:
		wrong = "has the answer to " + of
	case of != "" && a.status != x.reply.status && x.tunnel == "":
		wrong = fmt.Sprint("status ", a.status)
	case of != "" && !a.cut && x.quits < 0 && x.tunnel == "" && a.body != x.reply.body &&
		(x.proto != "1.0" || a.header["Content-Length"] != nil): // else a part looks like the whole
		wrong = fmt.Sprintf("%d bytes", len(a.body))
	case x.tunnel != "" && (a.status != http.StatusSwitchingProtocols || a.body != x.body):
		wrong = fmt.Sprintf("status %d, %d bytes, cut %v", a.status, len(a.body), a.cut)
	}
	return a, wrong
}

// Exchanges of all kinds, many at once and with all faults of the generator, over loopback: clients
// that leave, servers that break off or are dead, upgrades, trailers, informational and early
// answers, requests that are refused and sent again. Each client gets its own answer and no other,
// and in the end nothing is left of them: no request in flight, no goroutine, no descriptor. With
// TRIVET_SOAK=1 there are a million; another number is how many.
func TestSoakOfExchanges(t *testing.T) {
	exchanges, workers := 2000, 16
	if n, err := strconv.Atoi(os.Getenv("TRIVET_SOAK")); err == nil && n > 0 {
		exchanges, workers = n, 32
		if n == 1 {
			exchanges = 1_000_000
		}
	}
	dead := freeport.Reserve(t) // nobody listens there
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	b := newBasin(t, dead)
	var next, upgraded, cut, refused, failed atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			client := &bather{b, map[string]net.Conn{}}
			defer func() {
				for _, c := range client.conns {
					c.Close()
				}
			}()
			for failed.Load() < maxUnexplained {
				seed := int(next.Add(1))
				if seed > exchanges {
					return
				}
				x := soakedExchange(seed)
				a, wrong := client.run(x)
				if wrong != "" {
					failed.Add(1)
					short := *x.generated
					short.body, short.reply.body = fmt.Sprint(len(x.body)), fmt.Sprint(len(x.reply.body))
					t.Errorf("seed %d: %s\n%+v", seed, wrong, short)
				}
				switch {
				case a.status == http.StatusSwitchingProtocols:
					upgraded.Add(1)
				case a.cut:
					cut.Add(1)
				case a.header.Get(exchangeField) == "":
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for up, lb := range b.balancers {
		require.Eventually(t, func() bool {
			s := lb.Stats()
			return s.InFlight == 0 && s.Streams == 0 && s.Queued == 0
		}, 2*time.Minute, 10*time.Millisecond, "HTTP/%s", up)
		s := lb.Stats()
		for addr, n := range s.EndpointInFlight {
			require.Zero(t, n, addr)
		}
		require.NotZero(t, s.Repicked, "requests have been sent again")
		require.NotZero(t, s.Failures)
		t.Logf("to servers of HTTP/%s: %d attempts, %d failures, %d sent again", up, s.Requests, s.Failures,
			s.Repicked)
	}
	require.NoError(t, b.close())
	require.NotZero(t, upgraded.Load())
	t.Logf("%d upgraded, %d cut, %d without an answer of a server", upgraded.Load(), cut.Load(),
		refused.Load())
	if !soon(func() bool { return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files }) {
		stacks := make([]byte, 1<<20)
		t.Fatalf("%d goroutines, %d before; %d files, %d before\n%s", runtime.NumGoroutine(), goroutines,
			openFiles(t), files, stacks[:runtime.Stack(stacks, true)])
	}
}

// soon reports whether so is true within two minutes. Unlike require.Eventually, it starts no
// goroutine.
func soon(so func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); <-tick.C {
		if so() {
			return true
		}
	}
	return false
}
