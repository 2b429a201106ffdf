//go:build unix

package backend

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trivet-go/trivet/internal/freeport"
)

const configEnv = "TRIVET_BACKEND"

// A Process is a server in a process of its own. Create one with [StartProcess]. Its methods fail
// the test if the process does not do what they ask. A Process is safe for concurrent use.
type Process struct {
	Addr string   // "127.0.0.1:port", the same after Restart
	URL  *url.URL // "http" or "https", as the protocol needs

	tb  testing.TB
	cfg processConfig

	mu      sync.Mutex // guards the fields below
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stdout  *os.File
	answers *bufio.Reader // reads stdout
	exited  chan struct{} // closed when cmd.Wait has returned
	err     error         // what cmd.Wait returned
}

// A processConfig is passed to the process in its environment.
type processConfig struct {
	Config
	// Log names a file. Before it answers a request, the process appends a line with the request's
	// id in JSON, so that the count survives whatever ends the process.
	Log string
}

// StartProcess returns a running Process, which is killed when tb ends. The TestMain of the calling
// package must call [Main].
func StartProcess(tb testing.TB, cfg Config) *Process {
	tb.Helper()
	if cfg.Handler != nil {
		tb.Fatal("backend: Config.Handler: a process cannot have one")
	}
	cfg = cfg.withDefaults()
	if cfg.Addr == "127.0.0.1:0" {
		cfg.Addr = freeport.Reserve(tb)
	}
	p := &Process{
		Addr: cfg.Addr,
		URL:  baseURL(cfg.Protocol, cfg.Addr),
		tb:   tb,
		cfg:  processConfig{cfg, filepath.Join(tb.TempDir(), "requests")},
	}
	p.Restart()
	tb.Cleanup(p.Kill)
	return p
}

// Restart starts a process that has ended again, at the same address and with the Behaviour of its
// Config. Counts continue.
func (p *Process) Restart() {
	p.tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !p.exitedLocked() {
		p.tb.Fatal("backend: Restart: the process still runs")
	}
	cfg, err := json.Marshal(p.cfg)
	if err != nil {
		p.tb.Fatalf("backend: %v", err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), configEnv+"="+string(cfg), keyPairEnv+"="+string(keyPair()))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		p.tb.Fatalf("backend: %v", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.tb.Fatalf("backend: %v", err)
	}
	if err := cmd.Start(); err != nil {
		p.tb.Fatalf("backend: %v", err)
	}
	p.cmd, p.stdin, p.stdout = cmd, stdin, out.(*os.File)
	p.answers, p.exited = bufio.NewReader(out), make(chan struct{})
	line, err := p.answerLocked()
	exited := p.exited
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(exited)
	}()
	if err != nil || line != "ready\n" {
		p.tb.Fatalf("backend: process said %q, %v: does TestMain call backend.Main?", line, err)
	}
}

// answerLocked reads a line that the process prints. It has a deadline, since a paused process
// prints nothing.
func (p *Process) answerLocked() (string, error) {
	if err := p.stdout.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	return p.answers.ReadString('\n')
}

func (p *Process) exitedLocked() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Set replaces the Behaviour for requests that arrive from now on. The process must run and must
// not be paused.
func (p *Process) Set(b Behaviour) {
	p.tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.NewEncoder(p.stdin).Encode(b); err != nil {
		p.tb.Fatalf("backend: %v", err)
	}
	if line, err := p.answerLocked(); err != nil || line != "set\n" {
		p.tb.Fatalf("backend: process said %q, %v", line, err)
	}
}

// Kill sends SIGKILL and waits until the process has ended. If it has ended before, Kill does
// nothing.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	p.wait(context.Background())
}

// Pause sends SIGSTOP and waits until the process has stopped. The kernel still accepts connections
// for it.
func (p *Process) Pause() {
	p.tb.Helper()
	p.signal(syscall.SIGSTOP)
	p.mu.Lock()
	pid := p.cmd.Process.Pid
	p.mu.Unlock()
	for deadline := time.Now().Add(10 * time.Second); !stopped(pid); {
		if time.Now().After(deadline) {
			p.tb.Fatal("backend: the process does not stop")
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// stopped reports whether all threads of a process have stopped, which takes some time after the
// signal. Without /proc it assumes that they have.
func stopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		// "pid (name) state ...", and the name may have parentheses.
		afterName := string(stat[strings.LastIndexByte(string(stat), ')'):])
		if _, state, ok := strings.Cut(afterName, " "); ok && state[0] != 'T' {
			return false
		}
	}
	return true
}

// Resume sends SIGCONT: the process continues.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Terminate sends SIGTERM and waits until the process has answered the requests that it had
// accepted and has ended. It returns an error if ctx ends first or if the exit status is not 0.
func (p *Process) Terminate(ctx context.Context) error {
	p.signal(syscall.SIGTERM)
	return p.wait(ctx)
}

func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exitedLocked() {
		_ = p.cmd.Process.Signal(s) // it may have ended by now
	}
}

func (p *Process) wait(ctx context.Context) error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	select {
	case <-exited:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Counts returns how often each request was executed, in all runs of the process together.
func (p *Process) Counts() map[string]int {
	p.tb.Helper()
	log, err := os.ReadFile(p.cfg.Log)
	if err != nil {
		p.tb.Fatalf("backend: %v", err)
	}
	counts := map[string]int{}
	for line := range strings.Lines(string(log)) {
		var id string
		if json.Unmarshal([]byte(line), &id) == nil {
			counts[id]++
		}
	}
	return counts
}

// Requests returns how many requests were executed, in all runs of the process together.
func (p *Process) Requests() int {
	p.tb.Helper()
	return total(p.Counts())
}

// Main serves and then exits if [StartProcess] has started this process. Otherwise it does nothing.
// TestMain must call it before anything else.
func Main() {
	env := os.Getenv(configEnv)
	if env == "" {
		return
	}
	if err := runProcess(env); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runProcess(env string) error {
	var cfg processConfig
	if err := json.Unmarshal([]byte(env), &cfg); err != nil {
		return err
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	log, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	h := newHandler(cfg.Config, func(id string) {
		line, _ := json.Marshal(id)
		_, _ = log.Write(append(line, '\n')) // in one write, so that a kill cannot cut the line
	})
	server := newServer(cfg.Protocol, h)
	ln, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(server, ln)
	}()
	fmt.Println("ready")

	orphaned := make(chan struct{})
	go func() {
		defer close(orphaned) // standard input ends when the test does, in whatever way
		behaviours := json.NewDecoder(os.Stdin)
		for {
			var b Behaviour
			if behaviours.Decode(&b) != nil {
				return
			}
			h.behaviour.Store(&b)
			fmt.Println("set")
		}
	}()
	select {
	case <-orphaned:
		return server.Close()
	case <-terminate:
	}
	h.draining.Store(true)
	select {
	case <-time.After(cfg.Grace):
	case <-orphaned:
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ln.Close()
	<-served // Shutdown does not wait for a connection that was accepted and is not served yet
	return server.Shutdown(ctx)
}
