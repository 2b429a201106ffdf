package versioning_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// streaming answers with chunks, each in a write of its own.
func streaming(contentType string, chunks ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(strings.Join(chunks, ""))))
		w.Header().Set("Content-Digest", "x")
		for _, chunk := range chunks {
			_, _ = io.WriteString(w, chunk)
		}
	})
}

func TestEvents(t *testing.T) {
	named := rename("", "n", "m")
	named.Events = []string{"message", "user"}
	v := chained(t, versioning.Config{}, rename("", "a", "b"), named)
	for _, tt := range []struct{ in, want string }{
		{"data: {\"b\":1}\n\n", "data: {\"a\":1}\n\n"},
		{"data:{\"b\":1}\r\n\r\ndata: {\"b\":2}\r\r", "data: {\"a\":1}\n\ndata: {\"a\":2}\n\n"},
		{": hello\n\nid: 1\nevent: x\ndata: {\"b\":1}\nretry: 5\n\n",
			": hello\n\nid: 1\nevent: x\ndata: {\"a\":1}\nretry: 5\n\n"},
		{"data: {\"b\":\ndata: 1}\n\n", "data: {\"a\":1}\n\n"},
		{"data: {\"x\":[1,\ndata: 2],\"b\":3}\n\n", "data: {\"x\":[1,\ndata: 2],\"a\":3}\n\n"},
		{"data: [DONE]\n\ndata\n\ndata: {b\n\n", "data: [DONE]\n\ndata: \n\ndata: {b\n\n"},
		{"data: {\"m\":1}\n\n", "data: {\"n\":1}\n\n"},
		{"event: user\ndata: {\"m\":1}\n\n", "event: user\ndata: {\"n\":1}\n\n"},
		{"event: other\ndata: {\"m\":1}\n\ndata: {\"m\":1}\n\n",
			"event: other\ndata: {\"m\":1}\n\ndata: {\"n\":1}\n\n"},
		{"data: {\"m\":1}\nevent: other\n\n", "data: {\"m\":1}\nevent: other\n\n"},
		{"data: {\"b\":1}", "data: {\"a\":1}\n"},
		{"data: {\"b\":1}\n", "data: {\"a\":1}\n"},
		{"", ""},
	} {
		for _, size := range []int{0, 1, 2, 3, 7, 1000} {
			var chunks []string
			for rest := tt.in; rest != ""; {
				n := min(max(size, 1), len(rest))
				chunks = append(chunks, rest[:n])
				rest = rest[n:]
			}
			w := serve(v.Middleware(streaming("text/event-stream; charset=utf-8", chunks...)),
				request("GET", "/v1/"))
			require.Equal(t, tt.want, w.Body.String(), "in writes of %d bytes: %q", size, tt.in)
			require.Empty(t, w.Header().Get("Content-Length"))
			require.Empty(t, w.Header().Get("Content-Digest"))
		}
	}
}

func TestLines(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	const in, want = "{\"b\":1}\n\n{\"b\":2}\r\n[{\"b\":3}]\n4", "{\"a\":1}\n\n{\"a\":2}\r\n[{\"a\":3}]\n4"
	for _, contentType := range []string{"application/x-ndjson", "application/ndjson", "application/jsonl"} {
		require.Equal(t, want, serve(v.Middleware(streaming(contentType, in)), request("GET",
			"/v1/")).Body.String())
		require.Equal(t, want, serve(v.Middleware(streaming(contentType, strings.Split(in, "")...)),
			request("GET", "/v1/")).Body.String())
	}
}

// Each event is with the client before the next one is written.
func TestEventsArriveAsTheyAreFlushed(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"), rename("", "b", "c"))
	protocols(t, func(t *testing.T, h2 bool) {
		read := make(chan struct{})
		srv := server(t, h2, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			require.NoError(t, http.NewResponseController(w).Flush())
			for i := range 5 {
				fmt.Fprintf(w, "data: {\"c\":%d}\n\n", i)
				w.(http.Flusher).Flush()
				select {
				case <-read:
				case <-r.Context().Done():
					return
				}
			}
		})))
		resp, err := srv.Client().Get(srv.URL + "/v1/")
		require.NoError(t, err)
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 5 {
			require.Equal(t, fmt.Sprintf("data: {\"a\":%d}\n", i), nextLine(t, lines))
			require.Equal(t, "\n", nextLine(t, lines))
			read <- struct{}{}
		}
		_, err = lines.ReadByte()
		require.ErrorIs(t, err, io.EOF)
	})
}

// Memory is flat over a million events: what is alive after them is what was alive after the first.
func TestMemoryIsFlatOverEvents(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	alive := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	events := 1_000_000
	if raceEnabled {
		events /= 20 // so slow is the race detector
	}
	w := &countingWriter{header: http.Header{}}
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		event := []byte("id: 1\ndata: {\"b\":1,\"text\":\"some words\"}\n\n")
		var before uint64
		for i := range events {
			if i == 1000 {
				before = alive()
			}
			_, _ = w.Write(event)
		}
		require.Less(t, alive(), before+512<<10, "half a byte for each event")
	}))
	h.ServeHTTP(w, request("GET", "/v1/"))
	require.EqualValues(t, events, w.writes)
	require.EqualValues(t, events*len("id: 1\ndata: {\"a\":1,\"text\":\"some words\"}\n\n"), w.bytes)
}

type countingWriter struct {
	header        http.Header
	writes, bytes int
}

func (w *countingWriter) Header() http.Header { return w.header }
func (w *countingWriter) WriteHeader(int)     {}
func (w *countingWriter) Write(p []byte) (int, error) {
	w.writes++
	w.bytes += len(p)
	return len(p), nil
}

// A stream that cannot be converted breaks off, so that nobody takes what came for the whole.
func TestStreamsBreakOff(t *testing.T) {
	failing := versioning.Change{Name: "f", ResponseBody: versioning.JSON(func(o *versioning.Object) error {
		return failIf(o.Has("fail"))
	})}
	for _, onError := range []versioning.OnError{versioning.Refuse, versioning.Pass} {
		v := chained(t, versioning.Config{MaxItem: 100, OnError: onError}, failing)
		long := strings.Repeat("x", 101)
		for name, tt := range map[string]struct{ contentType, ok, bad string }{
			"event fails":       {"text/event-stream", "data: {}\n\n", "data: {\"fail\":1}\n\n"},
			"event is too long": {"text/event-stream", "data: {}\n\n", "data: {\"x\":\"" + long + "\"}\n\n"},
			"many lines": {"text/event-stream", "data: {}\n\n",
				strings.Repeat("data: xxxxxxxx\n", 20)},
			"many after": {"text/event-stream", "data: {}\n\n", "data: 1\n" +
				strings.Repeat("id: xxxxxxxx\n", 20)},
			"endless line":     {"text/event-stream", "data: {}\n\n", ": " + long},
			"line fails":       {"application/jsonl", "{}\n", "{\"fail\":1}\n"},
			"line is no JSON":  {"application/jsonl", "{}\n", "{\n"},
			"line is too long": {"application/jsonl", "{}\n", "\"" + long + "\"\n"},
			"no end":           {"application/jsonl", "{}\n", long},
		} {
			t.Run(name, func(t *testing.T) {
				var after error
				h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", tt.contentType)
					_, err := io.WriteString(w, tt.ok)
					require.NoError(t, err)
					_, _ = io.WriteString(w, tt.bad)
					_, after = io.WriteString(w, tt.ok)
					require.ErrorIs(t, http.NewResponseController(w).Flush(), versioning.ErrConversion)
				}))
				w := httptest.NewRecorder()
				require.PanicsWithValue(t, http.ErrAbortHandler, func() {
					h.ServeHTTP(w, request("GET",
						"/v1/"))
				})
				require.True(t, strings.HasPrefix(w.Body.String(), tt.ok))
				require.NotContains(t, w.Body.String(), "fail")
				require.ErrorIs(t, after, versioning.ErrConversion)
			})
		}
	}
}

// Whatever the bytes, and however they are cut into writes, the events that come out are the same.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: {\"b\":1}\n\nevent: x\r\ndata: {\rdata:}\r\n\r\n: c\n\n"), uint8(3))
	f.Add([]byte("\r\n\n\rdata\n\ndata:\n\r\rid"), uint8(1))
	v := chained(f, versioning.Config{}, rename("", "a", "b"))
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		whole := serve(v.Middleware(streaming("text/event-stream", string(body))), request("GET", "/v1/"))
		var chunks []string
		for rest := body; len(rest) > 0; {
			n := min(len(rest), int(size)+1)
			chunks = append(chunks, string(rest[:n]))
			rest = rest[n:]
		}
		cut := serve(v.Middleware(streaming("text/event-stream", chunks...)), request("GET", "/v1/"))
		require.Equal(t, whole.Body.String(), cut.Body.String())
		// Without a change that finds something, only the ends of lines and of data differ.
		require.Equal(t, parseEvents(body, true), parseEvents(whole.Body.Bytes(), false))
	})
}

// parseEvents returns the events of a stream as a client reads them (HTML, section 9.2.6); with
// convert, as the changes of the fuzz test make them.
func parseEvents(stream []byte, convert bool) []string {
	stream = bytes.ReplaceAll(stream, []byte("\r\n"), []byte("\n"))
	stream = bytes.ReplaceAll(stream, []byte("\r"), []byte("\n"))
	var out []string
	var data []string
	name := ""
	lines := strings.Split(string(stream), "\n")
	for _, line := range lines[:len(lines)-1] { // a last line without end is no line
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil {
				text := strings.Join(data, "\n")
				if convert {
					text = converted(text)
				}
				out = append(out, name+"|"+text)
			}
			data, name = nil, ""
		case field == "data":
			data = append(data, value)
		case field == "event":
			name = value
		}
	}
	return out
}

func converted(text string) string {
	change := rename("2", "a", "b")
	v, err := versioning.New(versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Query("v")},
		Changes: []versioning.Change{change},
	})
	if err != nil {
		panic(err)
	}
	trimmed := strings.TrimLeft(text, " \t\r\n")
	if trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
		return text
	}
	got, err := v.Down(context.Background(), "1", []byte(text))
	if err != nil {
		return text
	}
	return string(got)
}
