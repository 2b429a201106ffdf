package balancer_test

import (
	"context"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestNewNamesEveryInvalidField(t *testing.T) {
	key := func(*http.Request) (string, bool) { return "", false }
	var nilPushed *balancer.Pushed
	sticky := func(next balancer.Policy) balancer.Policy {
		return balancer.Sticky(balancer.StickyConfig{Secret: make([]byte, 16), Next: next})
	}
	good := func() balancer.Config { return balancer.Config{Resolver: balancer.Static("a:1")} }
	tests := map[string]struct {
		change func(*balancer.Config)
		want   string // after "balancer: Config."
	}{
		"no resolver":        {func(c *balancer.Config) { c.Resolver = nil }, "Resolver: is required"},
		"typed nil resolver": {func(c *balancer.Config) { c.Resolver = nilPushed }, "Resolver: is required"},
		"empty address": {
			func(c *balancer.Config) { c.Resolver = balancer.Static("a:1", "") },
			"Resolver: endpoint 1 has no address",
		},
		"empty path": {
			func(c *balancer.Config) { c.Resolver = balancer.Static("unix:") },
			"Resolver: endpoint 0 has no address",
		},
		"subset of nil": {
			func(c *balancer.Config) { c.Resolver = balancer.Subset(nil, "k", 1) },
			"Resolver: the resolver of a Subset is nil",
		},
		"subset of nothing": {
			func(c *balancer.Config) { c.Resolver = balancer.Subset(balancer.Static("a:1"), "k", 0) },
			"Resolver: the size of a Subset, 0, is not positive",
		},
		"subset of bad": {
			func(c *balancer.Config) { c.Resolver = balancer.Subset(balancer.Static(""), "k", 1) },
			"Resolver: endpoint 0 has no address",
		},
		"DNS interval": {
			func(c *balancer.Config) { c.Resolver = balancer.DNS(balancer.DNSConfig{Interval: -1}) },
			"Resolver.Interval: -1ns is negative",
		},
		"DNS linger": {
			func(c *balancer.Config) { c.Resolver = balancer.DNS(balancer.DNSConfig{Linger: -1}) },
			"Resolver.Linger: -1ns is negative",
		},
		"DNS endpoints": {
			func(c *balancer.Config) { c.Resolver = balancer.DNS(balancer.DNSConfig{MaxEndpoints: -1}) },
			"Resolver.MaxEndpoints: -1 is negative",
		},
		"DNS network": {
			func(c *balancer.Config) { c.Resolver = balancer.DNS(balancer.DNSConfig{Network: "tcp"}) },
			`Resolver.Network: "tcp" is not`,
		},
		"DNS proto": {
			func(c *balancer.Config) { c.Resolver = balancer.DNS(balancer.DNSConfig{Proto: "sctp"}) },
			`Resolver.Proto: "sctp" is not`,
		},
		"typed nil policy": {
			func(c *balancer.Config) { c.Policy = (*customPolicy)(nil) },
			"Policy: is a nil *balancer_test.customPolicy",
		},
		"least of one": {
			func(c *balancer.Config) { c.Policy = balancer.LeastRequest(1) },
			"Policy: LeastRequest(1)",
		},
		"peak without decay": {
			func(c *balancer.Config) { c.Policy = balancer.PeakEWMA(0) },
			"Policy: PeakEWMA needs",
		},
		"hash without key": {
			func(c *balancer.Config) { c.Policy = balancer.Hash(balancer.HashConfig{}) },
			"Policy.Key: is required",
		},
		"hash bound": {
			func(c *balancer.Config) { c.Policy = balancer.Hash(balancer.HashConfig{Key: key, Bound: 0.5}) },
			"Policy.Bound: 0.5",
		},
		"hash bound NaN": {
			func(c *balancer.Config) {
				c.Policy = balancer.Hash(balancer.HashConfig{Key: key, Bound: math.NaN()})
			},
			"Policy.Bound: NaN",
		},
		"hash next": {func(c *balancer.Config) {
			c.Policy = balancer.Hash(balancer.HashConfig{Key: key, Next: balancer.LeastRequest(1)})
		}, "Policy.Next: LeastRequest(1)"},
		"hash nil next": {func(c *balancer.Config) {
			c.Policy = balancer.Hash(balancer.HashConfig{Key: key, Next: (*customPolicy)(nil)})
		}, "Policy.Next: is a nil"},
		"sticky secret": {
			func(c *balancer.Config) {
				c.Policy = balancer.Sticky(balancer.StickyConfig{Secret: []byte("short")})
			},
			"Policy.Secret:",
		},
		"sticky name": {func(c *balancer.Config) {
			c.Policy = balancer.Sticky(balancer.StickyConfig{Secret: make([]byte, 16), Name: "a b"})
		}, "Policy.Name:"},
		"sticky age": {func(c *balancer.Config) {
			c.Policy = balancer.Sticky(
				balancer.StickyConfig{Secret: make([]byte, 16), MaxAge: time.Second - 1},
			)
		}, "Policy.MaxAge:"},
		"sticky next": {func(c *balancer.Config) {
			c.Policy = balancer.Sticky(
				balancer.StickyConfig{Secret: make([]byte, 16), Next: balancer.PeakEWMA(-1)},
			)
		}, "Policy.Next: PeakEWMA"},
		"probing rate": {func(c *balancer.Config) {
			c.Policy = balancer.Probing(balancer.ProbingConfig{Rate: math.NaN()})
		}, "Policy.Rate:"},
		"probing age": {func(c *balancer.Config) {
			c.Policy = balancer.Probing(balancer.ProbingConfig{MaxAge: -1})
		}, "Policy.MaxAge:"},
		"probing next": {func(c *balancer.Config) {
			c.Policy = balancer.Probing(balancer.ProbingConfig{Next: balancer.LeastRequest(1)})
		}, "Policy.Next: LeastRequest(1)"},
		"probing nil next": {func(c *balancer.Config) {
			c.Policy = balancer.Probing(balancer.ProbingConfig{Next: (*customPolicy)(nil)})
		}, "Policy.Next: is a nil"},
		"probing twice": {func(c *balancer.Config) {
			c.Policy = balancer.Probing(
				balancer.ProbingConfig{
					Next: balancer.Hash(
						balancer.HashConfig{Key: key, Next: balancer.Probing(balancer.ProbingConfig{})},
					),
				},
			)
		}, "Policy.Next: is Probing"},
		"sticky twice": {
			func(c *balancer.Config) { c.Policy = sticky(sticky(nil)) },
			"Policy.Next: Sticky",
		},
		"sticky after hash": {
			func(c *balancer.Config) {
				c.Policy = balancer.Hash(balancer.HashConfig{Key: key, Next: sticky(nil)})
			},
			"Policy.Next: Sticky",
		},
		"sticky after probes": {
			func(c *balancer.Config) {
				c.Policy = balancer.Probing(balancer.ProbingConfig{Next: sticky(nil)})
			},
			"Policy.Next: Sticky",
		},
		"far within": {func(c *balancer.Config) {
			c.Policy = sticky(
				balancer.Hash(
					balancer.HashConfig{
						Key:  key,
						Next: balancer.Probing(balancer.ProbingConfig{Next: balancer.PeakEWMA(0)}),
					},
				),
			)
		}, "Policy.Next.Next.Next: PeakEWMA"},
		"DialTLSContext": {func(c *balancer.Config) {
			c.Transport = &http.Transport{
				DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil },
			}
		}, "Transport: only DialContext"},
		"conns": {func(c *balancer.Config) { c.Conns = -1 }, "Conns: -1 is negative"},
		"conn life": {
			func(c *balancer.Config) { c.ConnLife = -time.Second },
			"ConnLife: -1s is negative",
		},
		"warm": {func(c *balancer.Config) { c.Warm = -1 }, "Warm: -1 is negative"},
		"panic": {
			func(c *balancer.Config) { c.PanicBelow = 1.5 },
			"PanicBelow: 1.5 is more than 1",
		},
		"panic NaN": {
			func(c *balancer.Config) { c.PanicBelow = math.NaN() },
			"PanicBelow: NaN is not a finite number",
		},
		"targets": {
			func(c *balancer.Config) { c.MaxTargets = -1 },
			"MaxTargets: -1 is negative",
		},
		"health path": {
			func(c *balancer.Config) { c.Health.Path = "healthz" },
			`Health.Path: "healthz" does not start`,
		},
		"health path escape": {
			func(c *balancer.Config) { c.Health.Path = "/%zz" },
			`Health.Path: parse "/%zz"`,
		},
		"health path and host": {
			func(c *balancer.Config) { c.Health.Path = "//other/healthz" },
			`Health.Path: "//other/healthz" names a host`,
		},
		"health interval": {
			func(c *balancer.Config) { c.Health.Interval = -1 },
			"Health.Interval: -1ns is negative",
		},
		"health timeout": {
			func(c *balancer.Config) { c.Health.Timeout = -1 },
			"Health.Timeout: -1ns is negative",
		},
		"health rise": {
			func(c *balancer.Config) { c.Health.Rise = -1 },
			"Health.Rise: -1 is negative",
		},
		"health fall": {
			func(c *balancer.Config) { c.Health.Fall = -1 },
			"Health.Fall: -1 is negative",
		},
		"outlier deviations": {
			func(c *balancer.Config) { c.Outlier.Deviations = math.NaN() },
			"Outlier.Deviations: NaN",
		},
		"outlier interval": {
			func(c *balancer.Config) { c.Outlier.Interval = -1 },
			"Outlier.Interval: -1ns is negative",
		},
		"outlier base": {
			func(c *balancer.Config) { c.Outlier.Base = -1 },
			"Outlier.Base: -1ns is negative",
		},
		"outlier max": {
			func(c *balancer.Config) { c.Outlier.Max = -1 },
			"Outlier.Max: -1ns is negative",
		},
		"outlier max and base": {
			func(c *balancer.Config) { c.Outlier.Base, c.Outlier.Max = time.Minute, time.Second },
			"Outlier.Max: 1s is less than Base, 1m0s",
		},
		"outlier share": {
			func(c *balancer.Config) { c.Outlier.MaxEjected = 1.1 },
			"Outlier.MaxEjected: 1.1 is more than 1",
		},
		"outlier negative": {
			func(c *balancer.Config) { c.Outlier.MaxEjected = -0.1 },
			"Outlier.MaxEjected: -0.1 is negative",
		},
		"outlier share NaN": {
			func(c *balancer.Config) { c.Outlier.MaxEjected = math.NaN() },
			"Outlier.MaxEjected: NaN is not a finite number",
		},
		"outlier endpoints": {
			func(c *balancer.Config) { c.Outlier.MinEndpoints = -1 },
			"Outlier.MinEndpoints: -1 is negative",
		},
		"outlier requests": {
			func(c *balancer.Config) { c.Outlier.MinRequests = -1 },
			"Outlier.MinRequests: -1 is negative",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			tt.change(&cfg)
			b, err := balancer.New(cfg)
			require.Nil(t, b)
			require.ErrorContains(t, err, "balancer: Config."+tt.want)
			require.Len(t, strings.Split(err.Error(), "\n"), 1, "one fault, one line: %v", err)
		})
	}
	t.Run("all together", func(t *testing.T) {
		cfg := balancer.Config{
			Conns:      -1,
			PanicBelow: 2,
			Health:     balancer.HealthConfig{Rise: -1},
			Outlier:    balancer.OutlierConfig{MinEndpoints: -1},
		}
		_, err := balancer.New(cfg)
		require.Len(t, strings.Split(err.Error(), "\n"), 5)
		cfg = good()
		cfg.Policy = balancer.Probing(
			balancer.ProbingConfig{Rate: -1, MaxAge: -1, Next: balancer.Hash(balancer.HashConfig{Bound: 1})},
		)
		_, err = balancer.New(cfg)
		require.Len(t, strings.Split(err.Error(), "\n"), 4, "%v", err)
	})
	b := newBalancer(t, good())
	require.Error(
		t,
		b.Reload(balancer.Config{Resolver: balancer.Static("a:1"), Conns: -1}),
		"Reload validates as New does",
	)
}

type customPolicy struct{}

func (*customPolicy) Pick(*balancer.View, *http.Request) int { return 0 }

func TestNegativeMeansOff(t *testing.T) {
	newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1"), SlowStart: -1, PanicBelow: -1, IdleTimeout: -1,
		Outlier: balancer.OutlierConfig{Consecutive: -1, Deviations: -1},
	})
}

func TestTheTemplateIsNotTouched(t *testing.T) {
	template := &http.Transport{MaxIdleConnsPerHost: 7, Proxy: http.ProxyFromEnvironment}
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static("127.0.0.1:1"), Transport: template})
	_, err := get(t.Context(), b)
	require.Error(t, err)
	require.NotNil(t, template.Proxy)
	require.Nil(t, template.DialContext)
	require.Equal(t, 7, template.MaxIdleConnsPerHost)
	require.False(t, template.ForceAttemptHTTP2)
}

// The longest durations mean for ever. An overflow would turn them into none at all.
func TestTimesDoNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const always = time.Duration(math.MaxInt64)
		net := newMemNet(t)
		net.serve(
			"a:1",
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }),
		)
		net.serve("b:1", http.NotFoundHandler())
		checks := make(chan string, 1000)
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"),
			Policy:   balancer.RoundRobin(), Transport: net.transport(),
			ConnLife: always, SlowStart: always, IdleTimeout: always,
			Health: balancer.HealthConfig{
				Interval: always,
				Timeout:  always,
				Check: func(_ context.Context, e balancer.Endpoint, _ http.RoundTripper) error {
					checks <- e.Addr
					return nil
				},
			},
			Outlier: balancer.OutlierConfig{Interval: always, Base: always, Max: always},
		})
		for range 20 {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		require.Len(t, checks, 2)
		require.Equal(t, 1, net.dialed("a:1"))
		require.Equal(t, 1, net.dialed("b:1"))
		require.Equal(t, balancer.Ejected, statusOf(t, b, "a:1").State)
		require.Equal(t, uint64(1), b.Stats().Ejections)
	})
}
