package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/internal/program"
)

// release is the npm package that runs where no checkout of the suite is named.
const release = "http-cache-tests@0.4.5"

// A Suite is an installed copy of the suite.
type Suite struct {
	dir    string
	engine string // the directory of its programs, below dir
	node   string
}

// Checkout returns the Suite in dir, whose dependencies are installed.
func Checkout(tb testing.TB, dir string) *Suite {
	tb.Helper()
	s := &Suite{dir: dir, engine: dir, node: program.Path(tb, "node")}
	if inner := filepath.Join(dir, "test-engine"); exists(inner) {
		s.engine = inner
		if !exists(filepath.Join(dir, "node_modules", "undici")) {
			tb.Fatalf("conformance: run `npm install` in %s first", dir)
		}
	}
	if !exists(filepath.Join(s.engine, "cli.mjs")) {
		tb.Fatalf("conformance: %s has no copy of the suite", dir)
	}
	return s
}

// Release returns the Suite of the npm package. The first call on a machine installs it in the
// user's cache directory. If it cannot be installed, tb is skipped, or fails if the environment has
// TRIVET_REQUIRE_SERVERS=1.
func Release(tb testing.TB) *Suite {
	tb.Helper()
	npm := program.Path(tb, "npm")
	program.Path(tb, "node") // npm runs with it
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "trivet", strings.ReplaceAll(release, "@", "-"))
	if !exists(dir) {
		if err := install(npm, dir); err != nil {
			if os.Getenv("TRIVET_REQUIRE_SERVERS") == "1" {
				tb.Fatal(err)
			}
			tb.Skip(err)
		}
	}
	return Checkout(tb, filepath.Join(dir, "node_modules", "http-cache-tests"))
}

// install makes dir a directory in which release is installed. An installation that fails leaves
// nothing behind.
func install(npm, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	cmd := exec.Command(npm, "install", "--ignore-scripts", "--no-audit", "--no-fund",
		"--prefix", part, release)
	cmd.Dir = part
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("conformance: npm install %s: %w\n%s", release, err, out)
	}
	if err := os.Rename(part, dir); err != nil && !exists(dir) { // another process may have been first
		return err
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Tests returns what the suite says of its tests.
func (s *Suite) Tests(tb testing.TB) []Test {
	tb.Helper()
	// Each state of the suite has one of these. The package's programs append the second by hand.
	const script = `
		const all = (await import(process.argv[1])).default
		try { all.push((await import(process.argv[2])).default) } catch (e) {
			if (e.code !== 'ERR_MODULE_NOT_FOUND') throw e
		}
		console.log(JSON.stringify(all))`
	var suites []struct {
		Name  string
		Tests []Test
	}
	file := func(name string) string { return (&url.URL{Scheme: "file", Path: name}).String() }
	cmd := exec.CommandContext(tb.Context(), s.node, "--no-warnings", "--input-type=module", "-e", script,
		file(filepath.Join(s.dir, "tests", "index.mjs")),
		file(filepath.Join(s.dir, "tests", "surrogate-control.mjs")))
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &suites)
	}
	if err != nil {
		tb.Fatalf("conformance: the suite's list of tests: %v", explain(err))
	}
	var tests []Test
	for _, group := range suites {
		for _, test := range group.Tests {
			test.Group = group.Name
			tests = append(tests, test)
		}
	}
	return tests
}

// Serve starts the suite's server, which tb ends, and returns its URL and the name of its log.
func (s *Suite) Serve(tb testing.TB) (base *url.URL, log string) {
	tb.Helper()
	file, err := os.Create(filepath.Join(tb.TempDir(), "server.log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	_, port, err := net.SplitHostPort(freeport.Reserve(tb))
	if err != nil {
		tb.Fatal(err)
	}
	program := filepath.Join(s.engine, "server", "server.mjs")
	cmd := exec.CommandContext(tb.Context(), s.node, "--no-warnings", program)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "npm_config_protocol=http", "npm_config_port="+port,
		"npm_config_pidfile="+filepath.Join(tb.TempDir(), "pid"))
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	tb.Cleanup(func() { <-exited }) // tb.Context has ended by then
	for {
		conn, err := net.Dial("tcp", "localhost:"+port)
		if err == nil {
			conn.Close()
			return &url.URL{Scheme: "http", Host: "localhost:" + port}, file.Name()
		}
		select {
		case <-exited:
			said, _ := os.ReadFile(file.Name())
			tb.Fatalf("conformance: the suite's server ended: %s", said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Run runs the suite's client against the cache at base.
func (s *Suite) Run(tb testing.TB, base string) Results {
	tb.Helper()
	out := s.client(tb, base, "")
	// Complaints of the client may stand before the results.
	at := bytes.Index(out, []byte("\n{"))
	if bytes.HasPrefix(out, []byte("{")) {
		at = 0
	}
	results := Results{}
	if at < 0 {
		tb.Fatalf("conformance: the suite's client printed no results: %s", out)
	}
	if err := json.Unmarshal(out[at:], &results); err != nil {
		tb.Fatalf("conformance: the suite's results: %v", err)
	}
	return results
}

// Dialogue runs the test with that id alone and returns what its client sent and received.
func (s *Suite) Dialogue(tb testing.TB, base, id string) string {
	tb.Helper()
	return string(s.client(tb, base, id))
}

func (s *Suite) client(tb testing.TB, base, id string) []byte {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), s.node, "--no-warnings", filepath.Join(s.engine, "cli.mjs"))
	cmd.Dir = s.dir
	// The client reads its options where `npm run` leaves them.
	cmd.Env = append(os.Environ(), "npm_config_base="+base, "npm_config_id="+id, "npm_package_config_id=")
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("conformance: the suite's client: %v\n%s", explain(err), out)
	}
	return out
}

// explain adds to err what the program printed before it failed.
func explain(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	return err
}
