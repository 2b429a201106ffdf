package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// An Upstream is a service that several hosts provide.
type Upstream struct {
	// URL is the scheme, name and port of the service: "http://users.internal:8080". Without Hosts,
	// DNS resolves its name, again and again. With Hosts, it gives the TLS name and the default
	// port, and may be empty: then it is "http://" and the upstream's name.
	URL string `yaml:"url"`

	TLS             UpstreamTLS `yaml:"tls"`              // of a url with https
	SRV             string      `yaml:"srv"`              // the service whose SRV records DNS has; none
	Host            string      `yaml:"host"`             // sent to it; what the client has sent
	Path            string      `yaml:"path"`             // put before the path of each request; none
	StripPrefix     string      `yaml:"strip_prefix"`     // before that: what is removed of paths; none
	Policy          string      `yaml:"policy"`           // by which a host is chosen; "adaptive"
	Sticky          *StickyHost `yaml:"sticky"`           // keeps a client at one host; none
	IdleTimeout     Duration    `yaml:"idle_timeout"`     // of unused connections to its hosts; 90s
	Wait            Duration    `yaml:"wait"`             // for a host while all are down; not at all
	H2C             bool        `yaml:"h2c"`              // speak HTTP/2 in clear
	MaxConns        Bound       `yaml:"max_conns"`        // connections or streams of a host at once; 1024
	Hosts           []Host      `yaml:"hosts"`            // the hosts, instead of DNS
	Health          Health      `yaml:"health"`           // active checks; without a path there are none
	ConnectTimeout  Duration    `yaml:"connect_timeout"`  // 3s
	ResponseTimeout Duration    `yaml:"response_timeout"` // from the request to the response's header; 60s
	Breaker         *Breaker    `yaml:"breaker"`          // stops requests to hosts that keep failing; none
	Retry           *Retry      `yaml:"retry"`            // repeats requests that failed; none
	Hedge           *Hedge      `yaml:"hedge"`            // sends slow requests a second time; none
}

// A Host is one server of an upstream: in YAML "10.0.0.1:8080", or a mapping.
type Host struct {
	Addr     string `yaml:"addr"`     // "10.0.0.1:8080"; the default port is that of the upstream's URL
	Weight   Weight `yaml:"weight"`   // its share of the requests, relative to the others; 0 drains it; 1
	Priority uint8  `yaml:"priority"` // 1 takes over as far as the hosts of 0 are unhealthy, and so on; 0
}

// A Health configures the active checks of an upstream's hosts.
type Health struct {
	Path     string   `yaml:"path"`     // a GET of it must answer 200 to 399; if empty, nothing is checked
	Interval Duration `yaml:"interval"` // 10s
	Timeout  Duration `yaml:"timeout"`  // 3s, or interval if that is less
	Rise     int      `yaml:"rise"`     // good checks in a row that bring a host back; 2
	Fall     int      `yaml:"fall"`     // bad checks in a row that take a host out; 3
}

func (u Upstream) withDefaults(name string, f *faults) Upstream {
	at := func(path ...any) []any { return append([]any{"upstreams", name}, path...) }
	f.duration(&u.ConnectTimeout, 3*time.Second, at("connect_timeout")...)
	f.duration(&u.ResponseTimeout, time.Minute, at("response_timeout")...)
	u.MaxConns.orDefault(1024)
	f.duration(&u.Health.Interval, 10*time.Second, at("health", "interval")...)
	checkTimeout := min(3*time.Second, time.Duration(u.Health.Interval))
	f.duration(&u.Health.Timeout, checkTimeout, at("health", "timeout")...)
	for key, n := range map[string]int{"rise": u.Health.Rise, "fall": u.Health.Fall} {
		if n < 0 {
			f.add("must be positive", at("health", key)...)
		}
	}
	if u.Breaker != nil {
		u.Breaker.check(f, at("breaker")...)
	}
	u.checkRetries(f, at()...)
	if p := u.Health.Path; p != "" {
		target, err := url.ParseRequestURI(p)
		if err != nil || p[0] != '/' || strings.ContainsAny(p, " #") || target.Host != "" {
			f.add(fmt.Sprintf("%q is not a path that begins with a slash, encoded as in a URL", p),
				at("health", "path")...)
		}
	}

	u.checkURL(name, f, at)
	u.checkRequests(name, f, at)
	u.checkHosts(f, at)
	return u
}

// checkURL adds to f the faults of what says where the service is.
func (u *Upstream) checkURL(name string, f *faults, at func(...any) []any) {
	switch {
	case u.URL == "" && len(u.Hosts) == 0:
		f.add("either url or hosts is required", at()...)
	case u.URL == "":
		u.URL = "http://" + name
	}
	if u.URL != "" {
		target, err := url.Parse(u.URL)
		switch {
		case err != nil || target.Scheme != "http" && target.Scheme != "https",
			target.User == nil && !validAddr(target.Host):
			f.add(unsecret(u.URL)+" is not a URL such as http://users.internal:8080", at("url")...)
		case target.User != nil || target.Path != "" && target.Path != "/",
			target.RawQuery != "" || target.Fragment != "":
			text := "must have no more than scheme, host and port"
			if target.User == nil && len(target.Path) > 1 {
				text += ": the key path takes a path"
			}
			f.add(text, at("url")...)
		case u.H2C && target.Scheme == "https":
			f.add("is HTTP/2 in clear, but the url says https, where HTTP/2 needs no setting", at("h2c")...)
		}
	}
	u.TLS.check(u.URL, f, at("tls")...)
	if u.SRV == "" {
		return
	}
	target, err := url.Parse(u.URL)
	switch {
	case !serviceName.MatchString(u.SRV):
		f.add(fmt.Sprintf("%q is not the name of a service such as http, without underscores", u.SRV),
			at("srv")...)
	case len(u.Hosts) > 0:
		f.add("has no meaning with hosts", at("srv")...)
	case err == nil && target.Port() != "":
		f.add("says which port, so the url must have none", at("srv")...)
	case err == nil && isAddress(target.Hostname()):
		f.add("needs a name in the url", at("srv")...)
	}
}

// serviceName matches the name of a service (RFC 6335, section 5.1).
var serviceName = regexp.MustCompile(`^[A-Za-z0-9-]{1,63}$`)

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// checkRequests adds to f the faults of what each request gets on its way.
func (u *Upstream) checkRequests(name string, f *faults, at func(...any) []any) {
	if u.Host != "" && (!validAddr(u.Host) || strings.HasPrefix(u.Host, "unix:")) {
		f.add(cmp.Or(schemeFault(u.Host, "a host"),
			unsecret(u.Host)+" is not a host such as users.internal, with or without a port"), at("host")...)
	}
	for key, path := range map[string]*string{"path": &u.Path, "strip_prefix": &u.StripPrefix} {
		switch {
		case *path == "/":
			f.add("changes nothing: leave it out", at(key)...)
		case *path != "" && !cleanPrefix(*path):
			f.add(fmt.Sprintf("%q is not a clean path that begins with a slash", *path), at(key)...)
		}
		*path = strings.TrimSuffix(*path, "/")
	}
	f.duration(&u.IdleTimeout, 90*time.Second, at("idle_timeout")...)
	f.duration(&u.Wait, 0, at("wait")...)
	if u.Wait != 0 && u.Health.Path == "" {
		f.add("needs health.path: nothing else says that a host is back", at("wait")...)
	}
	if u.Policy == "" {
		u.Policy = "adaptive"
	}
	if policies[u.Policy] == nil {
		f.add(fmt.Sprintf("%q is not one of: %s", u.Policy, names(policies)), at("policy")...)
	}
	if u.Sticky != nil {
		u.Sticky = u.Sticky.withDefaults(name, f, at("sticky")...)
	}
}

// cleanPrefix reports whether a path is one that requests can have, decoded.
func cleanPrefix(p string) bool {
	return p[0] == '/' && strings.TrimSuffix(path.Clean(p), "/") == strings.TrimSuffix(p, "/") &&
		!strings.ContainsAny(p, "{} ?#%*\\;") && !strings.ContainsFunc(p, unicode.IsControl)
}

// checkHosts adds to f the faults of the list of hosts.
func (u *Upstream) checkHosts(f *faults, at func(...any) []any) {
	u.Hosts = slices.Clone(u.Hosts)
	seen := map[string]bool{}
	for i, h := range u.Hosts {
		switch {
		case h.Addr == "":
			f.add(`"" is not an address such as 10.0.0.1:8080: a host needs an addr`, at("hosts", i)...)
		case !validAddr(h.Addr):
			f.add(addressFault(h.Addr, "10.0.0.1:8080"), at("hosts", i)...)
		case seen[h.Addr]:
			f.add(fmt.Sprintf("%q stands here twice", h.Addr), at("hosts", i)...)
		}
		seen[h.Addr] = true
	}
}
