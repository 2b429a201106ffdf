package main

import (
	"os"
	"path/filepath"
	"strings"
)

const reverseProxy = "reverseproxy"

// A contender is a proxy in front of the origins.
type contender struct {
	name    string
	binary  string
	version []string // arguments that print the version; nil prints none
	cases   []string

	// configure returns the text of the configuration, the file that it goes to and the command.
	configure func(c, dir string) (text, file string, command []string)
}

// prepare writes the configuration for a case and returns the command that runs the contender.
func (c contender) prepare(name, dir string) ([]string, error) {
	text, file, command := c.configure(name, dir)
	if file == "" {
		return command, nil
	}
	file = filepath.Join(dir, file)
	return command, os.WriteFile(file, []byte(text), 0o600)
}

// contenders returns all that there are, the reverse proxy first.
func contenders(gateway string) []contender {
	all := []string{"proxy", "full", "big", "kill"}
	withHits := append(all, "cached")
	return []contender{
		{reverseProxy, os.Args[0], nil, withHits, configureReverseProxy},
		{"gateway", gateway, nil, withHits, configureGateway(gateway)},
		{"nginx", "nginx", []string{"-v"}, withHits, configureNginx},
		{"haproxy", "haproxy", []string{"-v"}, []string{"proxy", "big", "kill"}, configureHAProxy},
		{"caddy", "caddy", []string{"version"}, all, configureCaddy},
		{"varnish", "varnishd", []string{"-V"}, []string{"cached"}, configureVarnish},
	}
}

// fill puts addresses and the directory into a configuration, and what more says.
func fill(text, dir string, more ...string) string {
	text = strings.NewReplacer(more...).Replace(text)
	return strings.NewReplacer("LISTEN", listenAddr, "ORIGIN1", originAddrs[0], "ORIGIN2", originAddrs[1],
		"DIR", dir).Replace(text)
}

func configureReverseProxy(c, dir string) (text, file string, command []string) {
	command = []string{os.Args[0], "reverseproxy"}
	if c == "full" {
		command = append(command, filepath.Join(dir, "access.log"))
	}
	return "", "", command
}

func configureGateway(binary string) func(c, dir string) (text, file string, command []string) {
	return func(c, dir string) (text, file string, command []string) {
		log, limits, route, top, upstream := "none", "", "", "", ""
		switch c {
		case "full":
			log, route = "stdout", "limits: [address]"
			limits = "limits: {address: {rate: 1000000/s, burst: 1000000, by: address}}"
		case "cached":
			top, route = "cache: {size: 64MiB}", "cache: {}"
		case "kill":
			upstream = "health: {path: /healthz, interval: 500ms}\n    retry: {}"
		}
		text = fill(gatewayConfig, dir, "LOG", log, "LIMITS", limits, "ROUTE", route, "TOP", top,
			"UPSTREAM", upstream)
		return text, "gateway.yaml",
			[]string{"sh", "-c", "exec " + binary + " -config gateway.yaml >access.log"}
	}
}

func configureNginx(c, dir string) (text, file string, command []string) {
	extra := "access_log off;"
	switch c {
	case "full":
		extra = "access_log DIR/access.log combined buffer=64k flush=1s;\n" +
			"    limit_req zone=address burst=100000 nodelay;"
	case "cached":
		extra += " proxy_cache hits; proxy_cache_valid 200 1h;"
	}
	return fill(nginxConfig, dir, "EXTRA", extra), "nginx.conf",
		[]string{"nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf")}
}

func configureHAProxy(_, dir string) (text, file string, command []string) {
	return fill(haproxyConfig, dir), "haproxy.cfg",
		[]string{"haproxy", "-f", filepath.Join(dir, "haproxy.cfg")}
}

func configureCaddy(c, dir string) (text, file string, command []string) {
	extra := ""
	if c == "full" {
		extra = "log {\n\t\toutput file DIR/access.log\n\t}\n\tmetrics"
	}
	return fill(caddyConfig, dir, "EXTRA", extra), "Caddyfile",
		[]string{"caddy", "run", "--config", filepath.Join(dir, "Caddyfile"), "--adapter", "caddyfile"}
}

func configureVarnish(_, dir string) (text, file string, command []string) {
	return fill(varnishConfig, dir), "default.vcl", []string{"varnishd", "-F", "-j", "none", "-a", listenAddr,
		"-f", filepath.Join(dir, "default.vcl"), "-s", "malloc,64m", "-n", filepath.Join(dir, "varnish")}
}

const gatewayConfig = `server: {listen: "LISTEN"}
admin: {listen: "127.0.0.1:19081"}
telemetry: {access_log: {output: LOG}}
LIMITS
TOP
upstreams:
  app:
    hosts: ["ORIGIN1", "ORIGIN2"]
    UPSTREAM
routes:
  - upstream: app
    ROUTE
`

const nginxConfig = `user root;
daemon off;
worker_processes 1;
pid DIR/nginx.pid;
error_log DIR/nginx.err;
events { worker_connections 2048; }
http {
  client_body_temp_path DIR/b;
  proxy_temp_path DIR/p;
  fastcgi_temp_path DIR/f;
  uwsgi_temp_path DIR/u;
  scgi_temp_path DIR/s;
  keepalive_requests 1000000;
  limit_req_zone $binary_remote_addr zone=address:1m rate=1000000r/s;
  proxy_cache_path DIR/hits keys_zone=hits:8m max_size=64m;
  upstream app { server ORIGIN1; server ORIGIN2; keepalive 256; keepalive_requests 1000000; }
  server {
    listen LISTEN backlog=1024;
    EXTRA
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_next_upstream error timeout http_502 http_503;
    }
  }
}
`

const haproxyConfig = `global
  maxconn 4096
  nbthread 1
defaults
  mode http
  timeout connect 3s
  timeout client 30s
  timeout server 30s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response
  option forwardfor
  http-reuse always
frontend in
  bind LISTEN
  default_backend app
backend app
  option httpchk GET /healthz
  default-server check inter 500
  server a ORIGIN1
  server b ORIGIN2
`

const caddyConfig = `{
	admin off
	auto_https off
}
http://LISTEN {
	EXTRA
	reverse_proxy ORIGIN1 ORIGIN2 {
		lb_policy round_robin
		lb_try_duration 2s
		fail_duration 10s
	}
}
`

const varnishConfig = `vcl 4.0;
backend default { .host = "127.0.0.1"; .port = "19001"; }
`
