package wire

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func zip(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// generated returns a request's method, field and body, and what the server does with it. foul says
// that the connection then has what belongs to no request.
func generated(rng *rand.Rand) (method, field, body string, a answer, foul bool) {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	method = pick("GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "DELETE")
	field = pick("", "", "Accept-Encoding: gzip", "Range: bytes=0-1", "Idempotency-Key: k", "A: \tb")
	if method == "POST" || rng.IntN(8) == 0 {
		body = strings.Repeat("x", rng.IntN(3000))
	}
	content := strings.Repeat("y", rng.IntN(1+rng.IntN(20_000)))
	status := pick("200 OK", "200 OK", "404 Not Found", "500 ", "204 No Content", "304 Not Modified",
		"206 Partial Content", "600 X", "099 X", "101 Switching Protocols", "20 X", "abc X", "200")
	proto := pick("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTX/1.1")
	extra := pick("", "", "", "Connection: close\r\n", "Connection: keep-alive\r\n", "A: b\r\nA: c\r\n",
		" fold\r\n", "no colon\r\n", "A : b\r\n", "Content-Encoding: gzip\r\n", "A: \x00\r\n",
		"Trailer: Content-Length\r\n", "A: "+strings.Repeat("z", 12_000)+"\r\n", "Set-Cookie: a=b\r\n")
	if strings.Contains(extra, "gzip") && rng.IntN(4) > 0 {
		content = zip(content)
	}
	head := proto + " " + status + "\r\n" + extra
	switch rng.IntN(9) {
	case 0, 1, 2:
		a.text = fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(content), content)
	case 3:
		a.text = head + "Transfer-Encoding: chunked\r\nTrailer: T\r\n\r\n"
		for rest := content; rest != ""; {
			n := 1 + rng.IntN(len(rest))
			a.text += fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		a.text += "0\r\nT: end\r\n\r\n"
		a.end = proto == "HTTP/1.0" // which has no chunks
	case 4:
		a.text, a.end = head+"\r\n"+content, true // until the end
	case 5:
		length := pick("-1", "+1", "1 ", "x", "1, 1", "0x1")
		a.text = fmt.Sprintf("%sContent-Length: %s\r\n\r\n%s", head, length, content)
		a.end = true
	case 6:
		second := pick("3", "4")
		a.text = fmt.Sprintf("%sContent-Length: 3\r\nContent-Length: %s\r\n\r\nabc", head, second)
		a.end = true
	case 7:
		a.text = head + "Content-Length: 9\r\nTransfer-Encoding: " + pick("chunked", "gzip", "chunked, x") +
			"\r\n\r\n" + pick("0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "zz\r\n", "9\r\nabc")
		a.end = true
	case 8:
		a.end = true // too early
		a.text = fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(content)+5, content)
	}
	foul = method == "HEAD" || status[0] == '1' || strings.HasPrefix(status, "204") ||
		strings.HasPrefix(status, "304") // their content is none
	for range rng.IntN(3) * rng.IntN(2) {
		informational := pick("100 Continue", "103 Early Hints", "102 Processing")
		a.text = "HTTP/1.1 " + informational + "\r\nLink: x\r\n\r\n" + a.text
	}
	switch rng.IntN(12) {
	case 0:
		a.text, a.end = a.text[:rng.IntN(len(a.text)+1)], true
	case 1:
		a.text, foul = a.text+pick("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", "\r\n", "x"), true
	}
	if rng.IntN(6) == 0 {
		a.piece = 1 + rng.IntN(2000)
	}
	return method, field, body, a, foul
}

// outcome sends a request and says in words all that its caller gets.
func outcome(rt http.RoundTripper, r *http.Request) string {
	var informed []string
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			informed = append(informed, fmt.Sprint(code, h))
			return nil
		},
	})
	resp, err := rt.RoundTrip(r.WithContext(ctx))
	if err != nil {
		// net/http may tell of the connection's end before it looks at what came before that.
		return fmt.Sprint("fails, as its time is up: ", errors.Is(err, context.DeadlineExceeded))
	}
	// 101 gives a connection, on which nothing more may come.
	body, bodyErr := []byte(nil), error(nil)
	if resp.StatusCode != 101 {
		body, bodyErr = io.ReadAll(resp.Body)
	}
	resp.Body.Close()
	_, afterwards := resp.Body.Read(make([]byte, 1))
	return fmt.Sprint(informed, resp.Status, resp.Proto, resp.Header, resp.ContentLength,
		resp.TransferEncoding, resp.Close, resp.Uncompressed, len(body), string(body[:min(len(body), 40)]),
		bodyErr, resp.Trailer, resp.Request.Method, resp.Body == http.NoBody, afterwards != nil)
}

// Both transports make of the same exchanges the same.
func TestExchangesEndAsWithNetHTTP(t *testing.T) {
	log.SetOutput(io.Discard) // net/http tells of what it finds on idle connections
	defer log.SetOutput(os.Stderr)
	n := 10_000
	if testing.Short() {
		n = 500
	}
	for _, plain := range []bool{true, false} {
		t.Run(fmt.Sprint("DisableCompression ", plain), func(t *testing.T) {
			ours, theirs := startRaw(t), startRaw(t)
			setup := func(s *rawServer) *http.Transport {
				base := s.base()
				base.DisableCompression, base.MaxResponseHeaderBytes = plain, 6000
				base.ResponseHeaderTimeout = time.Minute
				return base
			}
			w, std := New(setup(ours)), setup(theirs)
			t.Cleanup(w.CloseIdleConnections)
			t.Cleanup(std.CloseIdleConnections)
			rng := rand.New(rand.NewPCG(1, 2))
			failed, before := 0, answer{}
			for i := range n / 2 {
				method, field, body, a, foul := generated(rng)
				if before.end && method != "GET" && method != "HEAD" {
					// net/http may notice the end of the last connection too late for others.
					std.CloseIdleConnections()
				}
				ours.set(i, a)
				theirs.set(i, a)
				send := func(s *rawServer, rt http.RoundTripper) string {
					var content io.Reader
					if body != "" {
						content = strings.NewReader(body)
					}
					r := s.request(t, method, i, content)
					if name, value, ok := strings.Cut(field, ": "); ok {
						r.Header.Set(name, value)
					}
					return outcome(rt, r)
				}
				got, want := send(ours, w), send(theirs, std)
				if got != want {
					// net/http can fail a request for what was left on the connection before: on a
					// new one it does what it does.
					std.CloseIdleConnections()
					want = send(theirs, std)
				}
				require.Equal(t, want, got, "%d: %s %q (%d) %+v", i, method, field, len(body), a)
				require.Equal(t, theirs.body(i), ours.body(i))
				if a.end && !ours.over(i) { // what comes next must find the connection closed
					require.Eventually(t, func() bool { return ours.over(i) }, time.Minute, time.Millisecond)
				}
				if strings.Contains(got, "fails") {
					failed++
				}
				if foul {
					// net/http can take what is there for the next answer if that comes at once.
					std.CloseIdleConnections()
				}
				before = a
			}
			require.False(t, w.off.Load())
			require.Greater(t, failed, n/20)
			require.Less(t, failed, n/3)
		})
	}
}
