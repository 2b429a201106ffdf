package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

const keyPairEnv = "TRIVET_BACKEND_KEYPAIR"

// keyPair returns, in PEM, the certificate and the key that all backends of a test share. A process
// takes them from its environment, where its parent has put them.
var keyPair = sync.OnceValue(func() []byte {
	if inherited := os.Getenv(keyPairEnv); inherited != "" {
		return []byte(inherited)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "backend of a test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"localhost", "*.test"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
})

func serverTLS() *tls.Config {
	cert, err := tls.X509KeyPair(keyPair(), keyPair())
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// TLS returns a new client configuration that trusts the backends' certificate. The certificate is
// valid for 127.0.0.1, ::1, localhost and every name under "test".
func TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(keyPair())
	return &tls.Config{RootCAs: pool}
}
