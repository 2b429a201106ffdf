//go:build unix

package balancer_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

func TestL16_FloodsFromUpstream(t *testing.T) {
	flood := func(head, unit, tail string, n int) string {
		return serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			for {
				if _, err := http.ReadRequest(buf); err != nil {
					return
				}
				w := bufio.NewWriterSize(c, 64<<10)
				_, err := w.WriteString(head)
				for i := 0; i < n && err == nil; i++ {
					_, err = w.WriteString(unit)
				}
				_, _ = w.WriteString(tail)
				if w.Flush() != nil || err != nil {
					return
				}
			}
		})
	}
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, addr := range map[string]string{
		"informational": flood("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ok, 1_000_000),
		"one long field": flood(
			"HTTP/1.1 200 OK\r\nX-Long: ", strings.Repeat("x", 1000),
			"\r\nContent-Length: 0\r\n\r\n", 2000,
		),
		"cookies": flood(
			"HTTP/1.1 200 OK\r\n", "Set-Cookie: abcdefgh=1\r\n", "Content-Length: 0\r\n\r\n",
			100_000,
		),
		"chunk extension": flood(
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			"1;"+strings.Repeat("e", 2000)+"\r\nx\r\n", "0\r\n\r\n", 10_000,
		),
		"trailer": flood(
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
			"X-Trailer: "+strings.Repeat("t", 1000)+"\r\n", "\r\n", 20_000,
		),
	} {
		for _, handler := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/handler=%v", name, handler), func(t *testing.T) {
				// The default transport, with its limits.
				b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
				if !handler {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					_, err := get(ctx, b)
					require.Error(t, err)
					require.NoError(t, ctx.Err(), "it is an error, and not by the deadline: %v", err)
					require.Equal(t, uint64(1), b.Stats().Failures)
					return
				}
				f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
				conn, err := net.Dial("tcp", f.Listener.Addr().String())
				require.NoError(t, err)
				defer conn.Close()
				_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				require.NoError(t, err)
				answer, _ := io.ReadAll(conn)
				require.LessOrEqual(t, strings.Count(string(answer), "HTTP/1.1 103"), 100)
				if strings.Contains(name, "chunk") || name == "trailer" {
					require.NotContains(
						t,
						string(answer),
						"\r\n0\r\n\r\n",
						"what broke off does not look whole",
					)
				} else {
					require.Contains(t, string(answer), "HTTP/1.1 502 ")
				}
			})
		}
	}
}

// Frames that a server must not send, or not so many of, end in an error. They cause no panic, and
// no request hangs.
func TestL32_FloodsOfFrames(t *testing.T) {
	for name, script := range map[string]func(fr *http2.Framer) error{
		"frame size 0": func(fr *http2.Framer) error {
			return fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize})
		},
		"window overflow": func(fr *http2.Framer) error {
			return fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		},
		"SETTINGS": func(fr *http2.Framer) error {
			return fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
		},
		"PING": func(fr *http2.Framer) error { return fr.WritePing(false, [8]byte{}) },
		"RST":  func(fr *http2.Framer) error { return fr.WriteRSTStream(1, http2.ErrCodeCancel) },
		"empty CONTINUATION": func(fr *http2.Framer) error {
			if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}); err != nil {
				return err
			}
			for range 10_000 {
				if err := fr.WriteContinuation(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
		"GOAWAY": func(fr *http2.Framer) error {
			return fr.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serveRaw(t, func(c net.Conn) {
				if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
				w := bufio.NewWriter(c)
				fr := http2.NewFramer(w, nil)
				fr.AllowIllegalWrites = true
				if fr.WriteSettings() != nil {
					return
				}
				for script(fr) == nil && w.Flush() == nil {
				}
			})
			good := backend.Start(t, backend.Config{Protocol: backend.H2C})
			b := newBalancer(t, balancer.Config{
				Resolver:  balancer.Static(addr, good.Addr),
				Transport: backend.Transport(backend.H2C),
				Policy:    asked{},
				SlowStart: -1,
			})
			for range 4 {
				ctx, cancel := context.WithTimeout(
					context.WithValue(t.Context(), asked{}, addr),
					300*time.Millisecond,
				)
				_, _ = get(ctx, b) // that it ends is what counts
				cancel()
				status, err := get(context.WithValue(t.Context(), asked{}, good.Addr), b)
				require.NoError(t, err, "the other host is not affected")
				require.Equal(t, 200, status)
			}
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

// A server with a limit that no request could keep is treated as a black hole.
func TestHeaderLimitsThatNobodyCouldKeep(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		fr := http2.NewFramer(c, c)
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		if fr.WriteSettings(http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 1}) != nil {
			return
		}
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.HeadersFrame); ok { // sent before the settings came
				_ = fr.WriteRSTStream(f.StreamID, http2.ErrCodeInternal)
			}
		}
	})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addr), Transport: backend.Transport(backend.H2C),
	})
	require.Eventually(t, func() bool {
		_, err := get(t.Context(), b)
		return err != nil && strings.Contains(err.Error(), "header list")
	}, time.Minute, time.Millisecond)
	before := b.Stats().Failures
	_, err := get(t.Context(), b)
	require.Error(t, err)
	require.Equal(t, before+1, b.Stats().Failures)
}
