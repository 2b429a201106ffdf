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

// A Redis configures the Redis in which several gateways count limits, keep rollouts and share a
// cache.
type Redis struct {
	Addr        string   `yaml:"addr"`         // "127.0.0.1:6379"; if empty, no Redis is used
	TLS         bool     `yaml:"tls"`          // speak TLS; the system's authorities are trusted
	Username    string   `yaml:"username"`     // of Redis' ACL; if empty, the default user
	PasswordEnv string   `yaml:"password_env"` // the environment variable that holds the password
	Prefix      string   `yaml:"prefix"`       // of all keys; the same prefix shares all of these; "gateway:"
	Timeout     Duration `yaml:"timeout"`      // the most that a request may wait for Redis each time; 25ms
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
		text := addressFault(r.Addr, "127.0.0.1:6379")
		if strings.Contains(r.Addr, "@") {
			text += ". A password goes into the variable that password_env names"
		}
		f.add(text, "redis", "addr")
	}
	if r.Addr == "" && (r.TLS || r.Username != "" || r.PasswordEnv != "") {
		f.add("is required", "redis", "addr")
	}
	return r
}

// counts are the stores in which limits are counted. They outlive a reload, so that it grants no
// fresh burst.
type counts struct {
	memory *ratelimit.MemoryStore
	local  *ratelimit.MemoryStore // counts while Redis fails; nil without Redis
	client *redis.Client          // nil without Redis
	redis  *redislimit.Store      // nil without Redis
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
		// A call ends with its context. redislimit's breaker decides when to try again.
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
	settings := redislimit.Config{Prefix: cfg.Prefix, Timeout: time.Duration(cfg.Timeout)}
	if c.redis, err = redislimit.New(c.client, settings); err != nil {
		return nil, errors.Join(err, c.client.Close())
	}
	return c, nil
}

// retain frees the memory of limits that routes no longer name.
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
