//go:build unix

package program

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/trivet-go/trivet/internal/freeport"
)

// Nginx starts an nginx of one process. servers returns what its http block says, with a server
// that listens at addr.
func Nginx(tb testing.TB, servers func(addr string) string) *Process {
	tb.Helper()
	addr, dir := freeport.Reserve(tb), tb.TempDir()
	file := filepath.Join(dir, "nginx.conf")
	conf := fmt.Appendf(nil, `daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
%[2]s
}
`, dir, servers(addr))
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		tb.Fatalf("program: %v", err)
	}
	return Start(tb, addr, "nginx", "-p", dir, "-e", "stderr", "-c", file)
}
