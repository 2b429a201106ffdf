package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An answer is what a raw server does with a request.
type answer struct {
	text  string        // as it stands on the wire; empty answers nothing
	piece int           // bytes a write; zero is all at once
	end   bool          // close the connection afterwards
	hang  time.Duration // before the answer
}

// A rawServer answers the n-th case, which requests name in the field Case, as it is told.
type rawServer struct {
	addr string

	mu      sync.Mutex
	answers map[int]answer
	got     map[int]int // requests of each case
	ended   map[int]int // connections that were closed after their last one
	bodies  map[int]string
	conns   int
	open    map[net.Conn]bool
}

func startRaw(t testing.TB) *rawServer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &rawServer{
		addr: ln.Addr().String(), answers: map[int]answer{}, got: map[int]int{}, ended: map[int]int{},
		bodies: map[int]string{}, open: map[net.Conn]bool{},
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.open[conn] = true
			s.mu.Unlock()
			running.Go(func() {
				last := s.serve(conn)
				conn.Close()
				s.mu.Lock()
				delete(s.open, conn)
				s.ended[last]++
				s.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for conn := range s.open {
			conn.Close()
		}
		s.mu.Unlock()
		running.Wait()
	})
	return s
}

// serve answers what comes on conn and returns the last case it read, or -1.
func (s *rawServer) serve(conn net.Conn) int {
	br := bufio.NewReader(conn)
	n := -1
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return n
		}
		body, _ := io.ReadAll(r.Body)
		n, _ = strconv.Atoi(r.Header.Get("Case"))
		s.mu.Lock()
		s.got[n]++
		s.bodies[n] = string(body)
		a := s.answers[n]
		s.mu.Unlock()
		time.Sleep(a.hang)
		for text := a.text; text != ""; {
			piece := text
			if a.piece > 0 && a.piece < len(text) {
				piece = text[:a.piece]
			}
			if _, err := io.WriteString(conn, piece); err != nil {
				return n
			}
			text = text[len(piece):]
		}
		if a.end {
			return n
		}
	}
}

func (s *rawServer) set(n int, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[n] = a
}

// body returns that of the last request of case n.
func (s *rawServer) body(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bodies[n]
}

// over reports whether all connections that case n came on are closed.
func (s *rawServer) over(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended[n] == s.got[n]
}

func (s *rawServer) requests(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[n]
}

// base returns a transport that dials s, whatever it is asked for.
func (s *rawServer) base() *http.Transport {
	var d net.Dialer
	t := &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 16, DisableCompression: true}
	t.IdleConnTimeout = time.Minute
	return t
}

// request returns a request for case n.
func (s *rawServer) request(t testing.TB, method string, n int, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.addr+"/", body)
	require.NoError(t, err)
	r.Header.Set("Case", fmt.Sprint(n))
	return r
}

// ok is an answer with a body.
func ok(body string) answer {
	return answer{text: fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)}
}
