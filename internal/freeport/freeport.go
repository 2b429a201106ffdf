//go:build unix

// Package freeport gives tests a loopback address for a server that they start
// as another process or start again: nginx, redis-server, a backend that is killed
// and comes back. For a server of the test's own, listen on port 0 instead.
package freeport

import (
	"net"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// Reserve returns a "127.0.0.1:port" that is tb's until it ends. Nobody listens there
// yet, so connections are refused, and no other process is given the port meanwhile.
func Reserve(tb testing.TB) string {
	tb.Helper()
	addr, release, err := reserve()
	if err != nil {
		tb.Fatalf("freeport: %v", err)
	}
	tb.Cleanup(release)
	return addr
}

// reserve holds the port by a socket that is bound and never listens. Linux lets
// another socket listen there, if both have SO_REUSEADDR, as Go, nginx and
// redis-server set it, but hands the port to nobody who asks for any.
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
	if runtime.GOOS != "linux" { // elsewhere the bound socket would be in the way: hope that the port stays free
		release()
		release = func() {}
	}
	return addr, release, nil
}
