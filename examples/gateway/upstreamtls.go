package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"
)

// An UpstreamTLS says how an upstream whose URL says https is spoken to. A reload reads its files
// again. Relative names begin at the configuration file's folder.
type UpstreamTLS struct {
	CA         string `yaml:"ca"`          // PEM file of the only authorities that count; the system's
	Cert       string `yaml:"cert"`        // PEM file of the gateway's own chain; none
	Key        string `yaml:"key"`         // PEM file of its key
	ServerName string `yaml:"server_name"` // the name on the hosts' certificates; that of the url
}

// check adds to f the faults of the key tls of an upstream with that URL.
func (t UpstreamTLS) check(target string, f *faults, path ...any) {
	if u, err := url.Parse(target); t != (UpstreamTLS{}) && err == nil && u.Scheme != "https" {
		f.add("needs a url with https", path...)
	}
	if (t.Cert == "") != (t.Key == "") {
		f.add("needs both cert and key", path...)
	}
	if t.ServerName != "" && !validHost(t.ServerName) {
		f.add(cmp.Or(schemeFault(t.ServerName, "a name"),
			unsecret(t.ServerName)+" is not a name or address without a port"), with(path, "server_name")...)
	}
}

// relativeTo returns t with the relative names of files below folder.
func (t UpstreamTLS) relativeTo(folder string) UpstreamTLS {
	for _, name := range []*string{&t.CA, &t.Cert, &t.Key} {
		*name = relativeTo(folder, *name)
	}
	return t
}

// A fileFault is what is wrong with a file that a key of an UpstreamTLS names.
type fileFault struct {
	key string
	err error
}

func (f *fileFault) Error() string  { return "tls." + f.key + ": " + f.err.Error() }
func (f *fileFault) Field() string  { return f.key }
func (f *fileFault) Reason() string { return f.err.Error() }
func (f *fileFault) Unwrap() error  { return f.err }

// A tlsFiles is what the files of an UpstreamTLS had in them when they were read.
type tlsFiles struct{ ca, cert, key []byte }

func (f tlsFiles) equal(other tlsFiles) bool { return reflect.DeepEqual(f, other) }

// read reads the files.
func (t UpstreamTLS) read() (f tlsFiles, err error) {
	var errs []error
	for _, file := range []struct {
		key, name string
		text      *[]byte
	}{{"ca", t.CA, &f.ca}, {"cert", t.Cert, &f.cert}, {"key", t.Key, &f.key}} {
		if file.name == "" {
			continue
		}
		if *file.text, err = os.ReadFile(file.name); err != nil {
			errs = append(errs, &fileFault{file.key, err})
		}
	}
	return f, errors.Join(errs...)
}

// config returns what a transport takes, or nil for what it does by itself.
func (t UpstreamTLS) config(f tlsFiles) (*tls.Config, error) {
	if t == (UpstreamTLS{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: strings.TrimSuffix(t.ServerName, ".")}
	var errs []error
	if t.CA != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(f.ca) {
			errs = append(errs, &fileFault{"ca", fmt.Errorf("%s has no certificate", t.CA)})
		}
	}
	if t.Cert != "" {
		pair, err := tls.X509KeyPair(f.cert, f.key)
		if err != nil {
			errs = append(errs, &fileFault{"cert", err})
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, errors.Join(errs...)
}

// relativeTo returns c with the relative names of files below folder.
func (c Config) relativeTo(folder string) Config {
	c.Server.TLS = c.Server.TLS.relativeTo(folder)
	c.Cache.Snapshot = relativeTo(folder, c.Cache.Snapshot)
	for name, u := range c.Upstreams {
		u.TLS = u.TLS.relativeTo(folder)
		c.Upstreams[name] = u
	}
	return c
}
