package grammar_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/grammar"
)

func TestTokens(t *testing.T) {
	const signs = "!#$%&'*+-.^_`|~"
	for c := range 256 {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		want := letter || c < 0x80 && strings.IndexByte(signs, byte(c)) >= 0
		require.Equal(t, want, grammar.IsTokenByte(byte(c)), "%q", c)
		require.Equal(t, want, grammar.IsToken("a"+string([]byte{byte(c)})), "%q", c)
	}
	require.False(t, grammar.IsToken(""))
}

func TestMediaTypes(t *testing.T) {
	for ct, want := range map[string]string{
		"":                                     "",
		"text/event-stream":                    "text/event-stream",
		"Text/Event-Stream ; charset=utf-8":    "text/event-stream",
		" text/event-stream;":                  "text/event-stream",
		"text/event-streams":                   "text/event-streams",
		"application/json;x=text/event-stream": "application/json",
	} {
		require.Equal(t, want, grammar.MediaType(http.Header{"Content-Type": {ct}}), "%q", ct)
	}
	require.Empty(t, grammar.MediaType(nil))
}
