package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// A Redis is where limits are counted that several gateways share.
type Redis struct {
	Addr        string   `yaml:"addr"`         // "127.0.0.1:6379"; without it there is none
	TLS         bool     `yaml:"tls"`          // speak TLS, with the system's authorities
	Username    string   `yaml:"username"`     // of Redis' ACL
	PasswordEnv string   `yaml:"password_env"` // the environment variable that holds the password
	Prefix      string   `yaml:"prefix"`       // begins every key: gateways that share it share counts; "gateway:"
	Timeout     Duration `yaml:"timeout"`      // the most that a decision may wait for Redis; 25ms
}

func (r Redis) withDefaults(f *faults) Redis {
	f.duration(&r.Timeout, 25*time.Millisecond, "redis", "timeout")
	if r.Prefix == "" {
		r.Prefix = "gateway:"
	}
	if strings.ContainsAny(r.Prefix, "{}") {
		f.add("must not contain braces", "redis", "prefix")
	}
	if r.Addr != "" && !validAddr(r.Addr) {
		f.add(unsecret(r.Addr)+" is not an address such as 127.0.0.1:6379", "redis", "addr")
	}
	if r.Addr == "" && (r.TLS || r.Username != "" || r.PasswordEnv != "") {
		f.add("is required", "redis", "addr")
	}
	return r
}

// counts are where limits are counted. They outlive a reload, so that nobody gets a fresh burst by one.
type counts struct {
	memory *ratelimit.MemoryStore
	local  *ratelimit.MemoryStore // while Redis fails
	client *redis.Client          // nil without Redis
	redis  *redislimit.Store
}

func newCounts(cfg Redis) (*counts, error) {
	c := &counts{}
	var err error
	if c.memory, err = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{}); err != nil {
		return nil, err
	}
	if cfg.Addr == "" {
		return c, nil
	}
	if c.local, err = ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{}); err != nil {
		return nil, err
	}
	opt := &redis.Options{
		Addr: cfg.Addr, Username: cfg.Username,
		// A call ends with its context, and redislimit's breaker is the one to try again.
		ContextTimeoutEnabled: true, MaxRetries: -1,
	}
	if path, ok := strings.CutPrefix(cfg.Addr, "unix:"); ok {
		opt.Network, opt.Addr = "unix", path
	} else if !strings.Contains(strings.TrimPrefix(cfg.Addr, "["), ":") {
		opt.Addr += ":6379"
	}
	if cfg.PasswordEnv != "" {
		if opt.Password = os.Getenv(cfg.PasswordEnv); opt.Password == "" {
			return nil, fmt.Errorf("redis.password_env: the environment has no %s", cfg.PasswordEnv)
		}
	}
	if cfg.TLS {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c.client = redis.NewClient(opt)
	if c.redis, err = redislimit.New(c.client, redislimit.Config{Prefix: cfg.Prefix, Timeout: time.Duration(cfg.Timeout)}); err != nil {
		return nil, errors.Join(err, c.client.Close())
	}
	return c, nil
}

// retain forgets what routes no longer count.
func (c *counts) retain(routes []Route) {
	var names []string
	for _, r := range routes {
		names = append(names, r.Limits...)
	}
	c.memory.Retain(names...)
	if c.local != nil {
		c.local.Retain(names...)
	}
}

func (c *counts) close() {
	if c.client != nil {
		_ = c.client.Close()
	}
}
