package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"slices"
)

// outside returns what is wrong with the files that c names, and with the variables of the
// environment. They are read once more where they are used.
func (c Config) outside() (f faults) {
	for i, cert := range c.Server.TLS.Certificates {
		if cert.Cert == "" || cert.Key == "" {
			continue
		}
		if _, err := tls.LoadX509KeyPair(cert.Cert, cert.Key); err != nil {
			f.add(err.Error(), "server", "tls", "certificates", i)
		}
	}
	for name, u := range c.Upstreams {
		keys := map[string]string{"ca": "ca", "cert": "cert", "key": "key"}
		files, err := u.TLS.read()
		if err == nil && (u.TLS.Cert == "") == (u.TLS.Key == "") {
			_, err = u.TLS.config(files)
		}
		if err != nil {
			f.wrapped(err, keys, "upstreams", name, "tls")
		}
		if u.Sticky != nil && u.Sticky.SecretEnv != "" {
			f.secret(u.Sticky.SecretEnv, 16, "upstreams", name, "sticky", "secret_env")
		}
	}
	if c.Admin.TokenEnv != "" {
		f.secret(c.Admin.TokenEnv, 16, "admin", "token_env")
	}
	if c.Redis.PasswordEnv != "" {
		f.secret(c.Redis.PasswordEnv, 1, "redis", "password_env")
	}
	return f
}

// secret adds a fault if the variable env of the environment has fewer than least characters.
func (f *faults) secret(env string, least int, path ...any) {
	switch n := len(os.Getenv(env)); {
	case n >= least:
	case n == 0:
		f.add("the environment has no "+env, slices.Clone(path)...)
	default:
		f.add(fmt.Sprintf("%s must have %d characters or more", env, least), slices.Clone(path)...)
	}
}
