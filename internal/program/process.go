//go:build unix

package program

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A Process is a server that a test has started in a process of its own. Create one with [Start],
// [Redis], [Sentinel] or [Nginx]. It is killed when the test ends. Its methods fail the test if
// they cannot do what they say. A Process is not safe for concurrent use.
type Process struct {
	Addr string // "127.0.0.1:port", the same after Restart

	tb      testing.TB
	path    string
	args    []string
	log     string // names the file that has what the process prints
	answers func(addr string) error
	cmd     *exec.Cmd // nil while the process does not run
}

// Start runs the program with that name, which is to listen at addr, and returns when it takes
// connections there. Without the program, tb is skipped or fails, as [Path] says.
func Start(tb testing.TB, addr, name string, args ...string) *Process {
	tb.Helper()
	return start(tb, addr, takesConnections, name, args...)
}

func start(
	tb testing.TB, addr string, answers func(addr string) error, name string, args ...string,
) *Process {
	tb.Helper()
	p := &Process{
		Addr: addr, tb: tb, path: Path(tb, name), args: args,
		log: filepath.Join(tb.TempDir(), "log"), answers: answers,
	}
	tb.Cleanup(p.Kill) // also of one that does not answer
	p.Restart()
	return p
}

func takesConnections(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Port returns the port of Addr.
func (p *Process) Port() string { return portOf(p.Addr) }

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// Restart runs a process that has ended again, at the same address, and returns when it answers.
func (p *Process) Restart() {
	p.tb.Helper()
	if p.cmd != nil {
		p.tb.Fatalf("program: Restart: %s still runs", p.path)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.tb.Fatalf("program: %v", err)
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.tb.Fatalf("program: %v", err)
	}
	p.cmd = cmd
	await(p.tb, func() error {
		if err := p.answers(p.Addr); err != nil {
			said, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s does not answer: %w; it says:\n%s", p.path, err, said)
		}
		return nil
	})
}

// await returns when ready does not return an error any more. A minute is longer than a busy
// machine takes.
func await(tb testing.TB, ready func() error) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("program: %v", err)
		}
	}
}

// Kill sends SIGKILL and returns when the process has ended. If it does not run, Kill does nothing.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Terminate sends SIGTERM and returns when the process has ended.
func (p *Process) Terminate() { p.end(syscall.SIGTERM) }

func (p *Process) end(s syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may have ended by now
	_ = p.cmd.Process.Signal(s)
	_ = p.cmd.Wait()
	p.cmd = nil
}

// Pause makes the process hang: its connections stay and say nothing.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) {
	p.tb.Helper()
	if p.cmd == nil {
		p.tb.Fatalf("program: %v: %s does not run", s, p.path)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatalf("program: %v: %v", s, err)
	}
}
