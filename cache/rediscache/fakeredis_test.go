package rediscache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A fakeRedis answers in memory, so that tests can run it in a bubble of testing/synctest. It knows
// one counter and one channel.
type fakeRedis struct {
	mu      sync.Mutex // guards the fields below
	refuse  bool       // no connection is made
	boom    bool       // the dialer panics
	mute    bool       // nothing is answered
	foreign bool       // scripts get the answer to another call
	noPong  bool       // pings are not answered
	number  int
	dials   []time.Time
	subs    map[*fakeConn]bool
}

const (
	subscribed = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
	pong       = "*2\r\n$4\r\npong\r\n$0\r\n\r\n"
)

var errRefused = errors.New("connection refused")

// client returns a client of f that lives until t ends.
func (f *fakeRedis) client(t testing.TB) *redis.Client {
	f.subs = map[*fakeConn]bool{}
	c := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", Dialer: f.dial, MaxRetries: -1, DialerRetries: 1, Protocol: 2,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (f *fakeRedis) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeRedis) dial(context.Context, string, string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials = append(f.dials, time.Now())
	if f.boom {
		panic(errRefused)
	}
	if f.refuse {
		return nil, errRefused
	}
	near, far := net.Pipe()
	conn := &fakeConn{Conn: far, out: make(chan string, 1<<16)}
	go conn.write()
	go f.serve(conn)
	return near, nil
}

// A fakeConn is the server's end of a connection. Like one of TCP, it takes what nobody reads yet.
type fakeConn struct {
	net.Conn
	out chan string
}

func (c *fakeConn) write() {
	for text := range c.out {
		_, _ = io.WriteString(c.Conn, text)
	}
}

func fakeID(number int) string { return fmt.Sprintf("%012d", number) }

// say sends a message to the subscribers.
func (f *fakeRedis) say(body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	f.deliverLocked(f.number, body)
}

func (f *fakeRedis) deliverLocked(number int, body string) {
	text := fmt.Sprintf("1:%d:%s:%s:%s", number, fakeID(number-1), fakeID(number), body)
	f.rawLocked(fmt.Sprintf("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%s\r\n", len(text), text))
}

// rawLocked sends text to the subscribers.
func (f *fakeRedis) rawLocked(text string) {
	for conn := range f.subs {
		conn.out <- text
	}
}

// cut ends all connections.
func (f *fakeRedis) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.subs {
		conn.Close()
	}
}

func (f *fakeRedis) serve(conn *fakeConn) {
	defer conn.Close()
	defer close(conn.out)
	defer f.set(func() { delete(f.subs, conn) })
	in := bufio.NewReader(conn)
	for {
		args, err := readCommand(in)
		if err != nil {
			return
		}
		f.set(func() {
			if reply := f.replyLocked(conn, args); !f.mute {
				conn.out <- reply
			}
		})
	}
}

func (f *fakeRedis) replyLocked(conn *fakeConn, args []string) string {
	switch strings.ToLower(args[0]) {
	case "hello":
		return "-ERR unknown command\r\n"
	case "subscribe":
		f.subs[conn] = true
		return subscribed
	case "ping":
		if f.noPong {
			return ""
		}
		return pong
	case "evalsha", "eval": // of a mark: sha, 1, key, id, time; of a message: sha, 1, key, channel, body, …
		text := fmt.Sprintf("%s:%d:%s", args[4], f.number, fakeID(f.number))
		if len(args) > 6 {
			text = args[6]
		}
		if f.foreign {
			text = fakeID(9) + text[12:]
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
	}
	return "+OK\r\n"
}

func readCommand(in *bufio.Reader) (args []string, err error) {
	header := func() (n int) {
		var line string
		if line, err = in.ReadString('\n'); err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(line[1:]))
		}
		return n
	}
	args = make([]string, header())
	for i := range args {
		arg := make([]byte, header()+2)
		if err == nil {
			_, err = io.ReadFull(in, arg)
		}
		if err != nil {
			return nil, err
		}
		args[i] = string(arg[:len(arg)-2])
	}
	return args, err
}
