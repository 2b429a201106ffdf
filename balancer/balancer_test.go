package balancer_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/balancer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newBalancer returns a Balancer that is closed at the end of the test.
func newBalancer(t *testing.T, cfg balancer.Config) *balancer.Balancer {
	t.Helper()
	b, err := balancer.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.WithoutCancel(t.Context()))) })
	return b
}

func addrOf(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }

func TestRequestsKeepTheTargetsName(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
	t.Cleanup(srv.Close)
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static(addrOf(srv))})
	require.NoError(t, err)
	defer b.Close(t.Context())
	resp, err := (&http.Client{Transport: b}).Get("http://users.internal/42")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "users.internal", string(body))
	require.Equal(t, "users.internal", resp.Request.URL.Host)
	require.Equal(t, uint64(1), b.Stats().Requests)
}
