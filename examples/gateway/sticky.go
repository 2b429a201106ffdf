package main

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/trivet-go/trivet/balancer"
)

// policies are the ways to choose a host for a request.
var policies = map[string]func() balancer.Policy{
	"adaptive":      balancer.Adaptive,
	"round_robin":   balancer.RoundRobin,
	"least_request": func() balancer.Policy { return balancer.LeastRequest(2) },
	"hash_path": func() balancer.Policy {
		return balancer.Hash(balancer.HashConfig{
			Key: func(r *http.Request) (string, bool) { return r.URL.Path, true },
		})
	},
}

// A StickyHost keeps a client at the host that has answered it first, by a cookie, as long as that
// host may get requests.
type StickyHost struct {
	Cookie   string   `yaml:"cookie"`   // its name; "trivet_host_" and the upstream's
	MaxAge   Duration `yaml:"max_age"`  // how long browsers keep it; for their session
	Insecure bool     `yaml:"insecure"` // it is also sent in clear; false

	// SecretEnv is the environment variable that holds the secret, of 16 characters or more, by
	// which the cookie's value is made. Gateways that share clients must share it. If empty, each
	// start makes one, after which clients may move to another host.
	SecretEnv string `yaml:"secret_env"`
}

// withDefaults returns s with its defaults, and adds its faults to f.
func (s *StickyHost) withDefaults(upstream string, f *faults, path ...any) *StickyHost {
	full := *s
	full.Cookie = cmp.Or(s.Cookie, "trivet_host_"+notInName.ReplaceAllString(upstream, "-"))
	if !fieldName.MatchString(full.Cookie) {
		f.add(fmt.Sprintf("%q is not the name of a cookie", s.Cookie), with(path, "cookie")...)
	}
	f.duration(&full.MaxAge, 0, with(path, "max_age")...)
	if d := time.Duration(full.MaxAge); d > 0 && d%time.Second != 0 {
		f.add("is not in whole seconds, which is what a cookie can say", with(path, "max_age")...)
	}
	return &full
}

// A stickiness makes the policies of upstreams with the key sticky.
type stickiness struct{ secret []byte } // of those that have none of their own; outlives reloads

func newStickiness() stickiness {
	return stickiness{secret: []byte(rand.Text())}
}

// policy returns by what the host of a request is chosen.
func (s stickiness) policy(cfg Upstream) (balancer.Policy, error) {
	var policy balancer.Policy // nil means adaptive
	if made, ok := policies[cfg.Policy]; ok {
		policy = made()
	}
	if cfg.Sticky == nil {
		return policy, nil
	}
	secret := s.secret
	if name := cfg.Sticky.SecretEnv; name != "" {
		if secret = []byte(os.Getenv(name)); len(secret) < 16 {
			return nil, fmt.Errorf("sticky.secret_env: the environment has no %s of 16 characters or more",
				name)
		}
	}
	return balancer.Sticky(balancer.StickyConfig{
		Secret: secret, Name: cfg.Sticky.Cookie, MaxAge: time.Duration(cfg.Sticky.MaxAge),
		Insecure: cfg.Sticky.Insecure, Next: policy,
	}), nil
}
