package balancer_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestHandlerPassesRequestsOn(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host+" "+r.URL.String()+" "+r.Header.Get("X-Forwarded-For"))
	}))
	defer srv.Close()
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrOf(srv))})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.internal", Path: "/base"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	front := httptest.NewServer(h)
	defer front.Close()
	req, err := http.NewRequest("GET", front.URL+"/x?y=1", nil)
	require.NoError(t, err)
	req.Host = "public.example"
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	resp, err := front.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "public.example /base/x?y=1 127.0.0.1", string(body))
}
