package balancer

import (
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// expectTime is how long a client that asks before it sends its body (RFC 9110, section 10.1.1)
// waits for a server that says nothing. It is as long as curl waits, and as net/http's transport.
const expectTime = time.Second

// answerTime is how long beyond expectTime an answer that has begun may take to the end of its
// header, if the client has not been told to send its body. After it the body is read, whatever
// comes of that: until then a transport counts no time for the header, and net/http's server does
// not see that a client leaves.
const answerTime = 10 * time.Second

// An expectation keeps a transport from reading a body that its client sends only when it is told
// to: with the first Read net/http's server tells it. A transport also reads after the server's
// refusal, to keep the connection.
type expectation struct {
	until    time.Time     // the server has been given its time
	answers  atomic.Bool   // the server has begun to answer: it is about to be known how
	decided  chan struct{} // closed when it is known
	once     sync.Once
	expected bool                     // the body is to be sent; set before decided is closed
	conn     atomic.Pointer[net.Conn] // to the server

	// tell sends the client its 100 (Continue) and reports whether it did; nil if that is left to
	// the first Read. lapse is called when the server has had its time, and calls invite if need
	// be.
	tell  func() bool
	lapse func()
}

func newExpectation() *expectation {
	e := &expectation{until: time.Now().Add(expectTime), decided: make(chan struct{})}
	e.lapse = e.invite
	return e
}

// decide ends all waiting. Only the first call counts.
func (e *expectation) decide(expected bool) {
	e.once.Do(func() {
		e.expected = expected
		close(e.decided)
	})
}

// invite decides that the body is to be sent, if nothing has been decided, and tells the client.
// Nobody else may write to the client meanwhile.
func (e *expectation) invite() {
	e.once.Do(func() {
		defer close(e.decided)
		e.expected = e.tell == nil || e.tell()
	})
}

// answering notes that the server has begun to answer.
func (e *expectation) answering() { e.answers.Store(true) }

// informed notes that it was an informational answer, and other than 100.
func (e *expectation) informed() {
	e.answers.Store(false)
	if !time.Now().Before(e.until) {
		e.invite()
	}
}

// wait waits until it is known whether the client is to send its body, and reports it.
func (e *expectation) wait() bool {
	select {
	case <-e.decided:
		return e.expected
	default:
	}
	timer := time.NewTimer(time.Until(e.until))
	defer timer.Stop()
	select {
	case <-e.decided:
		return e.expected
	case <-timer.C:
	}
	for e.answers.Load() && !e.broken() && time.Since(e.until) < answerTime {
		timer.Reset(brokenInterval)
		select {
		case <-e.decided:
			return e.expected
		case <-timer.C:
		}
	}
	e.lapse()
	<-e.decided
	return e.expected
}

// brokenInterval is the time between two looks at whether a connection on which an answer has begun
// is broken.
const brokenInterval = 50 * time.Millisecond

// broken reports whether the connection to the server is closed, or cannot be looked into: the
// answer that has begun may never be completed. net/http's transport says so only when the body's
// Read has returned.
func (e *expectation) broken() bool {
	p := e.conn.Load()
	if p == nil {
		return false
	}
	conn := *p
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = c.NetConn() // below TLS
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := c.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}

// connected is a trace's GotConn. What an earlier attempt's server has answered counts no more.
func (e *expectation) connected(info httptrace.GotConnInfo) {
	e.conn.Store(&info.Conn)
	e.answers.Store(false)
}

// ofNetHTTP reports whether w is net/http's writer of HTTP/1, perhaps within others that can be
// looked through. Others may take an informational response for the final one, as
// http.TimeoutHandler does.
func ofNetHTTP(w http.ResponseWriter) bool {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			_, ok = w.(http.Hijacker)
			return ok
		}
		w = u.Unwrap()
	}
}
