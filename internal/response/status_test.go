package response_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/response"
)

func TestO09_StatusAndBytes(t *testing.T) {
	write := func(text string) func(*response.Recorder) {
		return func(rec *response.Recorder) { _, _ = io.WriteString(rec, text) }
	}
	tests := []struct {
		name    string
		method  string
		handler func(*response.Recorder)
		status  int // also what the client sees
		bytes   int64
		body    string
		zero    bool // the handler sends nothing, so Status stays zero and net/http says 200
		told    bool // the server's log tells of a header that should not have been sent
	}{
		{name: "nothing written", handler: func(*response.Recorder) {}, status: 200, zero: true},
		{name: "implicit 200", handler: write("hello"), status: 200, bytes: 5, body: "hello"},
		{name: "empty write", handler: func(rec *response.Recorder) { _, _ = rec.Write(nil) }, status: 200},
		{name: "explicit status", handler: func(rec *response.Recorder) {
			rec.WriteHeader(404)
			write("no")(rec)
		}, status: 404, bytes: 2, body: "no"},
		{name: "second WriteHeader", handler: func(rec *response.Recorder) {
			rec.WriteHeader(404)
			rec.WriteHeader(500)
		}, status: 404, told: true},
		{name: "WriteHeader after the body", handler: func(rec *response.Recorder) {
			write("x")(rec)
			rec.WriteHeader(500)
		}, status: 200, bytes: 1, body: "x", told: true},
		{name: "1xx and then the status", handler: func(rec *response.Recorder) {
			rec.WriteHeader(http.StatusEarlyHints)
			rec.WriteHeader(http.StatusProcessing)
			rec.WriteHeader(201)
		}, status: 201},
		{name: "1xx after the status", handler: func(rec *response.Recorder) {
			rec.WriteHeader(201)
			rec.WriteHeader(103)
		}, status: 201, told: true},
		{name: "body of a 204", handler: func(rec *response.Recorder) {
			rec.WriteHeader(204)
			write("none")(rec)
		}, status: 204},
		{name: "body of a 304", handler: func(rec *response.Recorder) {
			rec.WriteHeader(304)
			write("none")(rec)
		}, status: 304},
		{name: "copy into a 204", handler: func(rec *response.Recorder) {
			rec.WriteHeader(204)
			_, _ = io.Copy(rec, strings.NewReader(strings.Repeat("none", 1000)))
		}, status: 204},
		{name: "HEAD", method: "HEAD", handler: write("hello"), status: 200},
		{name: "HEAD with a copy", method: "HEAD", handler: func(rec *response.Recorder) {
			_, _ = io.Copy(rec, io.LimitReader(strings.NewReader(strings.Repeat("x", 5000)), 5000))
		}, status: 200},
		{name: "bytes.Reader and ReadFrom", handler: func(rec *response.Recorder) {
			_, _ = io.Copy(rec, bytes.NewReader([]byte("hello")))
			_, _ = rec.ReadFrom(strings.NewReader(" world"))
		}, status: 200, bytes: 11, body: "hello world"},
		{name: "nothing to copy", handler: func(rec *response.Recorder) {
			_, _ = io.Copy(rec, iotest.ErrReader(io.EOF))
			rec.WriteHeader(404)
		}, status: 404},
	}
	overBoth(t, func(t *testing.T, proto string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) { tt.handler(rec) })
				req, err := http.NewRequest(tt.method, s.URL, nil)
				require.NoError(t, err)
				resp, err := s.Client().Do(req)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				rec := s.record(t)
				require.Equal(t, tt.status, resp.StatusCode)
				if tt.zero {
					require.Zero(t, rec.Status)
				} else {
					require.Equal(t, tt.status, rec.Status)
				}
				require.Equal(t, tt.bytes, rec.Bytes)
				require.Equal(t, tt.body, string(body))
				if tt.told {
					require.Contains(t, s.log.String(), "superfluous response.WriteHeader call from "+
						"github.com/trivet-go/trivet/internal/response_test.TestO09_StatusAndBytes")
					require.Contains(t, s.log.String(), "(status_test.go:")
				} else {
					require.Empty(t, s.log.String())
				}
			})
		}
	})
}

func TestO09_WriteBeyondContentLengthHasSentTheHeader(t *testing.T) {
	for name, write := range map[string]func(*response.Recorder) error{
		"Write": func(rec *response.Recorder) error {
			_, err := rec.Write([]byte("three"))
			return err
		},
		"WriteString": func(rec *response.Recorder) error {
			_, err := rec.WriteString("three")
			return err
		},
		"ReadFrom": func(rec *response.Recorder) error {
			_, err := rec.ReadFrom(strings.NewReader("three"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "HTTP/1.1", func(rec *response.Recorder, _ *http.Request) {
				rec.Header().Set("Content-Length", "2")
				require.ErrorIs(t, write(rec), http.ErrContentLength)
				rec.WriteHeader(500) // too late
			})
			resp, err := s.Client().Get(s.URL)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 200, resp.StatusCode)
			rec := s.record(t)
			require.Equal(t, 200, rec.Status)
			require.Zero(t, rec.Bytes)
			require.Contains(t, s.log.String(), "(status_test.go:", "the handler's line, not the wrapper's")
		})
	}
}

func TestO09_EarlyHintsReachTheClient(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, _ *http.Request) {
			rec.Header().Set("Link", "</style.css>; rel=preload")
			rec.WriteHeader(http.StatusEarlyHints)
			require.Zero(t, rec.Status)
			rec.WriteHeader(200)
		})
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
				return nil
			},
		})
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		require.NoError(t, err)
		resp, err := s.Client().Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []string{"103 </style.css>; rel=preload"}, hints)
		require.Equal(t, 200, s.record(t).Status)
	})
}

func TestO10_StatusBeforeHijackIsKept(t *testing.T) {
	s := serve(t, "HTTP/1.1", func(rec *response.Recorder, _ *http.Request) {
		rec.Header().Set("Connection", "Upgrade")
		rec.Header().Set("Upgrade", "echo")
		rec.WriteHeader(http.StatusSwitchingProtocols)
		require.Equal(t, http.StatusSwitchingProtocols, rec.Status)
		conn, _, err := rec.Hijack()
		require.NoError(t, err)
		conn.Close()
	})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, http.StatusSwitchingProtocols, s.record(t).Status)
}

func TestInvalidStatusPanicsAndIsNotRecorded(t *testing.T) {
	rec := response.NewRecorder(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	require.Panics(t, func() { rec.WriteHeader(0) })
	require.Zero(t, rec.Status)
	rec.WriteHeader(500)
	require.Equal(t, 500, rec.Status)
}
