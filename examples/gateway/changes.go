package main

import (
	"reflect"
	"slices"
)

// keeps reports whether the upstream of that name, if there is one, goes on as it is with settings
// u. A nil gen has none.
func (gen *generation) keeps(name string, u Upstream) bool {
	if gen == nil || gen.upstreams[name] == nil || !reflect.DeepEqual(gen.cfg.Upstreams[name], u) {
		return false
	}
	files, err := u.TLS.read() // they may have changed
	return err == nil && files.equal(gen.upstreams[name].files)
}

// fixedChanges returns the keys that differ between a and b and need a restart to change.
func fixedChanges(a, b Config) []string {
	var names []string
	for _, field := range []struct {
		name string
		same bool
	}{
		{"server.listen", a.Server.Listen == b.Server.Listen},
		{"server.deadline_field", a.Server.DeadlineField == b.Server.DeadlineField},
		{"server.hint_field", a.Server.HintField == b.Server.HintField},
		{"server.read_header_timeout", a.Server.ReadHeaderTimeout == b.Server.ReadHeaderTimeout},
		{"server.idle_timeout", a.Server.IdleTimeout == b.Server.IdleTimeout},
		{"server.max_header_bytes", a.Server.MaxHeaderBytes == b.Server.MaxHeaderBytes},
		{"server.h2c", a.Server.H2C == b.Server.H2C},
		{"server.tls, on or off", a.Server.TLS.on() == b.Server.TLS.on()},
		{"server.trusted_proxies", slices.Equal(a.Server.TrustedProxies, b.Server.TrustedProxies)},
		{"admin.listen", a.Admin.Listen == b.Admin.Listen},
		{"admin.token_env", a.Admin.TokenEnv == b.Admin.TokenEnv},
		{"admin.metrics.listen", a.Admin.Metrics.Listen == b.Admin.Metrics.Listen},
		{"cache", a.Cache == b.Cache},
		{"telemetry", reflect.DeepEqual(a.Telemetry, b.Telemetry)},
		{"objectives", reflect.DeepEqual(a.Objectives, b.Objectives)},
		{"redis", a.Redis == b.Redis},
	} {
		if !field.same {
			names = append(names, field.name)
		}
	}
	return names
}
