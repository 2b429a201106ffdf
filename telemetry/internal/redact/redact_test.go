package redact_test

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

func TestQuery(t *testing.T) {
	allowed := map[string]bool{"q": true, "a b": true}
	for query, want := range map[string]string{
		"":                   "",
		"q=shoes&token=x":    "q=shoes&token=REDACTED",
		"bare":               "REDACTED",
		"q=1;token=x":        "q=REDACTED",
		"a+b=1&a%20b=2&q%=3": "a+b=1&a%20b=2&q%=REDACTED",
		"&&q=":               "q=",
	} {
		require.Equal(t, want, redact.Query(query, allowed), query)
	}
	long := redact.Query(strings.Repeat("token=x&", 10_000), nil)
	require.Less(t, len(long), 1100)
	require.True(t, strings.HasSuffix(long, "&..."))
}

func TestURL(t *testing.T) {
	u, err := url.Parse("https://bob:pw@api.test/x?q=1&sig=2#token")
	require.NoError(t, err)
	require.Equal(t, "https://REDACTED:REDACTED@api.test/x?q=1&sig=REDACTED",
		redact.URL(u, map[string]bool{"q": true}))
	require.Equal(t, "pw", func() string { p, _ := u.User.Password(); return p }(), "u is not changed")
}

func TestText(t *testing.T) {
	require.Equal(t, "dial postgres://REDACTED:REDACTED@db", redact.Text("dial postgres://u:hunter2@db"))
	require.Equal(t, "connection refused", redact.Text("connection refused"))
	require.Len(t, redact.Text(strings.Repeat("x", 1<<20)), 1024)
}

func TestEscapeIsOneLineOfPlainText(t *testing.T) {
	require.Equal(t, `a\x0d\x0ab\x1b\xff\u202eé`, redact.Escape("a\r\nb\x1b\xff\u202eé"))
}

func TestClipKeepsCharactersWhole(t *testing.T) {
	require.Equal(t, "é", redact.Clip("éé", 3))
	require.Equal(t, "", redact.Clip("é", 1))
	require.Equal(t, "éé", redact.Clip("éé", 4))
	require.True(t, utf8.ValidString(redact.Valid("a\xffb", 10)))
}

func TestIsSecret(t *testing.T) {
	for _, name := range []string{
		"Authorization", "Proxy-Authorization", "Set-Cookie", "x_api_key", "X-API-KEY", "accessKey", "passwd",
		"Idempotency-Key", "client_secret", "id_token", "signature", "private-key", "jwt", "api\u212aey",
		strings.Repeat("x", 1000) + "-token",
	} {
		require.True(t, redact.IsSecret(name), name)
		require.NotEqual(t, name+":"+"hunter2", redact.Text(name+":"+"hunter2"), "and in a text")
	}
	for _, name := range []string{
		"", "target", "endpoint", "toke", "key", "Accept", "éa", "a.b:80", "tok\x00en", "passion",
		strings.Repeat("é", 500),
	} {
		require.False(t, redact.IsSecret(name), name)
		require.Equal(t, name, redact.Text(name))
	}
}

func BenchmarkHarmlessText(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		redact.Text("orders.internal:8080")
		redact.IsSecret("endpoint")
	}
}
