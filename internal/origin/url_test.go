package origin_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/origin"
)

func TestURLHost(t *testing.T) {
	for _, tt := range []struct{ scheme, host, want string }{
		{"http", "", ""},
		{"http", "example.test", "example.test"},
		{"http", "Example.TEST", "example.test"},
		{"http", "example.test.", "example.test"},
		{"http", "x_1.test", "x_1.test"},
		{"http", "example.test:", "example.test"},
		{"http", "example.test.:", "example.test"},
		{"http", "example.test:80", "example.test"},
		{"https", "EXAMPLE.test.:443", "example.test"},
		{"https", "example.test:80", "example.test:80"},
		{"http", "example.test:443", "example.test:443"},
		{"http", "Example.test.:8080", "example.test:8080"},
		{"", "example.test:80", "example.test:80"},
		{"http", "192.0.2.1:80", "192.0.2.1"},
		{"http", "[2001:DB8::1]", "2001:db8::1"},
		{"http", "[2001:db8::1]:80", "2001:db8::1"},
		{"http", "[2001:DB8::1]:81", "[2001:db8::1]:81"},
		{"http", "[2001:db8::1]:", "2001:db8::1"},
		{"http", ".", ""},
		{"http", ":", ""},
		{"http", ":8080", ":8080"},
		{"http", "[", "["},
	} {
		require.Equal(t, tt.want, origin.URLHost(&url.URL{Scheme: tt.scheme, Host: tt.host}), tt)
	}
	require.Empty(t, origin.URLHost(nil))
}

func TestAllocURLHost(t *testing.T) {
	for _, host := range []string{
		"example.test", "example.test:80", "example.test:8080", "[2001:db8::1]:80",
	} {
		u := &url.URL{Scheme: "http", Host: host}
		require.Zero(t, testing.AllocsPerRun(100, func() { origin.URLHost(u) }), host)
	}
}
