package cache

import (
	"math"
	"net/http"
	"strings"
	"testing"
)

func FuzzCacheControl(f *testing.F) {
	for _, s := range []string{`max-age=60, no-cache="a, b"`, `private, s-maxage="1`, `max-age =1`,
		`no-store,,"`, "a=\\\"b"} {
		f.Add(s, "Last-Modified")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		d := responseDirectives(http.Header{"Cache-Control": {a, b}, "Cdn-Cache-Control": {b}},
			[]string{"Cdn-Cache-Control"})
		for _, s := range []seconds{d.maxAge, d.sMaxage, d.ifError, d.whileRevalidate} {
			if s < absent || s > maxSeconds {
				t.Fatalf("%q, %q: %d seconds", a, b, s)
			}
		}
		parseRequestDirectives(http.Header{"Cache-Control": {a, b}, "Pragma": {b}})
		// What stands alone and unquoted is never missed, whatever comes before it on a line of its
		// own.
		if d := responseDirectives(http.Header{"Cache-Control": {a, "no-store"}}, nil); !d.noStore {
			t.Fatalf("%q hides no-store", a)
		}
	})
}

func FuzzVary(f *testing.F) {
	f.Add("Accept-Encoding, *", "gzip;q=0.5, br")
	f.Add("a,,b", "\"x, y\" ,z")
	f.Fuzz(func(t *testing.T, vary, value string) {
		names, star := varyNames([]string{vary})
		if star != (len(names) == 0 && strings.Trim(vary, ", \t") != "") {
			t.Fatalf("%q: %v, %v", vary, names, star)
		}
		names = append(names, "Accept-Encoding", "Accept-Language", "X")
		h := make(http.Header)
		for _, name := range names {
			h[name] = []string{value}
		}
		for _, s := range selecting(names, h) {
			if !s.matches(h, new(forms)) {
				t.Fatalf("%q does not match itself as %s", value, s.Name)
			}
			s.raw = ""
			if !s.matches(h, new(forms)) {
				t.Fatalf("the normal form of %q is not the same twice", value)
			}
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5,9-", "bytes=0-,1-,2-",
		"bytes=-9223372036854775808", "bytes=1-9223372036854775807"} {
		f.Add(s, int64(10))
		f.Add(s, int64(-1))
		f.Add(s, int64(math.MaxInt64))
	}
	f.Fuzz(func(t *testing.T, field string, size int64) {
		size = max(size, -1)
		list, ok := parseRange(field, size)
		if !ok && list != nil || len(list) > maxRanges {
			t.Fatal(field, list)
		}
		for _, s := range list {
			if s.start < 0 || s.end <= s.start || size >= 0 && s.end > size {
				t.Fatal(field, size, s)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 0-1/*", "bytes */2", "bytes 5-4/9",
		"bytes 0-9223372036854775807/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		s, size, ok := parseContentRange([]string{field})
		if ok && (s.start < 0 || s.end <= s.start || size >= 0 && s.end > size) {
			t.Fatal(field, s, size)
		}
	})
}

func FuzzNoVarySearch(f *testing.F) {
	f.Add(`params=("a" "b"), key-order`, "a=1&c=%zz&b")
	f.Add(`params, except=("x")`, "x=1&&=2&x")
	f.Fuzz(func(t *testing.T, field, query string) {
		rule, ok := parseNoVarySearch([]string{field})
		if !ok {
			return
		}
		if rule.apply(query) != rule.apply(query+"&") {
			t.Fatal("an empty parameter makes a difference")
		}
		if rule.all && len(rule.names) == 0 && rule.apply(query) != "" {
			t.Fatal("something makes a difference")
		}
	})
}

// FuzzKey looks for two different requests with one echo.
func FuzzKey(f *testing.F) {
	f.Add("a", "/b", "c", "a/", "b", "c")
	f.Fuzz(func(t *testing.T, host1, path1, query1, host2, path2, query2 string) {
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		echo := func(host, path, query string) string {
			r, err := http.NewRequest(http.MethodGet, "http://example.com", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host, r.URL.Path, r.URL.RawQuery = host, "/"+path, query
			var x exchange
			x.begin(c, r, true)
			x.setKey()
			return string(x.echo)
		}
		same := strings.EqualFold(host1, host2) && path1 == path2 && query1 == query2
		port := strings.HasSuffix(host1, ":80") || strings.HasSuffix(host2, ":80")
		if !same && !port && echo(host1, path1, query1) == echo(host2, path2, query2) {
			t.Fatalf("%q %q %q has the key of %q %q %q", host1, path1, query1, host2, path2, query2)
		}
	})
}
