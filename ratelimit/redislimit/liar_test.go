package redislimit_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// A liar speaks Redis's protocol and answers every script with the same bytes.
type liar struct {
	addr  string
	reply atomic.Pointer[string]
}

func startLiar(t *testing.T) *liar {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &liar{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() { l.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l
}

func (l *liar) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
		name := ""
		for i := range n {
			length, err := in.ReadString('\n')
			if err != nil {
				return
			}
			size, _ := strconv.Atoi(strings.TrimSpace(length[1:]))
			arg := make([]byte, size+2)
			if _, err := io.ReadFull(in, arg); err != nil {
				return
			}
			if i == 0 {
				name = strings.ToLower(string(arg[:size]))
			}
		}
		reply := "+OK\r\n"
		switch {
		case name == "hello":
			reply = "-ERR unknown command\r\n"
		case strings.HasPrefix(name, "eval"):
			reply = *l.reply.Load()
		}
		if _, err := io.WriteString(conn, reply); err != nil || reply == "" {
			return
		}
	}
}

// TestR20_Garbage: whatever is at the other end, the answer is a failure, for which OnError
// decides.
func TestR20_Garbage(t *testing.T) {
	l := startLiar(t)
	for name, reply := range map[string]string{
		"closes":           "",
		"nil":              "$-1\r\n",
		"nil array":        "*-1\r\n",
		"empty":            "*0\r\n",
		"too few":          "*1\r\n:0\r\n",
		"too many":         "*6\r\n:0\r\n:1\r\n:0\r\n:0\r\n:0\r\n:0\r\n",
		"no numbers":       "*5\r\n$1\r\na\r\n:1\r\n:0\r\n:0\r\n:0\r\n",
		"nil in it":        "*5\r\n:0\r\n$-1\r\n:0\r\n:0\r\n:0\r\n",
		"negative":         "*5\r\n:0\r\n:-1\r\n:0\r\n:0\r\n:0\r\n",
		"denied or not":    "*5\r\n:2\r\n:1\r\n:0\r\n:0\r\n:0\r\n",
		"more than all":    "*5\r\n:0\r\n:1000\r\n:0\r\n:0\r\n:0\r\n",
		"negative wait":    "*5\r\n:1\r\n:0\r\n:-5\r\n:0\r\n:0\r\n",
		"negative reset":   "*5\r\n:0\r\n:0\r\n:0\r\n:-1\r\n:0\r\n",
		"leases too much":  "*5\r\n:0\r\n:0\r\n:0\r\n:0\r\n:1000\r\n",
		"overflow":         "*5\r\n:0\r\n:99999999999999999999\r\n:0\r\n:0\r\n:0\r\n",
		"a string":         "$5\r\nhello\r\n",
		"an error":         "-ERR no\r\n",
		"out of memory":    "-OOM command not allowed\r\n",
		"read only":        "-READONLY You can't write against a read only replica.\r\n",
		"loading":          "-LOADING Redis is loading the dataset in memory\r\n",
		"no protocol":      "HTTP/1.1 400 Bad Request\r\n\r\n",
		"more announced":   "*100000\r\n:0\r\n",
		"a map":            "%1\r\n+a\r\n+b\r\n",
		"a count too long": "*5\r\n:0\r\n:1\r\n:0\r\n:0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l.reply.Store(&reply)
			for _, onError := range []ratelimit.OnError{
				ratelimit.FailOpen, ratelimit.FailClosed, ratelimit.FailLocal,
			} {
				store := newStore(t, quick(t, l.addr), redislimit.Config{Timeout: 150 * time.Millisecond})
				p := policyOf("p", ratelimit.PerDay(1).WithBurst(2))
				p.OnError = onError
				limiter := limiterOn(t, store, p)
				admitted := 0
				for range 4 {
					d := take(t, limiter, "a")
					require.True(t, d.Degraded)
					if d.Allowed {
						admitted++
					}
				}
				switch onError {
				case ratelimit.FailOpen:
					require.Equal(t, 4, admitted)
				case ratelimit.FailClosed:
					require.Zero(t, admitted)
				default:
					require.Equal(t, 2, admitted)
				}
				require.EqualValues(t, 4, limiter.Stats().Failures)
			}
		})
	}
}
