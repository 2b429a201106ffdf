//go:build unix

package balancer_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A generated exchange: what a client sends, and what the server answers.
type generated struct {
	seed int

	proto     string // "1.0", "1.1" or "2": the client's
	method    string
	path      string
	query     string
	host      string
	fields    []field
	chunked   bool // else a body has a length
	body      string
	trailers  []field
	announced bool
	leave     bool // the client leaves in the middle of its body

	tunnel string // "" or who ends the websocket: "client", "server", "reset" or "both"

	upstream string // "1" or "2"
	reply    reply
}

// A reply is what a server answers.
type reply struct {
	info     []int
	proto    string // "1.0" or "1.1"
	status   int
	fields   []field
	framing  string // "length", "chunked", "close" or "" for no body
	body     string
	trailers []field
	early    bool   // before the request's body is read
	fault    string // "", "silent", "header", "body" or "garbage": where the server breaks off
	refusal  string // "", "stream" or "goaway": of HTTP/2, at the first time
}

func choose[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// generate returns the exchange of a seed.
func generate(seed int) *generated {
	r := rand.New(rand.NewPCG(uint64(seed), 12))
	g := &generated{
		seed:  seed,
		proto: choose(r, "1.0", "1.1", "1.1", "2"),
		method: choose(r, "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH",
			"X-OWN"),
		upstream: choose(r, "1", "1", "2"),
		host:     choose(r, "a.example", "a.example", "A.example:80", "[::1]:80"),
		path:     choose(r, "/", "/a", "/a/b", "/a%2fb", "//a", "/a/", "/%C3%A4", "/a;v=1", "/a:b@c"),
		query:    choose(r, "", "", "?", "?a=1&b=2", "?b&a", "?q=%20+%2B"),
	}
	switch r.IntN(40) {
	case 0:
		g.path = choose(r, "/../x", "/a/../../x", "/./a", "/%2e%2e/x", "/..;/x", "/a/%2E/b", `/a%5c..%5cb`)
	case 1:
		g.query = choose(r, "?a;b", "?a=%zz&b=1", "?a=%", "?b=2&a=1;c=3")
	case 2:
		g.host = choose(r, "u@a", "a:b", "a/b", "[::1")
	}
	g.fields = requestFields(r)
	g.makeBody(r)
	g.reply = makeReply(r, g)
	return g
}

func requestFields(r *rand.Rand) (fields []field) {
	all := []field{
		{"Accept", "*/*"}, {"Accept-Encoding", "gzip"}, {"User-Agent", "test"}, {"Cookie", "a=1"},
		{"X-Own", "1"},
		{"X-Own", "2"}, {"Te", "trailers"}, {"Authorization", "Basic eA=="}, {"If-None-Match", `"1"`},
		{"X-Forwarded-For", "6.6.6.6"}, {"X-Forwarded-Host", "evil"}, {"X-Real-Ip", "6.6.6.6"},
		{"Forwarded", "for=6.6.6.6"}, {"X-Request-Id", "7"}, {"Range", "bytes=0-1"}, {"Empty", ""},
		{"Via", "1.1 x"}, {"Cache-Control", "no-cache"},
	}
	for _, f := range all {
		if r.IntN(4) == 0 {
			fields = append(fields, f)
		}
	}
	return fields
}

func (g *generated) makeBody(r *rand.Rand) {
	if g.method == "GET" || g.method == "HEAD" || g.method == "OPTIONS" || g.method == "DELETE" {
		if r.IntN(10) > 0 {
			return
		}
	}
	g.body = strings.Repeat("b", choose(r, 0, 1, 10, 3000, 20_000))
	g.chunked = g.proto != "1.0" && r.IntN(2) == 0
	if g.body != "" && r.IntN(30) == 0 {
		g.leave = true
	}
	if g.chunked && r.IntN(3) == 0 {
		for _, f := range []field{
			{"Sum", "42"}, {"X-Any", "1"}, {"X-Forwarded-For", "6.6.6.6"}, {"Authorization", "x"},
			{"X-Request-Id", "8"},
		} {
			if r.IntN(2) == 0 {
				g.trailers = append(g.trailers, f)
			}
		}
		g.announced = r.IntN(2) == 0
	}
	if g.proto == "1.1" && r.IntN(4) == 0 {
		g.fields = append(g.fields, choose(r, field{"Connection", "close"}, field{"Connection",
			"keep-alive, X-Own"},
			field{"Connection", "X-Own, Cookie"}, field{"Keep-Alive", "5"}, field{"Proxy-Connection",
				"keep-alive"}))
	}
	if g.proto == "1.1" && r.IntN(20) == 0 {
		g.fields = append(g.fields, field{"Connection", "Upgrade"}, field{"Upgrade", choose(r, "h2c", "foo")})
	}
}

func makeReply(r *rand.Rand, g *generated) reply {
	a := reply{
		proto: choose(r, "1.1", "1.1", "1.1", "1.0"),
		status: choose(r, 200, 200, 200, 201, 204, 206, 301, 304, 400, 401, 404, 413, 418, 500, 502, 503,
			599, 700),
	}
	if r.IntN(60) == 0 {
		a.status = choose(r, 99, 0, 42)
	}
	if r.IntN(6) == 0 && a.proto == "1.1" {
		a.info = choose(r, []int{103}, []int{102, 103}, []int{100}, []int{103, 103, 103})
	}
	for _, f := range []field{
		{"Content-Type", "text/plain"}, {"Etag", `"1"`}, {"Set-Cookie", "a=1"}, {"Set-Cookie", "b=2"},
		{"Vary", "Accept"},
		{"Link", "</a>"}, {"Server", "test"}, {"X-Own", "1"}, {"Location", "/x"}, {"Cache-Control",
			"max-age=1"},
		{"Date", "Mon, 01 Jan 2024 00:00:00 GMT"}, {"Retry-After", "1"}, {"Empty", ""},
		{"X-Content-Type-Options", "nosniff"},
	} {
		if r.IntN(4) == 0 {
			a.fields = append(a.fields, f)
		}
	}
	if g.upstream == "1" && r.IntN(8) == 0 {
		a.fields = append(a.fields, choose(r, field{"Connection", "X-Own"}, field{"Keep-Alive", "timeout=5"},
			field{"Proxy-Authenticate", "Basic"}, field{"Upgrade", "h2c"}))
	}
	if a.status != 204 && a.status != 304 && g.method != "HEAD" {
		a.framing = choose(r, "length", "length", "chunked", "close")
		if a.proto == "1.0" && a.framing == "chunked" {
			a.framing = "close"
		}
		a.body = strings.Repeat(choose(r, "x", "<html>"), choose(r, 0, 1, 100, 2000, 5000))
	}
	if a.framing == "chunked" && r.IntN(3) == 0 {
		for _, f := range []field{{"Grpc-Status", "0"}, {"Sum", "1"}, {"Set-Cookie", "evil=1"},
			{"Content-Type", "x"}} {
			if r.IntN(2) == 0 {
				a.trailers = append(a.trailers, f)
			}
		}
	}
	if g.body != "" && !g.leave && r.IntN(8) == 0 {
		a.early = true
	}
	if r.IntN(12) == 0 {
		a.fault = choose(r, "silent", "header", "body", "garbage")
	}
	if a.fault == "body" && (a.framing == "" || a.framing == "close" || len(a.body) < 2) {
		a.fault = "silent"
	}
	return a
}

// head returns the header of an HTTP/1 response.
func (a *reply) head(status int, fields []field) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/%s %03d Some Words\r\n", a.proto, status)
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	return b.String()
}

// raw returns the bytes of the reply over HTTP/1, which names its exchange, and whether the
// connection ends after them.
func (a *reply) raw(name string) (raw string, end bool) {
	var b strings.Builder
	if a.fault == "silent" {
		return "", true
	}
	if a.fault == "garbage" {
		return "\x00\x01\x02 garbage\r\n\r\n", true
	}
	for _, code := range a.info {
		b.WriteString(a.head(code, []field{{"Link", fmt.Sprint("</", code, ">")}, {"Connection", "X-Hop"},
			{"X-Hop", "1"}}))
		b.WriteString("\r\n")
	}
	b.WriteString(a.head(a.status, append(slices.Clone(a.fields), field{exchangeField, name})))
	if a.fault == "header" {
		return b.String() + "X-Half: ", true
	}
	switch a.framing {
	case "length":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(a.body))
	case "chunked":
		for _, f := range a.trailers {
			fmt.Fprintf(&b, "Trailer: %s\r\n", f[0])
		}
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	case "close":
		b.WriteString("Connection: close\r\n\r\n")
	default:
		b.WriteString("\r\n")
	}
	body := a.body
	if a.fault == "body" {
		body = body[:len(body)/2]
	}
	if a.framing != "chunked" {
		b.WriteString(body)
		return b.String(), a.framing == "close" || a.fault == "body"
	}
	if body != "" {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(body), body)
	}
	if a.fault == "body" {
		return b.String(), true
	}
	b.WriteString("0\r\n")
	for _, f := range a.trailers {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	b.WriteString("\r\n")
	return b.String(), false
}
