package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"

	"go.yaml.in/yaml/v4"
)

// A TLS configures HTTPS. Without certificates the gateway speaks HTTP/1.1 in clear.
type TLS struct {
	// The first certificate that fits the client's SNI and algorithms is used. If none fits, the
	// first is.
	Certificates []Certificate `yaml:"certificates"`

	MinVersion string `yaml:"min_version"` // "1.2" or "1.3"; 1.2
}

// A Certificate names the PEM files of a chain and its key. Relative names begin at the
// configuration file's folder.
type Certificate struct {
	Cert string `yaml:"cert"` // the chain, with the server's own certificate first
	Key  string `yaml:"key"`
}

func (t TLS) on() bool { return len(t.Certificates) > 0 }

func (t TLS) withDefaults(f *faults) TLS {
	switch t.MinVersion {
	case "":
		t.MinVersion = "1.2"
	case "1.2", "1.3":
	default:
		f.add(fmt.Sprintf(`%q is neither "1.2" nor "1.3"`, t.MinVersion), "server", "tls", "min_version")
	}
	t.Certificates = slices.Clone(t.Certificates)
	for i, c := range t.Certificates {
		if c.Cert == "" || c.Key == "" {
			f.add("needs both cert and key", "server", "tls", "certificates", i)
		}
	}
	return t
}

// relativeTo returns the file of that name, below folder if the name is relative. An empty name
// stays empty.
func relativeTo(folder, name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(folder, name)
}

// relativeTo returns t with the relative names of files below folder.
func (t TLS) relativeTo(folder string) TLS {
	t.Certificates = slices.Clone(t.Certificates)
	for i := range t.Certificates {
		for _, name := range []*string{&t.Certificates[i].Cert, &t.Certificates[i].Key} {
			*name = relativeTo(folder, *name)
		}
	}
	return t
}

// load reads the certificates. It returns nil if t has none.
func (t TLS) load() (*tls.Config, error) {
	if !t.on() {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if t.MinVersion == "1.3" {
		cfg.MinVersion = tls.VersionTLS13
	}
	var errs []error
	for i, c := range t.Certificates {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("server.tls.certificates[%d]: %w", i, err))
		}
		cfg.Certificates = append(cfg.Certificates, pair)
	}
	return cfg, errors.Join(errs...)
}

// listenerTLS returns the configuration of a listener that uses the current one for each handshake.
func listenerTLS(current *atomic.Pointer[tls.Config]) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil },
	}
}

// A Proxy is an entry of trusted_proxies: the proxies in a network ("10.0.0.0/8"), the one at an
// address, or all peers of unix sockets ("unix").
type Proxy struct {
	Network netip.Prefix
	Unix    bool
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Proxy) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "unix" {
		*p = Proxy{Unix: true}
		return nil
	}
	network, err := netip.ParsePrefix(n.Value)
	if err != nil {
		var addr netip.Addr
		if addr, err = netip.ParseAddr(n.Value); err == nil {
			network, err = addr.Prefix(addr.BitLen())
		}
	}
	if err != nil || network.Addr().Is4In6() || network.Addr().Zone() != "" {
		return fmt.Errorf("must be a network such as 10.0.0.0/8, an address or unix, not %s", describeNode(n))
	}
	*p = Proxy{Network: network.Masked()}
	return nil
}

// A trust says whose forwarding fields are believed, in the form that telemetry, ratelimit and
// balancer take.
type trust struct {
	proxies []netip.Prefix
	unix    bool
}

// trustIn returns the trust in proxies.
// believes reports whether the peer at remoteAddr is one of the trusted proxies.
func (t trust) believes(remoteAddr string) bool {
	peer, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return t.unix // net/http gives peers of unix sockets no address
	}
	addr := peer.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(t.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func trustIn(proxies []Proxy) trust {
	var t trust
	for _, p := range proxies {
		if p.Unix {
			t.unix = true
		} else {
			t.proxies = append(t.proxies, p.Network)
		}
	}
	return t
}
