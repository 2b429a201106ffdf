package balancer_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// visit sends a request with the cookies given and returns where it went and the cookies set.
func visit(t *testing.T, b *balancer.Balancer, cookies ...*http.Cookie) (balancer.Event, []*http.Cookie) {
	t.Helper()
	var pick balancer.Event
	req, err := http.NewRequestWithContext(
		withPick(t.Context(), &pick),
		http.MethodGet,
		"http://users.internal/",
		nil,
	)
	require.NoError(t, err)
	for _, c := range cookies {
		req.AddCookie(c)
	}
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	return pick, resp.Cookies()
}

var secret = []byte("0123456789abcdef")

func TestStickyKeepsAClientOnItsEndpoint(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addrs(5)...),
		Wrap:     ok200,
		Policy:   balancer.Sticky(balancer.StickyConfig{Secret: secret, MaxAge: time.Hour}),
	})
	first, set := visit(t, b)
	require.Len(t, set, 1)
	c := set[0]
	require.Equal(t, "trivet_host", c.Name)
	require.True(t, c.HttpOnly)
	require.True(t, c.Secure)
	require.Equal(t, http.SameSiteLaxMode, c.SameSite)
	require.Equal(t, 3600, c.MaxAge)
	require.Equal(t, "/", c.Path)
	require.NotContains(t, c.Value, "10.0.0", "it does not tell the address")
	for range 50 {
		p, set := visit(t, b, c)
		require.Equal(t, first.Endpoint, p.Endpoint)
		require.Equal(t, balancer.ReasonSticky, p.Reason)
		require.Empty(t, set, "a cookie that holds is not set again")
	}
	replica := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addrs(5)...),
		Wrap:     ok200,
		Policy: balancer.Sticky(
			balancer.StickyConfig{Secret: secret, Insecure: true, Name: "trivet_host"},
		),
	})
	p, set := visit(t, replica, c)
	require.Equal(t, first.Endpoint, p.Endpoint, "replicas with the same secret agree")
	require.Empty(t, set)
	_, set = visit(t, replica)
	require.False(t, set[0].Secure)
}

// A cookie leads only to an endpoint that the resolver has named, and only if it was signed with
// this secret.
func TestL30_ForgedCookies(t *testing.T) {
	cfg := balancer.Config{
		Resolver: balancer.Static(addrs(5)...),
		Wrap:     ok200,
		Policy:   balancer.Sticky(balancer.StickyConfig{Secret: secret}),
	}
	b := newBalancer(t, cfg)
	cfg.Policy = balancer.Sticky(balancer.StickyConfig{Secret: []byte("another secret, as long")})
	_, foreign := visit(t, newBalancer(t, cfg))
	cfg.Resolver, cfg.Policy = balancer.Static(
		"169.254.169.254:80",
	), balancer.Sticky(
		balancer.StickyConfig{Secret: secret},
	)
	_, gone := visit(t, newBalancer(t, cfg))
	_, own := visit(t, b)
	for name, value := range map[string]string{
		"cut": own[0].Value[:4], "longer": own[0].Value + "A",
		"address": "10.0.0.3:80", "metadata": "169.254.169.254:80", "empty": "",
		"url":   "http://evil.example/",
		"index": "3", "foreign secret": foreign[0].Value, "endpoint that is not in the set": gone[0].Value,
		"long": string(make([]byte, 4000)),
	} {
		t.Run(name, func(t *testing.T) {
			p, set := visit(t, b, &http.Cookie{Name: "trivet_host", Value: value})
			require.NotEqual(t, balancer.ReasonSticky, p.Reason)
			require.Contains(t, addrs(5), p.Endpoint.Addr)
			require.Len(t, set, 1, "and gets a good one")
		})
	}
}

func TestStickyMovesWhenTheEndpointIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		p := balancer.NewPushed(tiers()...)
		b := newBalancer(t, balancer.Config{
			Resolver:    p,
			Wrap:        ok200,
			IdleTimeout: -1,
			Policy:      balancer.Sticky(balancer.StickyConfig{Secret: secret}),
			Health:      balancer.HealthConfig{Check: c.check, Interval: time.Second},
		})
		first, set := visit(t, b)
		c.set(first.Endpoint.Addr, errCheck)
		time.Sleep(20 * time.Second)
		second, again := visit(t, b, set...)
		require.NotEqual(t, first.Endpoint.Addr, second.Endpoint.Addr)
		require.Len(t, again, 1)
		// The endpoint is found even in a tier that requests normally do not go to.
		for _, e := range tiers() {
			if e.Priority == 0 {
				c.set(e.Addr, errCheck)
			}
		}
		time.Sleep(20 * time.Second)
		_, low := visit(t, b)
		for _, e := range tiers() {
			c.set(e.Addr, nil)
		}
		c.set("p0-0:1", errCheck)
		c.set("p0-1:1", errCheck)
		time.Sleep(60 * time.Second)
		for range 50 {
			got, _ := visit(t, b, low...)
			require.Equal(t, balancer.ReasonSticky, got.Reason)
			require.Equal(t, uint8(1), got.Endpoint.Priority)
		}
	})
}

// A retry must not come back to the endpoint that has failed, whatever the cookie says.
func TestStickyAndAvoid(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addrs(5)...),
		Wrap:     ok200,
		Policy:   balancer.Sticky(balancer.StickyConfig{Secret: secret}),
	})
	first, set := visit(t, b)
	ctx := balancer.Avoid(t.Context())
	for i := range 5 {
		var pick balancer.Event
		req, err := http.NewRequestWithContext(
			withPick(ctx, &pick),
			http.MethodGet,
			"http://users.internal/",
			nil,
		)
		require.NoError(t, err)
		req.AddCookie(set[0])
		resp, err := b.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, i == 0, pick.Endpoint.Addr == first.Endpoint.Addr)
	}
}

// A Reload that takes Sticky away while a request runs leaves the client's cookie alone.
func TestReloadTakesStickyAway(t *testing.T) {
	cfg := balancer.Config{
		Resolver: balancer.Static(addrs(2)...),
		Policy:   balancer.Sticky(balancer.StickyConfig{Secret: secret}),
	}
	var b *balancer.Balancer
	cfg.Wrap = upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
		next := cfg
		next.Policy = nil
		require.NoError(t, b.Reload(next))
		return answer(200), nil
	}).wrap
	b = newBalancer(t, cfg)
	_, set := visit(t, b)
	require.Empty(t, set)
}

// A response that a wrapper has made may lack a header. Such a request does not stay in flight.
func TestStickyTakesResponsesWithoutAHeader(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addrs(1)...),
		Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}).wrap,
		Policy: balancer.Sticky(balancer.StickyConfig{Secret: secret}),
	})
	_, set := visit(t, b)
	require.Len(t, set, 1)
	require.Zero(t, statusOf(t, b, addrs(1)[0]).InFlight)
}
