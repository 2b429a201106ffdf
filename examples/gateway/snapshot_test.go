package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// saving is a configuration whose cache has a snapshot in file, beside the configuration.
func saving(file, addr string) string {
	return strings.Replace(cached("", addr), "size: 1MiB", "size: 1MiB, snapshot: "+file, 1)
}

// answer returns what the gateway at addr answers to a GET. The port, which differs from start to
// start, is not in the Host field.
func answer(t *testing.T, addr, path string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	require.NoError(t, err)
	req.Host = "shop.test"
	resp, err := client(t).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

// The file is named relative to the folder of the configuration, and written at SIGTERM.
func TestTheCacheOutlivesARestart(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=600", "Surrogate-Key", "red")
	text := saving("hits.cache", b.Addr) + "\nserver: {drain_delay: 1ms}"
	p, config := launchWith(t, text)
	require.Equal(t, "answer 1", answer(t, p.addr, "/a"))
	require.Equal(t, "answer 2", answer(t, p.addr, "/b"))
	require.Zero(t, p.stop(t))
	info, err := os.Stat(filepath.Join(filepath.Dir(config), "hits.cache"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	p = launch(t, "-config", config)
	p.await(t, p.stderr, `the cache has its contents back.*urls=2`)
	require.Equal(t, "answer 1", answer(t, p.addr, "/a"))
	require.Equal(t, "answer 2", answer(t, p.addr, "/b"))
	p.signal(t, syscall.SIGKILL) // what the last file has is back
	<-p.exited

	p = launch(t, "-config", config)
	require.Equal(t, "answer 2", answer(t, p.addr, "/b"))
	require.Zero(t, p.stop(t))
	entries, err := os.ReadDir(filepath.Dir(config))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the configuration and the snapshot")
}

// restarting returns a function that runs a gateway with a snapshot in file, calls use, ends the
// gateway, and returns what it has logged.
func restarting(t *testing.T, file, addr string) func(use func(g *live)) string {
	return func(use func(g *live)) string {
		cfg, err := parseConfig("test", []byte(saving(file, addr)))
		require.NoError(t, err)
		var log bytes.Buffer
		g, err := newGateway(cfg, slog.New(slog.NewTextHandler(&log, nil)), io.Discard, io.Discard)
		require.NoError(t, err)
		g.start()
		use(&live{gateway: g})
		g.close(t.Context())
		return log.String()
	}
}

// ask sends a GET to g itself.
func ask(t *testing.T, g *live, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Body.String()
}

func TestSnapshotsThatAreDamagedAreToldAndIgnored(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=600")
	file := filepath.Join(t.TempDir(), "hits")
	run := restarting(t, file, b.Addr)
	require.NotContains(t, run(func(g *live) { require.Equal(t, "answer 1", ask(t, g, "/")) }), "WARN")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, bad := range map[string][]byte{
		"cut": good[:len(good)-9], "empty": nil, "other": []byte("something else"),
		"changed": bytes.Replace(good, []byte("answer"), []byte("ANSWER"), 1),
	} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		want := ""
		log := run(func(g *live) {
			want = ask(t, g, "/")
			require.NotEqual(t, "ANSWER 1", want, name)
			require.Equal(t, want, ask(t, g, "/"), "%s: the cache works", name)
		})
		require.Contains(t, log, "the snapshot of the cache cannot be read", name)
		require.Contains(t, log, "hits", name)
		run(func(g *live) { require.Equal(t, want, ask(t, g, "/"), "%s: the file is whole again", name) })
	}
}

// A crash leaves the last file, so that must not hold what has been purged since.
func TestASnapshotNeverBringsBackWhatWasPurged(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=600", "Surrogate-Key", "red")
	file := filepath.Join(t.TempDir(), "hits")
	run := restarting(t, file, b.Addr)
	run(func(g *live) {
		require.Equal(t, "answer 1", ask(t, g, "/"))
		g.store.snapshot.save()
		require.FileExists(t, file)
		status, _ := act(g, "/purge", g.token, `{"tag": "red", "hard": true}`)
		require.Equal(t, http.StatusNoContent, status)
		require.NoFileExists(t, file)

		// A purge while the file is written.
		require.NoError(t, g.store.snapshot.write(file+".new"))
		g.store.snapshot.finish(g.store.snapshot.purges-1, nil)
		require.NoFileExists(t, file)
		require.NoFileExists(t, file+".new")
	})
	run(func(g *live) { require.Equal(t, "answer 2", ask(t, g, "/")) })
}

func TestSnapshotsThatCannotBe(t *testing.T) {
	b := counting(t)
	for file, want := range map[string]string{
		filepath.Join(t.TempDir(), "none", "hits"): "cache.snapshot: stat ",
		t.TempDir(): "is not a regular file",
	} {
		cfg, err := parseConfig("test", []byte(saving(file, b.Addr)))
		require.NoError(t, err)
		_, err = newGateway(cfg, discardLog, io.Discard, io.Discard)
		require.ErrorContains(t, err, want)
	}
	folder := t.TempDir()
	file := filepath.Join(folder, "hits")
	log := restarting(t, file, b.Addr)(func(g *live) {
		require.NoError(t, os.RemoveAll(folder))
		require.Equal(t, "answer 1", ask(t, g, "/"))
	})
	require.Contains(t, log, "the snapshot of the cache cannot be written")
}

// A snapshot that was begun before a purge is thrown away: it may hold what was purged.
func TestASnapshotThatAPurgeOvertakesIsNotKept(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "hits")
	s, err := newSnapshot(file, store, discardLog)
	require.NoError(t, err)
	s.save()
	require.FileExists(t, file)
	before := s.purges
	err = s.write(file + ".new")
	s.purged()
	s.finish(before, err)
	require.NoFileExists(t, file)
	require.NoFileExists(t, file+".new")
}
