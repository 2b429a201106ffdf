package redact_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

const secret = "hunter2-s3cr3t"

// TestO20_TextsWithoutSecrets: errors, panics and JSON that quote URLs and fields.
func TestO20_TextsWithoutSecrets(t *testing.T) {
	twice, err := json.Marshal(`{"password":"` + secret + `","user":"bob"}`)
	require.NoError(t, err)
	thrice, err := json.Marshal(string(twice))
	require.NoError(t, err)
	for _, tt := range [][2]string{
		{`Get "https://a.test/x?q=` + secret + ` and more": EOF`, `Get "https://a.test/x?REDACTED": EOF`},
		{`Get "/x?q=` + secret + `": unsupported scheme`, `Get "/x?REDACTED": unsupported scheme`},
		{`redirect to //a.test/x?q=` + secret + ` refused`, `redirect to //a.test/x?REDACTED refused`},
		{
			`redirect to //u:` + secret + `@a.test/x refused`,
			`redirect to //REDACTED:REDACTED@a.test/x refused`,
		},
		{`at https://a.test/#access_token=` + secret, `at https://a.test/#REDACTED`},
		{`at https://a.test/?q="` + secret + `"&r='` + secret + `'`, `at https://a.test/?REDACTED'`},
		{`at /x?a="` + secret + `", twice`, `at /x?REDACTED", twice`},
		{`postgres://u:p/` + secret + `@db/x`, `postgres://REDACTED:REDACTED@db/x`},
		{`u:` + secret + `/x@tcp(db:3306)/y`, `REDACTED:REDACTED@tcp(db:3306)/y`},
		{`proxy.test:443/x/@v/list`, `proxy.test:443/x/@v/list`},
		{
			`https:\/\/u:` + secret + `@a.test\/x?k=` + secret,
			`https:\/\/REDACTED:REDACTED@a.test/x?REDACTED`,
		},
		{`{\"api_key\":\"` + secret + `\",\"n\":1}`, `{\"api_key\":REDACTED,\"n\":1}`},
		{string(twice), `"{\"password\":REDACTED,\"user\":\"bob\"}"`},
		{string(thrice), `"\"{\\\"password\\\":REDACTED,\\\"user\\\":\\\"bob\\\"}\""`},
		{`{"token":{"value":"` + secret + `"},"n":1}`, `{"token":REDACTED,"n":1}`},
		{`{"tokens":["a","` + secret + `"],"n":1}`, `{"tokens":REDACTED,"n":1}`},
		{`password => "` + secret + `"`, `password => REDACTED`},
		{`password="two words ` + secret, `password=REDACTED`},
		{
			`parse "postgres://u:p#` + secret + `": invalid port ":p#` + secret + `" after host`,
			`parse "REDACTED": invalid port "REDACTED" after host`,
		},
		{
			`when? soon, in #3 of 4 and/or c# at 12:30 by a@b`,
			`when? soon, in #3 of 4 and/or c# at 12:30 by a@b`,
		},
	} {
		require.Equal(t, tt[1], redact.Text(tt[0]), tt[0])
	}
}

// TestO20_ErrorsOfURLParse quote what could not be parsed, and parts of it.
func TestO20_ErrorsOfURLParse(t *testing.T) {
	for _, raw := range []string{
		"postgres://u:" + secret + "#x@db", "http://u:%zz" + secret + "@x/", "://" + secret, ":" + secret,
		"http://[" + secret, "http://x/%" + secret, "http://x\x7f/" + secret, "http://x:" + secret + "/",
		"ht tp://" + secret, secret + "://" + secret + " ",
	} {
		_, err := url.Parse(raw)
		if err == nil {
			continue
		}
		require.NotContains(t, redact.Text(fmt.Sprintf("upstream: %v", err)), secret[1:], raw)
		require.NotContains(t, redact.Text(errors.Join(err, err).Error()), secret[1:], raw)
	}
}

// TestO20_CutAfterScrubbing: a secret is recognised before its text is cut, wherever it lies.
func TestO20_CutAfterScrubbing(t *testing.T) {
	for _, form := range []string{
		"eyJ" + secret + "." + secret + "." + secret, "https://u:" + secret + "@a.test/x",
		`password="` + secret + `"`, "Bearer " + secret, "/x?token=" + secret,
	} {
		for at := 0; at < 9000; at += 23 {
			if at > 1100 && at < 8100 {
				continue
			}
			text := redact.Text(strings.Repeat("x ", at/2) + form + " and so on")
			require.LessOrEqual(t, len(text), 1024)
			require.NotContains(t, text, secret[:8], "%s at %d", form, at)
		}
	}
	// What is removed lets the end of what was looked at come into view.
	shrinks := "/x?" + strings.Repeat("a=b&", 2010)
	for at := 0; at < 160; at += 11 {
		text := redact.Text(shrinks + strings.Repeat(" ", at) + " eyJ" + secret + "." + secret + "." + secret)
		require.NotContains(t, text, secret[:4])
	}
}

// TestO20_References: what stands in Location, Referer and Link is read as what it is.
func TestO20_References(t *testing.T) {
	for ref, want := range map[string]string{
		"/x?q=1&token=" + secret:              "/x?REDACTED",
		"?token=" + secret:                    "?REDACTED",
		"x?" + secret:                         "x?REDACTED",
		"//u:" + secret + "@a.test/x?q=1":     "//REDACTED:REDACTED@a.test/x?REDACTED",
		"//" + secret + "@a.test/":            "//REDACTED:REDACTED@a.test/",
		"https://a.test/x#id_token=" + secret: "https://a.test/x#REDACTED",
		"/x#" + secret + "?q=1":               "/x#REDACTED",
		`/x?a="` + secret + `"&b='` + secret:  "/x?REDACTED",
		"/x?token=a b " + secret:              "/x?REDACTED",
		"https://u:p/" + secret + "@a.test/":  "https://REDACTED:REDACTED@a.test/",
		"https://a.test:8443/x//y@v1":         "https://a.test:8443/x//y@v1",
	} {
		require.Equal(t, want, redact.Field("Location", ref), ref)
		link := redact.Field("Link", "<"+ref+`>; rel="next"`)
		require.Equal(t, "<"+want+`>; rel="next"`, link, ref)
		require.Equal(t, "5; url="+want, redact.Field("Refresh", "5; url="+ref), ref)
	}
	require.Equal(t, "<a>, </b?REDACTED>; x, <d?REDACTED",
		redact.Field("Link", "<a>, </b?c="+secret+">; x, <d?"+secret))
}

// TestO20_ParametersThatHoldURLs are shown, if they are allowed, as long as nothing in them is
// secret.
func TestO20_ParametersThatHoldURLs(t *testing.T) {
	for query, want := range map[string]string{
		"q=https%3A%2F%2Fa.test%2F%3Fsig%3D1":       "q=REDACTED",
		"q=https%253A%252F%252Fu%253Ap%2540a.test/": "q=REDACTED",
		"q=%2523token":              "q=REDACTED",
		"q=%2Fhome":                 "q=%2Fhome",
		"q=https%3A%2F%2Fa.test%2F": "q=https%3A%2F%2Fa.test%2F",
		"q=100%":                    "q=REDACTED",
		"q=a+b":                     "q=a+b",
	} {
		require.Equal(t, want, redact.Query(query, map[string]bool{"q": true}), query)
	}
}

// TestO20_BareTokens: a parameter that only ends in '=' is base64 that is padded, not a name.
func TestO20_BareTokens(t *testing.T) {
	for query, want := range map[string]string{
		"c2VjcmV0==": "REDACTED", "c2VjcmV0=": "REDACTED", "q=&c2VjcmV0==&a=1": "q=&REDACTED&a=REDACTED",
	} {
		require.Equal(t, want, redact.Query(query, map[string]bool{"q": true}))
	}
}

// FuzzScrub plants a secret in what surrounds it and looks for it.
func FuzzScrub(f *testing.F) {
	f.Add("dial ", " failed", uint8(0))
	f.Add(`x="`, `", y`, uint8(5))
	f.Add(`\"a\":[1,{`, "}]", uint8(8))
	f.Add("https://a.test/?b=", "#c", uint8(3))
	f.Add("parse ", "\n", uint8(11))
	plant := []string{
		"https://user:%s@a.test/x", "https://a.test/x?key=%s", "https://a.test/x#token=%s", "/x?key=%s",
		"//user:%s@a.test/", `password="%s"`, "token=%s", "Authorization: Bearer %s", `{"api_key":"%s"}`,
		`{\"secret\":\"%s\"}`, "user:%s@tcp(db)/x", `parse ":%s": missing protocol scheme`,
		"eyJ%s.aaaa.bbbb", `{\\\"token\\\":\\\"%s\\\"}`, "https://a.test/x?a='%s'",
	}
	f.Fuzz(func(t *testing.T, before, after string, form uint8) {
		const planted = "Zx9Qw7Kv3Lm5"
		if strings.Contains(before+after, planted) {
			return
		}
		text := fmt.Sprintf(plant[int(form)%len(plant)], planted)
		for _, whole := range []string{before + " " + text + " " + after, strconv.Quote(text) + after, text} {
			got := redact.Text(whole)
			require.LessOrEqual(t, len(got), 1024)
			require.NotContains(t, got, planted, "%q", whole)
		}
		query := strings.ReplaceAll(before, ">", "") + "=" + planted
		for name, start := range map[string]string{
			"Location": "", "Referer": "", "Link": "<", "Refresh": "0;url=",
		} {
			require.NotContains(t, redact.Field(name, start+"/x?"+query), planted)
			require.NotContains(t, redact.Field(name, start+"//a.test/x#"+planted), planted)
		}
		require.NotContains(t, redact.Query(after+"&"+planted+"=&a="+planted, nil), planted)
	})
}
