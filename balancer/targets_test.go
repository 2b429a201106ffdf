package balancer_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestTargetsBoundWhatEndpointsServe(t *testing.T) {
	served := 0
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("10.0.0.1:80"),
		Targets:  []string{"Users.internal", "plain.internal:80", "tls.internal:8443", "[::1]:80"},
		Wrap: func(balancer.Endpoint, http.RoundTripper) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) {
				served++
				return answer(200), nil
			})
		},
	})
	for url, ok := range map[string]bool{
		"http://users.internal/":       true,
		"https://users.internal/":      true,
		"http://USERS.INTERNAL:80/":    true,
		"https://users.internal:443/":  true,
		"http://users.internal:443/":   false,
		"http://users.internal:8080/":  false,
		"http://users.internal.evil/":  false,
		"http://evil.users.internal/":  false,
		"http://plain.internal/":       true,
		"https://plain.internal/":      false,
		"https://tls.internal:8443/":   true,
		"https://tls.internal/":        false,
		"http://[::1]/":                true,
		"http://users.internal@evil/":  false,
		"http://users.internal./":      false,
		"http://169.254.169.254/creds": false,
	} {
		before := served
		req := httptest.NewRequest("GET", url, nil)
		req.RequestURI = ""
		resp, err := b.RoundTrip(req)
		if ok {
			require.NoError(t, err, url)
			resp.Body.Close()
			require.Equal(t, before+1, served, url)
			continue
		}
		require.ErrorIs(t, err, balancer.ErrOtherTarget, url)
		require.Equal(t, before, served, url)
		var refused interface {
			NotSent() bool
		}
		require.ErrorAs(t, err, &refused, url)
		require.True(t, refused.NotSent(), url)
	}
}

// A redirect to a stranger's site is not answered by one's own endpoints.
func TestTargetsAndRedirects(t *testing.T) {
	s := httptest.NewServer(http.RedirectHandler("http://stranger.example/login", http.StatusFound))
	defer s.Close()
	cfg := balancer.Config{
		Resolver: balancer.Static(s.Listener.Addr().String()), Targets: []string{"users.internal"},
	}
	b := newBalancer(t, cfg)
	_, err := (&http.Client{Transport: b}).Get("http://users.internal/")
	require.ErrorIs(t, err, balancer.ErrOtherTarget)
	require.ErrorContains(t, err, "stranger.example is not one of Config.Targets, and a server redirects")

	// A reload counts at once, for targets that are known too.
	cfg.Targets = []string{"others.internal"}
	require.NoError(t, b.Reload(cfg))
	_, err = (&http.Client{Transport: b}).Get("http://users.internal/")
	require.ErrorIs(t, err, balancer.ErrOtherTarget)
	require.NotContains(t, err.Error(), "redirect")
}

func TestTargetsThatAreNoHosts(t *testing.T) {
	for target, text := range map[string]string{
		"http://users.internal": `Targets: "http://users.internal" has a scheme: leave out http://`,
		"users.internal/v1":     "is no host such as users.internal",
		"":                      `"" is no host`,
		"a:b":                   "is no host",
		"user@users.internal":   "is no host",
	} {
		_, err := balancer.New(balancer.Config{Resolver: balancer.Static("a:1"), Targets: []string{target}})
		require.ErrorContains(t, err, text)
	}
}
