package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// stalling is a configuration with a stall_timeout and the certificate "one" in folder.
func stalling(stall time.Duration, folder string, b *backend.Backend) string {
	return simple(fmt.Sprintf(
		"server: {stall_timeout: %s, tls: {certificates: [{cert: %[2]s.pem, key: %[2]s.key}]}}",
		stall, filepath.Join(folder, "one")), b.Addr)
}

// A deadline of HTTP/1.1 takes effect in a read or write, one of HTTP/2 ends the stream at any
// time.
func TestG10_StallTimeoutIsForClientsNotForSlowUpstreams(t *testing.T) {
	const stall = time.Second // on a busy machine an upload that moves can seem to stand still for less
	const size = 8 << 20      // more than buffers hold
	gone := make(chan struct{}, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
		sleep(r.Context(), 3*stall)
		_, _ = io.WriteString(w, "late")
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "%d\n", i)
			_ = http.NewResponseController(w).Flush()
			sleep(r.Context(), 2*stall)
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.CopyN(io.Discard, r.Body, size/2)
		sleep(r.Context(), 3*stall)
		if err == nil {
			var rest int64
			rest, _ = io.Copy(io.Discard, r.Body)
			n += rest
		}
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, zeros{})
		gone <- struct{}{}
	})
	b := backend.Start(t, backend.Config{Handler: mux})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP2=%t", h2), func(t *testing.T) {
			t.Parallel()
			g := start(t, strings.Replace(stalling(stall, folder, b), "  - upstream: app\n",
				"  - upstream: app\n  - {upstream: app, path: /events, stall_timeout: off}\n", 1))
			c := secureClient(t, "one.test", h2)
			url := "https://" + g.addr
			t.Run("a response that comes late", func(t *testing.T) {
				_, body := get(t, c, url+"/late")
				require.Equal(t, "late", body)
			})
			t.Run("events with pauses", func(t *testing.T) {
				resp, err := c.Get(url + "/events")
				require.NoError(t, err)
				defer resp.Body.Close()
				lines := bufio.NewScanner(resp.Body)
				for range 3 {
					require.True(t, lines.Scan(), lines.Err())
				}
			})
			t.Run("an upload that the upstream reads with a pause", func(t *testing.T) {
				req, err := http.NewRequest("POST", url+"/upload", io.LimitReader(zeros{}, size))
				require.NoError(t, err)
				req.ContentLength = size
				resp, body := do(t, c, req)
				require.Equal(t, 200, resp.StatusCode, body)
				require.Equal(t, fmt.Sprint(size), body)
			})
			t.Run("a client that does not read is cut off", func(t *testing.T) {
				resp, err := c.Get(url + "/endless")
				require.NoError(t, err)
				defer resp.Body.Close()
				select {
				case <-gone:
				case <-time.After(time.Minute):
					t.Fatal("the upstream still writes")
				}
			})
		})
	}
}

// The stall timeout also bounds the write of a response that is still in net/http's buffer when the
// handler returns.
func TestG10_HTTP2ClientWithoutAWindowIsCutOff(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	g := start(t, stalling(300*time.Millisecond, folder, b))
	conn, err := tls.Dial("tcp", g.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	const (
		preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
		// SETTINGS_INITIAL_WINDOW_SIZE is 0.
		settings = "\x00\x00\x06\x04\x00\x00\x00\x00\x00" + "\x00\x04\x00\x00\x00\x00"
		// Stream 1 asks for GET /%2e, which gets 400.
		headers = "\x00\x00\x12\x01\x05\x00\x00\x00\x01" + "\x82\x87\x04\x04/%2e\x41\x08one.test"
	)
	_, err = io.WriteString(conn, preface+settings+headers)
	require.NoError(t, err)
	var frames []byte // types of the frames that came
	for !bytes.Contains(frames, []byte{3}) {
		head := make([]byte, 9)
		_, err := io.ReadFull(conn, head)
		require.NoError(t, err, "RST_STREAM has not come after %v", frames)
		_, err = io.CopyN(io.Discard, conn, int64(head[0])<<16|int64(head[1])<<8|int64(head[2]))
		require.NoError(t, err)
		frames = append(frames, head[3])
	}
	require.Contains(t, frames, byte(1), "HEADERS")
	require.NotContains(t, frames, byte(0), "DATA")
}

// HTTP/1.1 cuts the connection. Over HTTP/2 the client gets an answer that blames it.
func TestG10_HTTP2BodyThatStandsStillGets408(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	g := start(t, stalling(300*time.Millisecond, folder, b))
	body, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequest("POST", "https://"+g.addr, body)
	require.NoError(t, err)
	resp, text := do(t, secureClient(t, "one.test", true), req)
	require.Equal(t, 2, resp.ProtoMajor)
	require.Equal(t, http.StatusRequestTimeout, resp.StatusCode, text)
	for _, h := range g.current.Load().upstreams["app"].balancer.Endpoints("http://app") {
		require.Zero(t, h.Failures)
	}
}

// zeros is an endless reader of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// As many fields as are allowed may come, and not one more. Each cookie is one, in whichever of the
// fields it stands.
func TestHeaderFieldsAreCounted(t *testing.T) {
	for limit, passes := range map[int]bool{6: true, 5: false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["A"] = []string{"1", "2"}
		r.Header["Cookie"] = []string{"a=1; b=2", "c=3; d=4"}
		w := httptest.NewRecorder()
		require.Equal(t, passes, limitHeader(w, r, limit))
		require.Equal(t, !passes, w.Code == http.StatusRequestHeaderFieldsTooLarge)
	}
}
