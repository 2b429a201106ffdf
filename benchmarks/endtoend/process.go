package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process runs on one processor, with all that it starts.
type process struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Len() < 64<<10 {
		p.out.Write(b)
	}
	return len(b), nil
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func start(cpu int, dir, name string, args ...string) (*process, error) {
	p := &process{}
	p.cmd = exec.Command("taskset", append([]string{"-c", strconv.Itoa(cpu), name}, args...)...)
	p.cmd.Dir, p.cmd.Stderr = dir, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the process and its children.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// await waits until somebody listens on addr.
func await(addr string) error {
	for range 500 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("nobody listens on %s", addr)
}

// tick is the unit of /proc's processor times on Linux.
const tick = 10 * time.Millisecond

// cpu returns the processor time of the process and its children.
func (p *process) cpu() time.Duration {
	var sum time.Duration
	group := strconv.Itoa(p.cmd.Process.Pid)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// Behind the name, which is in parentheses: state, parent, group … (proc(5)).
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(f) < 13 || f[2] != group {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+system) * tick
	}
	return sum
}
