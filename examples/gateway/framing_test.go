package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// The upstream gets as many requests as the gateway answers, however ambiguous their framing is.
func TestFraming(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("", b.Addr))
	const (
		hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
		last   = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

		chunked = "Transfer-Encoding: chunked"
		end     = "0\r\n\r\n" // of a chunked body
	)
	inChunk := fmt.Sprintf("%x\r\n%s\r\n%s", len(hidden), hidden, end)
	lengthOfHidden := fmt.Sprintf("Content-Length: %d", len(hidden))
	for name, tt := range map[string]struct {
		head, body string
		want       []int
	}{
		"chunked beside a length":  {"Content-Length: 40\r\n" + chunked, end + hidden, []int{200, 200, 200}},
		"hidden in a chunk":        {"Content-Length: 4\r\n" + chunked, inChunk, []int{200, 200}},
		"two lengths":              {"Content-Length: 1\r\nContent-Length: 2", "ab" + hidden, []int{400}},
		"a list of lengths":        {"Content-Length: 1, 1", "a" + hidden, []int{400}},
		"a signed length":          {"Content-Length: +1", "a" + hidden, []int{400}},
		"an empty length":          {"Content-Length:", hidden, []int{400}},
		"chunked twice":            {chunked + "\r\n" + chunked, end + hidden, []int{501}},
		"another coding":           {"Transfer-Encoding: identity", hidden, []int{501}},
		"a space before the colon": {"Transfer-Encoding : chunked", end + hidden, []int{400}},
		"a folded line":            {"Transfer-Encoding:\r\n chunked", end + hidden, []int{200, 200, 200}},
		"a length that is folded":  {"X: a\r\n Content-Length: 40", hidden, []int{200, 200, 200}},
		"a field with a null":      {"X: a\x00b", hidden, []int{400}},
		"the same length twice": {
			"Content-Length: 1\r\nContent-Length: 1", "a" + hidden, []int{200, 200, 200},
		},
		"chunked in a trailer": {
			chunked, "0\r\nContent-Length: 40\r\n\r\n" + hidden, []int{200, 200, 200},
		},
		"length ended by line feed": {"X: a\n" + lengthOfHidden, hidden, []int{200, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			before := b.Requests()
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n%s%s", tt.head, tt.body, last)
			var got []int
			proxied := 0
			for answers := bufio.NewReader(conn); ; {
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					break
				}
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				got = append(got, resp.StatusCode)
				if resp.StatusCode == 200 {
					proxied++
				}
			}
			require.Equal(t, tt.want, got)
			require.EqualValues(t, proxied, b.Requests()-before)
		})
	}
}
