//go:build unix

package program

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trivet-go/trivet/internal/freeport"
)

// Redis starts a redis-server on a free port, without persistence unless args say otherwise.
func Redis(tb testing.TB, args ...string) *Process {
	tb.Helper()
	addr := freeport.Reserve(tb) // no test of another package is given it meanwhile
	return start(tb, addr, pongs, "redis-server", append([]string{
		"--port", portOf(addr), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", tb.TempDir(),
	}, args...)...)
}

// RedisCluster starts n nodes of Redis, each with its share of the slots, and returns when they
// know each other.
func RedisCluster(tb testing.TB, n int) (nodes []*Process) {
	tb.Helper()
	const slots = 16384
	var bus []string // the ports that nodes talk to each other on
	for i := range n {
		bus = append(bus, portOf(freeport.Reserve(tb)))
		nodes = append(nodes, Redis(tb, "--cluster-enabled", "yes",
			"--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
			"--cluster-port", bus[i]))
	}
	for i, node := range nodes {
		node.command(fmt.Sprintf("cluster addslotsrange %d %d", i*slots/n, (i+1)*slots/n-1))
		node.command(fmt.Sprintf("cluster set-config-epoch %d", i+1))
		if i > 0 {
			node.command(fmt.Sprintf("cluster meet 127.0.0.1 %s %s", nodes[0].Port(), bus[0]))
		}
	}
	for _, node := range nodes {
		await(tb, func() error {
			info, err := ask(node.Addr, "cluster info")
			if err == nil && !(strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, fmt.Sprintf("cluster_size:%d\r\n", n))) {
				err = fmt.Errorf("the cluster is not whole: %s", info)
			}
			return err
		})
	}
	return nodes
}

// Sentinel starts a Redis Sentinel that watches master by that name. It takes half a second of
// silence for an outage.
func Sentinel(tb testing.TB, name string, master *Process) *Process {
	tb.Helper()
	addr := freeport.Reserve(tb)
	file := filepath.Join(tb.TempDir(), "sentinel.conf")
	conf := fmt.Appendf(nil, "port %[1]s\nbind 127.0.0.1\nsentinel monitor %[2]s 127.0.0.1 %[3]s 1\n"+
		"sentinel down-after-milliseconds %[2]s 500\nsentinel failover-timeout %[2]s 3000\n",
		portOf(addr), name, master.Port())
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		tb.Fatalf("program: %v", err)
	}
	return start(tb, addr, pongs, "redis-server", file, "--sentinel")
}

func pongs(addr string) error {
	answer, err := ask(addr, "ping")
	if err == nil && !strings.HasPrefix(answer, "+PONG") {
		err = fmt.Errorf("it answers %q", answer)
	}
	return err
}

// command fails the test unless Redis does what line says.
func (p *Process) command(line string) {
	p.tb.Helper()
	answer, err := ask(p.Addr, line)
	if err != nil || !strings.HasPrefix(answer, "+OK") {
		p.tb.Fatalf("program: %s: %q, %v", line, answer, err)
	}
}

// ask sends an inline command and returns what Redis answers: a line, or the string that it
// announces.
func ask(addr, command string) (string, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	answers := bufio.NewReader(conn)
	line, err := answers.ReadString('\n')
	if err != nil || line[0] != '$' {
		return line, err
	}
	size, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err != nil || size < 0 {
		return "", err
	}
	text := make([]byte, size)
	_, err = io.ReadFull(answers, text)
	return string(text), err
}
