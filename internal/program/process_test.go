//go:build unix

package program_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/program"
)

// ask returns the first line that Redis answers to an inline command.
func ask(t *testing.T, p *program.Process, command string) string {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, command+"\r\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	return line
}

func TestRedisKeepsNothingAndItsAddress(t *testing.T) {
	p := program.Redis(t)
	require.Equal(t, "127.0.0.1:"+p.Port(), p.Addr)
	require.Equal(t, "+OK\r\n", ask(t, p, "set key value"))
	require.Equal(t, "$5\r\n", ask(t, p, "get key"))
	p.Kill()
	_, err := net.Dial("tcp", p.Addr)
	require.Error(t, err)
	p.Kill() // it has ended
	p.Restart()
	require.Equal(t, "$-1\r\n", ask(t, p, "get key"))
	p.Terminate()
	_, err = net.Dial("tcp", p.Addr)
	require.Error(t, err)
}

func TestRedisTakesArguments(t *testing.T) {
	p := program.Redis(t, "--replicaof", "127.0.0.1 1")
	require.Regexp(t, "^-READONLY ", ask(t, p, "set key value"))
}

func TestAPausedProcessSaysNothingUntilItGoesOn(t *testing.T) {
	p := program.Redis(t)
	conn, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	defer conn.Close()
	p.Pause()
	_, err = io.WriteString(conn, "ping\r\n")
	require.NoError(t, err, "the kernel takes it")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	p.Resume()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "+PONG\r\n", line)
}

func TestAPausedProcessCanBeEnded(t *testing.T) {
	p := program.Redis(t)
	p.Pause()
	p.Terminate()
	p.Restart()
	p.Pause()
	p.Kill()
}

func TestNodesOfAClusterKnowEachOther(t *testing.T) {
	nodes := program.RedisCluster(t, 3)
	require.Len(t, nodes, 3)
	owners := map[string]bool{}
	for _, node := range nodes {
		owners[node.Port()] = true
		moved := 0
		for slot := range 64 {
			answer := ask(t, node, fmt.Sprintf("set key%d value", slot))
			if answer != "+OK\r\n" {
				require.Regexp(t, `^-MOVED \d+ 127\.0\.0\.1:\d+\r\n$`, answer)
				moved++
			}
		}
		require.Positive(t, moved)
		require.Less(t, moved, 64)
	}
	require.Len(t, owners, 3)
}

func TestASentinelNamesItsMaster(t *testing.T) {
	master := program.Redis(t)
	sentinel := program.Sentinel(t, "shop", master)
	conn, err := net.Dial("tcp", sentinel.Addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "sentinel get-master-addr-by-name shop\r\n")
	require.NoError(t, err)
	lines := bufio.NewReader(conn)
	for _, want := range []string{
		"*2", "$9", "127.0.0.1", fmt.Sprint("$", len(master.Port())), master.Port(),
	} {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want+"\r\n", line)
	}
}

func TestNginxServesWhatItIsTold(t *testing.T) {
	p := program.Nginx(t, func(addr string) string {
		return fmt.Sprintf(`server { listen %s; location / { return 200 "it is nginx"; } }`, addr)
	})
	resp, err := http.Get("http://" + p.Addr)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "it is nginx", string(body))
}

func TestMisuseFails(t *testing.T) {
	program.Path(t, "redis-server")
	tb := &verdict{TB: t}
	p := program.Redis(tb)
	require.Equal(t, "failed", tb.of(p.Restart), "it runs")
	p.Kill()
	require.Equal(t, "failed", tb.of(p.Pause), "it does not run")
	require.Equal(t, "failed", tb.of(p.Resume), "it does not run")
}

func TestAMissingServerSkips(t *testing.T) {
	t.Setenv("TRIVET_REQUIRE_SERVERS", "")
	tb := &verdict{TB: t}
	require.Equal(t, "skipped", tb.of(func() {
		program.Start(tb, "127.0.0.1:1", "no-such-program")
	}))
}
