package balancer_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

func TestDNSOverSockets(t *testing.T) {
	z := newZone()
	z.set("users.test", "127.0.0.1", "127.0.0.2", "::1")
	many := []string{}
	for i := range 100 {
		many = append(many, fmt.Sprintf("10.1.0.%d", i))
	}
	z.set("many.test", many...)
	r := z.listen(t)
	t.Run("A and AAAA", func(t *testing.T) {
		for network, want := range map[string][]string{
			"":    {"127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"},
			"ip4": {"127.0.0.1:8080", "127.0.0.2:8080"},
			"ip6": {"[::1]:8080"},
		} {
			w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: r, Network: network}),
				"http://users.test:8080")
			<-w.spoken
			require.Equal(t, want, w.last(), "network %q", network)
		}
	})
	t.Run("the scheme's port", func(t *testing.T) {
		w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: r, Network: "ip6"}), "https://users.test")
		<-w.spoken
		require.Equal(t, []string{"[::1]:443"}, w.last())
	})
	t.Run("an answer too long for UDP", func(t *testing.T) {
		w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: r}), "http://many.test")
		<-w.spoken
		require.Len(t, w.last(), 100)
		z.mu.Lock()
		defer z.mu.Unlock()
		require.NotZero(t, z.tcp)
	})
	t.Run("addresses need no lookup", func(t *testing.T) {
		for host, want := range map[string]string{
			"192.0.2.7": "192.0.2.7:80", "[2001:db8::7]": "[2001:db8::7]:80",
			"[::ffff:192.0.2.7]:81": "192.0.2.7:81",
		} {
			w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: r}), "http://"+host)
			<-w.spoken
			require.Equal(t, []string{want}, w.last())
		}
	})
	t.Run("requests", func(t *testing.T) {
		be := backend.Start(t, backend.Config{Name: "a"})
		_, port, err := net.SplitHostPort(be.Addr)
		require.NoError(t, err)
		z.set("one.test", "127.0.0.1")
		b := newBalancer(t, balancer.Config{Resolver: balancer.DNS(balancer.DNSConfig{Resolver: r})})
		resp, err := (&http.Client{Transport: b}).Get("http://one.test:" + port)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "a\n", string(body))
	})
}

func TestDNSServiceRecords(t *testing.T) {
	z := newZone()
	record := func(priority, weight, port uint16, target string) dnsmessage.SRVResource {
		name := dnsmessage.MustNewName(target + ".")
		return dnsmessage.SRVResource{Priority: priority, Weight: weight, Port: port, Target: name}
	}
	z.srv["_http._tcp.users.test"] = []dnsmessage.SRVResource{
		record(1000, 0, 8001, "a.test"), record(10, 60, 8002, "b.test"), record(10, 20, 8003, "c.test"),
	}
	z.set("a.test", "192.0.2.1")
	z.set("b.test", "192.0.2.2", "192.0.2.22")
	z.set("c.test", "192.0.2.3")
	synctest.Test(t, func(t *testing.T) {
		w := observe(t, balancer.DNS(balancer.DNSConfig{
			Resolver: z.piped(t), Service: "http", Interval: 10 * time.Second,
		}), "http://users.test:1")
		synctest.Wait()
		require.Equal(t, []balancer.Endpoint{
			{Addr: "192.0.2.1:8001", Weight: 1, Priority: 1},
			{Addr: "192.0.2.22:8002", Weight: 30},
			{Addr: "192.0.2.2:8002", Weight: 30},
			{Addr: "192.0.2.3:8003", Weight: 20},
		}, w.sets[0], "of priorities only the order counts, and a target's addresses share its weight")

		// One name that cannot be looked up at the moment does not lose its servers; one that is no
		// more does.
		z.setFail("b.test", dnsmessage.RCodeServerFailure)
		z.setFail("c.test", dnsmessage.RCodeNameError)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"192.0.2.1:8001", "192.0.2.22:8002", "192.0.2.2:8002"}, w.last())
		time.Sleep(12 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"192.0.2.1:8001", "192.0.2.22:8002", "192.0.2.2:8002"}, w.last(),
			"nor later")

		// A service whose names are all unknown keeps the last good set, with an error.
		for _, name := range []string{"a.test", "b.test"} {
			z.setFail(name, dnsmessage.RCodeNameError)
		}
		sets, errs := w.counts()
		time.Sleep(12 * time.Second)
		synctest.Wait()
		after, failed := w.counts()
		require.Equal(t, sets, after)
		require.Greater(t, failed, errs)
	})
}

func TestDNSServiceWeights(t *testing.T) {
	for name, tt := range map[string]struct {
		records []string
		want    []balancer.Endpoint
	}{
		"zero among others": {
			[]string{"0 0 a.test.", "0 1 b.test."},
			[]balancer.Endpoint{{Addr: "192.0.2.1:80", Weight: 1}, {Addr: "192.0.2.2:80", Weight: 2520}},
		},
		"all zero": {
			[]string{"0 0 a.test.", "0 0 b.test."},
			[]balancer.Endpoint{{Addr: "192.0.2.1:80", Weight: 1}, {Addr: "192.0.2.2:80", Weight: 1}},
		},
		"in two priorities": {
			[]string{"0 5 a.test.", "1 5 b.test.", "2 7 a.test."},
			[]balancer.Endpoint{
				{Addr: "192.0.2.1:80", Weight: 1}, {Addr: "192.0.2.2:80", Weight: 1, Priority: 1},
			},
		},
		"twice": {
			[]string{"0 5 a.test.", "0 5 b.test.", "0 5 alias.test."},
			[]balancer.Endpoint{{Addr: "192.0.2.1:80", Weight: 2}, {Addr: "192.0.2.2:80", Weight: 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := service(tt.records...)
				z.set("a.test", "192.0.2.1")
				z.set("alias.test", "192.0.2.1")
				z.set("b.test", "192.0.2.2")
				w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t), Service: "http"}),
					"http://users.test")
				time.Sleep(5 * time.Minute) // records of one priority come in any order
				synctest.Wait()
				for _, set := range w.sets {
					require.Equal(t, tt.want, set)
				}
			})
		})
	}
}

func TestDNSServiceNames(t *testing.T) {
	t.Run("are looked up at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := service("0 1 mute.test.", "1 1 mute2.test.", "2 1 a.test.", "3 1 b.test.")
			z.muted = map[string]bool{"mute.test": true, "mute2.test": true}
			z.set("a.test", "192.0.2.1")
			z.set("b.test", "192.0.2.2")
			w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t), Service: "http"}),
				"http://users.test")
			<-w.spoken
			require.Equal(t, []string{"192.0.2.1:80", "192.0.2.2:80"}, w.last(),
				"those that nobody answers for do not use up the others' time")
			<-w.spoken
			_, errs := w.counts()
			require.Equal(t, 1, errs, "but somebody is told")
			z.mu.Lock()
			z.muted = nil
			z.mu.Unlock()
			z.set("mute.test", "192.0.2.3")
			z.set("mute2.test", "192.0.2.4")
			time.Sleep(2 * time.Second)
			synctest.Wait()
			require.Len(t, w.last(), 4, "and they are soon asked for again")
		})
	})
	t.Run("none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := service("0 0 .")
			w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t), Service: "http"}),
				"http://users.test")
			<-w.spoken
			require.ErrorContains(t, w.errs[0], "users.test: service not available")
			require.Empty(t, z.times(""), "the root is not looked up")
		})
	})
	t.Run("a part of too many stays the same", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var records []string
			for i := range 100 {
				records = append(records, fmt.Sprintf("0 1 h%d.test.", i))
			}
			z := service(records...)
			for i := range 100 {
				z.set(fmt.Sprintf("h%d.test", i), fmt.Sprintf("10.0.0.%d", i))
			}
			w := observe(t, balancer.DNS(balancer.DNSConfig{
				Resolver: z.piped(t), Service: "http", MaxEndpoints: 10,
			}), "http://users.test")
			synctest.Wait()
			first := w.last()
			require.Len(t, first, 10)
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, first, w.last())
		})
	})
}

func TestL08_DNSTroubleKeepsTheLastGoodSet(t *testing.T) {
	for name, trouble := range map[string]func(*zone){
		"NXDOMAIN": func(z *zone) { z.setFail("users.test", dnsmessage.RCodeNameError) },
		"SERVFAIL": func(z *zone) { z.setFail("users.test", dnsmessage.RCodeServerFailure) },
		"REFUSED":  func(z *zone) { z.setFail("users.test", dnsmessage.RCodeRefused) },
		"empty":    func(z *zone) { z.set("users.test") },
		"silence": func(z *zone) {
			z.mu.Lock()
			defer z.mu.Unlock()
			z.mute = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := newZone()
				z.set("users.test", "192.0.2.1", "192.0.2.2")
				var seen events
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.DNS(balancer.DNSConfig{
						Resolver: z.piped(t), MaxStale: 10 * time.Minute,
					}),
					Wrap: ok200, Observe: seen.observe, IdleTimeout: -1,
				})
				send := func() error {
					req, err := http.NewRequestWithContext(t.Context(), "GET", "http://users.test/", nil)
					require.NoError(t, err)
					_, err = b.RoundTrip(req)
					return err
				}
				require.NoError(t, send())
				trouble(z)
				for range 18 {
					time.Sleep(30 * time.Second)
					require.NoError(t, send())
					require.Len(t, b.Endpoints("http://users.test"), 2)
				}
				alarms := 0
				for _, e := range seen.of(balancer.TargetResolved) {
					if e.Err != nil {
						alarms++
						require.Equal(t, 2, e.Endpoints)
					}
				}
				require.NotZero(t, alarms, "somebody is told")

				time.Sleep(2 * time.Minute)
				synctest.Wait()
				require.Empty(t, b.Endpoints("http://users.test"), "it is used no longer than MaxStale")
				err := send()
				require.ErrorIs(t, err, balancer.ErrNoEndpoints)
				require.ErrorContains(t, err, "users.test")

				z.mu.Lock()
				z.mute = false
				z.mu.Unlock()
				z.set("users.test", "192.0.2.3")
				time.Sleep(time.Minute)
				require.NoError(t, send(), "and all is well when DNS is")
			})
		})
	}
	t.Run("a part of the answer", func(t *testing.T) {
		// Servers that answer with some of many addresses, others each time.
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			z.set("users.test", "192.0.2.1", "192.0.2.2")
			w := observe(t, balancer.DNS(balancer.DNSConfig{
				Resolver: z.piped(t), Linger: time.Minute, Interval: 10 * time.Second,
			}), "http://users.test")
			synctest.Wait()
			z.set("users.test", "192.0.2.2", "192.0.2.3")
			time.Sleep(12 * time.Second)
			synctest.Wait()
			require.Equal(t, []string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"}, w.last())
			time.Sleep(75 * time.Second)
			synctest.Wait()
			require.Equal(t, []string{"192.0.2.2:80", "192.0.2.3:80"}, w.last(),
				"what is gone for good does go")
		})
	})
}

// The longest time there is must not turn negative with its jitter.
func TestDNSIntervalsDoNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.set("users.test", "192.0.2.1")
		r := z.piped(t)
		var all []*watch
		for range 20 { // as many jitters
			dns := balancer.DNS(balancer.DNSConfig{Resolver: r, Interval: math.MaxInt64})
			all = append(all, observe(t, dns, "http://users.test"))
		}
		time.Sleep(time.Minute)
		for _, w := range all {
			sets, _ := w.counts()
			require.Equal(t, 1, sets)
		}
	})
}

func TestDNSIsAskedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.set("users.test", "192.0.2.1")
		w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t)}), "http://users.test")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.InDelta(t, 20, len(z.times("users.test")), 3, "every 30 s, give or take a tenth")

		// A hint brings the next lookup forward, but not to less than 5 s after the last, and a
		// hundred hints are as one.
		before := len(z.times("users.test"))
		start := time.Now()
		for range 100 {
			select {
			case w.refresh <- struct{}{}:
			default:
			}
		}
		time.Sleep(5*time.Second + time.Millisecond)
		synctest.Wait()
		at := z.times("users.test")
		require.GreaterOrEqual(t, len(at), before+1)
		require.LessOrEqual(t, len(at), before+2)
		for i := before; i < len(at); i++ {
			require.GreaterOrEqual(t, at[i].Sub(at[i-1]), 5*time.Second)
		}
		require.Less(t, at[before].Sub(start), 5*time.Second+time.Millisecond)
	})
	t.Run("backoff", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			z.setFail("users.test", dnsmessage.RCodeNameError)
			w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t)}), "http://users.test")
			var at []time.Time
			for range 8 {
				<-w.spoken
				at = append(at, time.Now())
			}
			for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
				require.InDelta(t, want*time.Second, at[i+1].Sub(at[i]), float64(want*time.Second)/10+1)
			}
			z.set("users.test", "192.0.2.1")
			for len(w.last()) == 0 {
				<-w.spoken
			}
			z.setFail("users.test", dnsmessage.RCodeNameError)
			<-w.spoken
			failed := time.Now()
			<-w.spoken
			require.InDelta(t, time.Second, time.Since(failed), float64(time.Second)/10+1,
				"a success forgets it")
		})
	})
}

func TestDNSWaitsRespectTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.mute = true
		b := newBalancer(t, balancer.Config{Resolver: balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t)})})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := get(ctx, b)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(start))
	})
}

func TestL09_HostileAnswersOfDNS(t *testing.T) {
	t.Run("too many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			var all []string
			for i := range 4000 {
				all = append(all, fmt.Sprintf("10.0.%d.%d", i/200, i%200))
			}
			for i := range 2000 {
				all = append(all, fmt.Sprintf("2001:db8::%x", i))
			}
			z.set("users.test", all...)
			w := observe(t, balancer.DNS(balancer.DNSConfig{Resolver: z.piped(t), Linger: time.Hour}),
				"http://users.test")
			synctest.Wait()
			first := w.last()
			require.Len(t, first, 1000)
			slices.Reverse(all)
			z.set("users.test", all[1:]...)
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, first, w.last(), "the same part of the same answer, in whatever order it comes")
		})
	})
	t.Run("too many, ever new ones", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			z.set("users.test", "10.0.0.1")
			w := observe(t, balancer.DNS(balancer.DNSConfig{
				Resolver: z.piped(t), Linger: time.Hour, MaxEndpoints: 10, Interval: 5 * time.Second,
			}), "http://users.test")
			for i := range 200 {
				z.set("users.test", fmt.Sprintf("10.1.%d.1", i), fmt.Sprintf("10.1.%d.2", i))
				time.Sleep(5 * time.Second)
				synctest.Wait()
				require.LessOrEqual(t, len(w.last()), 10)
			}
		})
	})
	t.Run("a service with too many names", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			for i := range 200 {
				name := fmt.Sprintf("h%d.test", i)
				z.srv["_http._tcp.users.test"] = append(z.srv["_http._tcp.users.test"],
					dnsmessage.SRVResource{Port: 80, Target: dnsmessage.MustNewName(name + ".")})
				z.set(name, fmt.Sprintf("10.0.0.%d", i))
			}
			w := observe(t, balancer.DNS(balancer.DNSConfig{
				Resolver: z.piped(t), Service: "http", MaxEndpoints: 10,
			}), "http://users.test")
			synctest.Wait()
			require.Len(t, w.last(), 10)
			z.mu.Lock()
			defer z.mu.Unlock()
			require.LessOrEqual(t, len(z.asked), 11, "no more names are looked up")
		})
	})
	t.Run("where strangers must not get", func(t *testing.T) {
		public := func(a netip.Addr) bool {
			for _, bad := range []string{
				"127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10",
			} {
				if netip.MustParsePrefix(bad).Contains(a) {
					return false
				}
			}
			return true
		}
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			z.set("mixed.test", "192.0.2.1", "127.0.0.1", "10.9.8.7", "169.254.169.254", "::1",
				"::ffff:127.0.0.1")
			z.set("bad.test", "127.0.0.1", "::ffff:10.0.0.1")
			cfg := balancer.DNSConfig{Resolver: z.piped(t), Allow: public}
			w := observe(t, balancer.DNS(cfg), "http://mixed.test")
			synctest.Wait()
			require.Equal(t, []string{"192.0.2.1:80"}, w.last())
			for _, host := range []string{
				"bad.test", "127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "[fe80::1%25eth0]",
			} {
				w := observe(t, balancer.DNS(cfg), "http://"+host)
				synctest.Wait()
				require.Empty(t, w.last(), "%s", host)
				_, errs := w.counts()
				require.NotZero(t, errs)
			}
			// The name that was good first and bad later (rebinding) does not get there either.
			w = observe(t, balancer.DNS(cfg), "http://rebound.test")
			z.set("rebound.test", "192.0.2.5")
			time.Sleep(30 * time.Second)
			synctest.Wait()
			require.Equal(t, []string{"192.0.2.5:80"}, w.last())
			z.set("rebound.test", "127.0.0.1")
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, []string{"192.0.2.5:80"}, w.last())
		})
	})
}
