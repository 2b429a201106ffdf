//go:build unix

// Package freeport gives tests a free loopback address for a server that runs in another process
// or is started again: nginx, redis-server, a backend that is killed and comes back. A server
// inside the test listens on port 0 instead.
package freeport

import (
	"net"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// Reserve returns a "127.0.0.1:port" that belongs to tb until tb ends. Nobody listens there yet, so
// connections are refused. The kernel gives the port to no process that asks for any free port.
func Reserve(tb testing.TB) string {
	tb.Helper()
	addr, release, err := reserve()
	if err != nil {
		tb.Fatalf("freeport: %v", err)
	}
	tb.Cleanup(release)
	return addr
}

// reserve holds the port with a socket that is bound and never listens. If both sockets have
// SO_REUSEADDR, which Go, nginx and redis-server set, Linux lets another one listen there, but it
// does not choose the port for a socket that asks for any free one.
func reserve() (addr string, release func(), err error) {
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", nil, err
	}
	release = func() { syscall.Close(fd) }
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return "", nil, err
	}
	if err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", nil, err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return "", nil, err
	}
	addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	if runtime.GOOS != "linux" { // elsewhere nobody could listen beside the bound socket: it is
		// closed, and the port stays free with luck only
		release()
		release = func() {}
	}
	return addr, release, nil
}
