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
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An authority signs certificates of tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

// sign returns a chain and its key in PEM.
func (a *authority) sign(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(own)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// secureBackend is a server by the name of internal.test that asks for a certificate of clients',
// and answers with the name on it and the name that the client has asked for. What it says of
// handshakes that fail is in the log.
func secureBackend(t *testing.T, a *authority) (addr string, said *writes) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := r.TLS.PeerCertificates[0].Subject.CommonName
		fmt.Fprintf(w, "%s by %s, %s", client, r.TLS.ServerName, r.Proto)
	}))
	pair, err := tls.X509KeyPair(a.sign(t, "internal.test"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"h2", "http/1.1"},
	}
	s.EnableHTTP2 = true
	said = new(writes)
	s.Config.ErrorLog = log.New(said, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), said
}

func TestTLSOfAnUpstream(t *testing.T) {
	a, folder := newAuthority(t), t.TempDir()
	addr, said := secureBackend(t, a)
	write := func(name string, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), text, 0o600))
	}
	signed := func(name string) {
		cert, key := a.sign(t, name)
		write("own.pem", cert)
		write("own.key", key)
	}
	write("ca.pem", a.pem())
	signed("first")
	load := func(keys string) Config {
		t.Helper()
		write("gateway.yaml", fmt.Appendf(nil, "upstreams: {app: {url: \"https://app.test\", hosts: [%s], "+
			"tls: {%s}}}\nroutes: [{upstream: app}]", addr, keys))
		cfg, err := loadConfig(filepath.Join(folder, "gateway.yaml"), nil) // relative names begin there
		require.NoError(t, err)
		return cfg
	}
	const whole = "ca: ca.pem, cert: own.pem, key: own.key"
	g := startConfig(t, load(whole+", server_name: internal.test"))
	c := client(t)
	answer := func() string {
		_, body := get(t, c, g.url)
		return body
	}
	require.Equal(t, "first by internal.test, HTTP/2.0", answer())

	t.Run("a reload reads the files again", func(t *testing.T) {
		signed("second")
		require.Equal(t, "first by internal.test, HTTP/2.0", answer(), "not before")
		require.NoError(t, g.reload(load(whole+", server_name: internal.test")))
		require.Equal(t, "second by internal.test, HTTP/2.0", answer())
		before := g.current.Load().upstreams["app"]
		require.NoError(t, g.reload(load(whole+", server_name: internal.test")))
		require.Same(t, before, g.current.Load().upstreams["app"], "the same files, the same upstream")
	})
	t.Run("a bad file changes nothing", func(t *testing.T) {
		write("own.key", []byte("no key"))
		err := g.reload(load(whole + ", server_name: internal.test"))
		require.ErrorContains(t, err, "upstreams.app: tls.cert: ")
		require.Equal(t, "second by internal.test, HTTP/2.0", answer())
		require.ErrorContains(t, g.reload(load("ca: none.pem")),
			"upstreams.app: tls.ca: open "+folder+"/none.pem")
		write("ca2.pem", []byte("no certificate"))
		require.ErrorContains(t, g.reload(load("ca: ca2.pem")),
			"tls.ca: "+folder+"/ca2.pem has no certificate")
		signed("third")
	})
	t.Run("each key counts, by a reload, too", func(t *testing.T) {
		const without = "ca: ca.pem, server_name: internal.test"
		for keys, want := range map[string]string{
			whole: "app.test", // the name of the url is not on the certificate
			"cert: own.pem, key: own.key, server_name: internal.test": "unknown authority",
			without: ".",
		} {
			require.NoError(t, g.reload(load(keys)))
			_, body := get(t, c, g.url)
			require.Contains(t, body, "status", body)
			why := ""
			for _, h := range g.current.Load().upstreams["app"].hosts() {
				why += h.LastError
			}
			// A server of TLS 1.3 refuses the client after the client's own handshake, so the
			// client's error is its alert, a broken pipe or what HTTP/2 makes of them. The server's
			// log is exact.
			require.Regexp(t, want, why, keys)
			if keys == without {
				require.Eventually(t, func() bool {
					log := strings.Join(said.taken(), "")
					return strings.Contains(log, "client didn't provide a certificate")
				}, time.Minute, time.Millisecond)
			}
		}
		require.NoError(t, g.reload(load(whole+", server_name: internal.test.")))
		require.Equal(t, "third by internal.test, HTTP/2.0", answer())
	})
}

func TestFaultsOfTLSOfAnUpstream(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{hosts: [a], tls: {ca: a.pem}}", "tls: needs a url with https"},
		{"{url: \"http://a\", tls: {server_name: b}}", "tls: needs a url with https"},
		{"{url: \"https://a\", tls: {cert: a.pem}}", "tls: needs both cert and key"},
		{"{url: \"https://a\", tls: {key: a.pem}}", "tls: needs both cert and key"},
		{"{url: \"https://a\", tls: {server_name: \"b:443\"}}",
			`tls.server_name: "b:443" is not a name or address without a port`},
		{"{url: \"https://a\", tls: {sni: b}}",
			"tls.sni: unknown key: the keys here are ca, cert, key, server_name"},
	} {
		_, err := parseConfig("f", []byte("upstreams: {u: "+tt.text+"}\nroutes: [{upstream: u}]"))
		require.EqualError(t, err, "f:1: upstreams.u."+tt.want)
	}
	require.False(t, strings.HasPrefix(UpstreamTLS{CA: "/a"}.relativeTo("/b").CA, "/b"))
}
