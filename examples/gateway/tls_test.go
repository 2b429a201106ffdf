package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// writeCertificate writes a self-signed certificate to folder/name.pem and its key to
// folder/name.key.
func writeCertificate(t *testing.T, folder, name string, serial int64, hosts ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: cert},
		name + ".key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, file), pem.EncodeToMemory(block), 0o600))
	}
}

// secureClient returns a client that asks for host by TLS and does not check the certificate.
func secureClient(t *testing.T, host string, h2 bool) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: host},
		ForceAttemptHTTP2: h2, DisableCompression: true, MaxIdleConnsPerHost: 100,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// secureConfig is a configuration with the certificates "one" and "two", and more settings of tls.
func secureConfig(b *backend.Backend, more string) string {
	return simple(`  - {upstream: app, host: admin.one.test, methods: [POST]}
server:
  drain_delay: 500ms
  tls:
    certificates: [{cert: one.pem, key: one.key}, {cert: two.pem, key: two.key}]
`+more, b.Addr)
}

func TestG15_TLSListener(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	writeCertificate(t, folder, "two", 2, "two.test")
	file := filepath.Join(folder, "gateway.yaml")
	require.NoError(t, os.WriteFile(file, []byte(secureConfig(b, "")), 0o600))
	p := launch(t, "-config", file)
	serial := func(host string) int64 {
		t.Helper()
		conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, ServerName: host})
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}

	t.Run("HTTP/1.1 and HTTP/2", func(t *testing.T) {
		for _, h2 := range []bool{false, true} {
			resp, body := get(t, secureClient(t, "one.test", h2), "https://"+p.addr)
			require.Equal(t, "backend\n", body)
			require.Equal(t, map[bool]int{false: 1, true: 2}[h2], resp.ProtoMajor)
		}
	})
	t.Run("the certificate fits the name", func(t *testing.T) {
		require.Equal(t, int64(1), serial("one.test"))
		require.Equal(t, int64(2), serial("two.test"))
		require.Equal(t, int64(1), serial("other.test"))
	})
	t.Run("old versions are refused", func(t *testing.T) {
		_, err := tls.Dial("tcp", p.addr, &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
		})
		require.ErrorContains(t, err, "protocol version")
	})
	t.Run("the host decides, whatever the name of the handshake", func(t *testing.T) {
		for _, sni := range []string{"one.test", "two.test", "other.test", ""} {
			req, err := http.NewRequest("GET", "https://"+p.addr, nil)
			require.NoError(t, err)
			req.Host = "ADMIN.one.test.:443"
			resp, _ := do(t, secureClient(t, sni, true), req)
			require.Equal(t, 405, resp.StatusCode)
		}
	})
	t.Run("clear text is not answered", func(t *testing.T) {
		resp, body := get(t, client(t), "http://"+p.addr)
		require.Equal(t, 400, resp.StatusCode)
		require.Contains(t, body, "HTTPS server")
	})
	t.Run("a stalled body over HTTP/2 ends", func(t *testing.T) {
		text := strings.Replace(secureConfig(b, ""), "server:\n", "server:\n  stall_timeout: 300ms\n", 1)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		p.signal(t, syscall.SIGHUP)
		p.await(t, p.stderr, "msg=reloaded")
		body, w := io.Pipe()
		defer w.Close()
		req, err := http.NewRequest("POST", "https://"+p.addr, body)
		require.NoError(t, err)
		begin := time.Now()
		resp, err := secureClient(t, "one.test", true).Do(req)
		if err == nil {
			resp.Body.Close()
			require.GreaterOrEqual(t, resp.StatusCode, 400)
		}
		require.Less(t, time.Since(begin), 10*time.Second)
	})
	t.Run("new certificates come with SIGHUP", func(t *testing.T) {
		c := secureClient(t, "one.test", true)
		get(t, c, "https://"+p.addr)
		writeCertificate(t, folder, "one", 11, "one.test")
		require.Equal(t, int64(1), serial("one.test"))
		p.signal(t, syscall.SIGHUP)
		require.Eventually(t, func() bool { return serial("one.test") == 11 },
			time.Minute, 10*time.Millisecond)
		_, body := get(t, c, "https://"+p.addr)
		require.Equal(t, "backend\n", body, "open connections go on")
	})
	t.Run("bad ones change nothing", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, "two.key"), []byte("no key"), 0o600))
		writeCertificate(t, folder, "one", 111, "one.test")
		p.signal(t, syscall.SIGHUP)
		p.await(t, p.stderr, `reload refused.* err="\S*gateway\.yaml:\d+: server.tls.certificates\[1\]: `)
		require.Equal(t, int64(11), serial("one.test"))
		require.Equal(t, int64(2), serial("two.test"))
	})
	t.Run("HTTPS is not switched off", func(t *testing.T) {
		require.NoError(t, os.WriteFile(file, []byte(simple("", b.Addr)), 0o600))
		p.signal(t, syscall.SIGHUP)
		p.await(t, p.stderr, "needs a restart to change: server.tls, on or off")
	})
}

func TestTLSVersion13Only(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1)
	writeCertificate(t, folder, "two", 2)
	file := filepath.Join(folder, "gateway.yaml")
	require.NoError(t, os.WriteFile(file, []byte(secureConfig(b, `    min_version: "1.3"`)), 0o600))
	p := launch(t, "-config", file)
	_, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	require.ErrorContains(t, err, "protocol version")
	_, body := get(t, secureClient(t, "", true), "https://"+p.addr)
	require.Equal(t, "backend\n", body)
}

func TestL34_SigtermOverHTTP2LosesNoAcceptedRequest(t *testing.T) {
	b := backend.Start(t, backend.Config{Behaviour: backend.Behaviour{Delay: 5 * time.Millisecond}})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1)
	writeCertificate(t, folder, "two", 2)
	file := filepath.Join(folder, "gateway.yaml")
	require.NoError(t, os.WriteFile(file, []byte(secureConfig(b, "")), 0o600))
	p := launch(t, "-config", file)

	var wg sync.WaitGroup
	var answered atomic.Int64
	var draining atomic.Bool
	lost := make(chan error, 1000)
	for range 4 { // connections
		c := secureClient(t, "", true)
		for range 4 { // streams
			wg.Go(func() {
				for {
					// connected tells of the last attempt. After GOAWAY a request is sent again, on
					// another connection.
					connected := false
					ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
						GetConn: func(string) { connected = false },
						GotConn: func(httptrace.GotConnInfo) { connected = true },
					})
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.addr, nil)
					resp, err := c.Do(req)
					if err != nil && !connected && draining.Load() {
						return // the connection was refused, or reset in the kernel's queue: nothing was sent
					}
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != 200 {
							err = fmt.Errorf("%s", resp.Status)
						}
					}
					if err != nil {
						lost <- err
						return
					}
					answered.Add(1)
				}
			})
		}
	}
	require.Eventually(t, func() bool { return answered.Load() > 500 }, 30*time.Second, time.Millisecond)
	draining.Store(true)
	p.signal(t, syscall.SIGTERM)
	wg.Wait()
	require.Equal(t, 0, p.status(t), p.stderr)
	close(lost)
	for err := range lost {
		t.Error(err)
	}
	t.Logf("%d requests answered, 0 lost", answered.Load())
}

// net/http calls an HTTP/2 connection idle before it flushes the frames of its last response. Here
// the flush is late.
func TestL34_FramesThatAreNotFlushedAreNotLost(t *testing.T) {
	var c conns
	called := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(called)
	}))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		c.track(conn, state)
		if state == http.StateIdle {
			time.Sleep(silence / 4)
		}
	}
	s.StartTLS()
	defer s.Close()
	ended := make(chan error, 1)
	go func() {
		<-called
		s.Listener.Close()
		ended <- c.wait(t.Context())
		s.Config.Close()
	}()
	resp, err := s.Client().Get(s.URL)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
	require.NoError(t, <-ended)
}
