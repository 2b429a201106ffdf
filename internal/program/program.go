// Package program finds the servers and tools that tests run as processes, redis-server, nginx and
// promtool among them, and starts the servers.
package program

import (
	"os"
	"os/exec"
	"testing"
)

// Path returns the path of the program with that name. It looks in PATH and in /usr/sbin, where
// Debian keeps servers. If the program is not installed, tb is skipped, or fails if the environment
// has TRIVET_REQUIRE_SERVERS=1.
func Path(tb testing.TB, name string) string {
	tb.Helper()
	for _, file := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(file); err == nil {
			return path
		}
	}
	if os.Getenv("TRIVET_REQUIRE_SERVERS") == "1" {
		tb.Fatalf("%s is not installed, and TRIVET_REQUIRE_SERVERS is set", name)
	}
	tb.Skipf("%s is not installed", name)
	return ""
}
