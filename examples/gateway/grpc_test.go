package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/trivet-go/trivet/internal/backend"
)

// grpcBackend answers each message of a call with the same, or ends the call with the status
// NOT_FOUND if the message is "missing". It returns its address.
func grpcBackend(t *testing.T) string {
	t.Helper()
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		for {
			m := new(wrapperspb.StringValue)
			switch err := stream.RecvMsg(m); {
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			case m.Value == "missing":
				return status.Error(codes.NotFound, "none of the name 100 % ä")
			}
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	return ln.Addr().String()
}

// caller returns a function that makes a call of gRPC through the gateway at addr.
func caller(t *testing.T, addr string) func(method, message string) (string, error) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("a.test"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return func(method, message string) (string, error) {
		got := new(wrapperspb.StringValue)
		err := conn.Invoke(context.Background(), method, wrapperspb.String(message), got)
		return got.Value, err
	}
}

func TestRefusalsOfGRPC(t *testing.T) {
	rpc := grpcBackend(t)
	web := backend.Start(t, backend.Config{})
	slow := backend.Start(t, backend.Config{Behaviour: backend.Behaviour{Hang: true}})
	g := start(t, fmt.Sprintf(`
server: {h2c: true}
limits: {one: {rate: 1/h, burst: 1, by: all}, key: {rate: 1/h, by: header, header: X-Key, missing: reject}}
upstreams:
  rpc: {hosts: [%s], h2c: true}
  web: {hosts: [%s]}
  slow: {hosts: [%s]}
  gone: {hosts: ["127.0.0.1:1"]}
  broken: {hosts: ["127.0.0.1:1"], breaker: {min_requests: 1, window: 60s, open_for: 60s}}
routes:
  - {upstream: rpc, path: /s/}
  - {upstream: rpc, path: /s/limited, limits: [one]}
  - {upstream: rpc, path: /s/keyed, limits: [key]}
  - {upstream: rpc, path: /s/small, max_body: 8B}
  - {upstream: rpc, path: /s/got, methods: [GET]}
  - {upstream: slow, path: /s/slow, timeout: 50ms}
  - {upstream: gone, path: /s/gone}
  - {upstream: broken, path: /s/broken}
  - {upstream: web, path: /s/web}
  - path: /v/
    host: a.test
    versions: {list: [{version: a, upstream: rpc}], sources: {header: V}}
`, rpc, web.Addr, slow.Addr))
	call := caller(t, g.addr)
	got, err := call("/s/m", "hello")
	require.NoError(t, err)
	require.Equal(t, "hello", got)
	_, err = call("/s/m", "missing")
	require.Equal(t, status.New(codes.NotFound, "none of the name 100 % ä").Err().Error(), err.Error(),
		"what an upstream says is left alone")
	_, err = call("/s/limited", "x")
	require.NoError(t, err)
	_, _ = call("/s/broken", "x") // opens the breaker
	for _, tt := range []struct {
		method, message string
		code            codes.Code
		want            string
	}{
		{"/s/limited", "x", codes.ResourceExhausted, "Request quota exceeded"},
		{"/s/keyed", "x", codes.InvalidArgument, "Bad Request"},
		{"/s/small", "more than eight", codes.ResourceExhausted, "the body is too large"},
		{"/s/got", "x", codes.Unimplemented, "this path does not take POST"},
		{"/nowhere/m", "x", codes.Unimplemented, "no route for this host and path"},
		{"/s/slow", "x", codes.DeadlineExceeded, "the server behind the gateway took too long"},
		{"/s/gone", "x", codes.Unavailable, "no server is available for this request"},
		{"/s/broken", "x", codes.Unavailable, "no server is available for this request"},
		{"/v/m", "x", codes.InvalidArgument, "The request names no version"},
		{"/v/%2e%2e/m", "x", codes.InvalidArgument, "the path has hidden dot segments"},
	} {
		t.Run(tt.method, func(t *testing.T) {
			_, err := call(tt.method, tt.message)
			require.Equal(t, tt.code, status.Code(err), err)
			require.Equal(t, tt.want, status.Convert(err).Message())
		})
	}
	t.Run("an upstream's own error of HTTP is left alone", func(t *testing.T) {
		for _, code := range []int{400, 404, 503} {
			web.Set(backend.Behaviour{Status: code})
			_, err := call("/s/web", "x")
			require.Contains(t, err.Error(),
				fmt.Sprint("unexpected HTTP status code received from server: ", code))
		}
	})
}

// Each message of a stream arrives before the next one is sent.
func TestStreamsOfGRPC(t *testing.T) {
	g := start(t, "server: {h2c: true}\n"+upstreamOf(grpcBackend(t), "h2c: true"))
	conn, err := grpc.NewClient("passthrough:///"+g.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := conn.NewStream(t.Context(), both, "/s/both")
	require.NoError(t, err)
	for _, text := range []string{"one", "two", "three"} {
		require.NoError(t, stream.SendMsg(wrapperspb.String(text)))
		got := new(wrapperspb.StringValue)
		require.NoError(t, stream.RecvMsg(got))
		require.Equal(t, text, got.Value)
	}
	require.NoError(t, stream.CloseSend())
	require.Equal(t, io.EOF, stream.RecvMsg(new(wrapperspb.StringValue)))
}

func TestRefusalsOfGRPCOverHTTP1AndOfOthers(t *testing.T) {
	g := start(t, simple("server: {max_body: 1KiB}\n", "127.0.0.1:1"))
	send := func(media string, n int) *http.Response {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			media, n, strings.Repeat("x", min(n, 10)))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp
	}
	for media, want := range map[string]bool{
		"application/grpc": true, "Application/GRPC+proto": true, "application/grpc; x=y": true,
		"application/grpc-web": false, "application/grpcs": false, "application/grp": false,
		"text/plain": false,
	} {
		// The last one needs to linger.
		for n, code := range map[int]string{10: "14", 2 << 10: "8", 1 << 20: "8"} {
			resp := send(media, n)
			if !want {
				require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"), media)
				require.Empty(t, resp.Header.Get("Grpc-Status"))
				continue
			}
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, "application/grpc", resp.Header.Get("Content-Type"))
			require.Equal(t, code, resp.Header.Get("Grpc-Status"))
			require.EqualValues(t, 0, resp.ContentLength)
		}
	}
}

// The metrics and the access log count a refusal as what it is.
func TestRefusalsOfGRPCAreCountedAsRefusals(t *testing.T) {
	var log strings.Builder
	g := startLogged(t, simple("", "127.0.0.1:1"), &log)
	req := request(t, "POST", g.url, "Content-Type", "application/grpc")
	resp, _ := do(t, client(t), req)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, g.observer.close(t.Context()))
	require.Contains(t, log.String(), `"http.response.status_code":503`)
}

func TestGRPCStatusOfEveryRefusal(t *testing.T) {
	want := map[int]int{400: 3, 401: 16, 403: 7, 404: 12, 405: 12, 408: 4, 410: 12, 413: 8, 429: 8, 431: 8,
		500: 13, 501: 12, 502: 14, 503: 14, 504: 4}
	for code := 400; code < 600; code++ {
		got := 2
		if n, ok := want[code]; ok {
			got = n
		}
		require.Equal(t, got, grpcStatus(code), code)
	}
	require.Equal(t, "a b%25%C3%A4%0A~", percentEncoded("a b%ä\n~"))
}

// What a handler writes beside the first document of a refusal goes nowhere, and a refusal without
// a document still is one.
func TestGRPCWriter(t *testing.T) {
	in := httptest.NewRecorder()
	w := &grpcWriter{ResponseWriter: in}
	w.WriteHeader(503)
	w.WriteHeader(200)
	require.NoError(t, w.FlushError())
	n, err := w.Write([]byte(`{"detail": "late"}`))
	require.NoError(t, err)
	require.Equal(t, 18, n)
	w.end()
	require.Equal(t, 200, in.Code)
	require.Empty(t, in.Body.String())
	require.Equal(t, "Service Unavailable", in.Header().Get("Grpc-Message"))
	require.False(t, in.Flushed, "over HTTP/2 it leaves with its end")

	in = httptest.NewRecorder()
	w = &grpcWriter{ResponseWriter: in, http1: true}
	w.WriteHeader(413)
	require.NoError(t, w.FlushError())
	require.True(t, in.Flushed)
	require.Equal(t, "8", in.Header().Get("Grpc-Status"))

	in = httptest.NewRecorder()
	w = &grpcWriter{ResponseWriter: in}
	w.Header()[passedOn] = nil
	w.WriteHeader(502)
	_, _ = w.Write([]byte("own"))
	w.end()
	require.Equal(t, 502, in.Code)
	require.Equal(t, "own", in.Body.String())
	require.NotContains(t, in.Header(), passedOn)
	require.Empty(t, in.Header().Get("Grpc-Status"))
}

// What an upstream's answer has begun with stays: a second status is none of the gateway's
// refusals.
func TestASecondStatusIsNoRefusal(t *testing.T) {
	rec := httptest.NewRecorder()
	w := &grpcWriter{ResponseWriter: rec}
	w.WriteHeader(http.StatusOK)
	_, err := w.Write([]byte("one "))
	require.NoError(t, err)
	w.WriteHeader(http.StatusServiceUnavailable)
	_, err = w.Write([]byte("two"))
	require.NoError(t, err)
	w.end()
	require.Equal(t, "one two", rec.Body.String())
	require.Empty(t, rec.Header().Get("Grpc-Status"))
}
