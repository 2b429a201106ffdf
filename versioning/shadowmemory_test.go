package versioning_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// A body without an end of its own: it has said all that was announced, and EOF comes with one more
// read.
type lateEOF struct{ text string }

func (b *lateEOF) Read(p []byte) (int, error) {
	n := copy(p, b.text)
	b.text = b.text[n:]
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (b *lateEOF) Close() error { return nil }

// TestABodyReadToItsAnnouncedEnd: a handler that reads as many bytes as Content-Length says has
// read the whole body, whether it has seen EOF or not.
func TestABodyReadToItsAnnouncedEnd(t *testing.T) {
	for _, tt := range []struct {
		read int64
		want string
	}{{8, "match"}, {7, "partial"}} {
		var got string
		cfg := shadowOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = string(b)
		}))
		cfg.Methods = []string{"POST"}
		s := newShadow(t, cfg)
		h := s.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadFull(r.Body, make([]byte, tt.read))
			require.NoError(t, err)
		}))
		r := request("POST", "/")
		r.Body, r.ContentLength = &lateEOF{"the body"}, 8
		h.ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, map[string]uint64{tt.want: 1}, idle(t, s))
		if tt.want == "match" {
			require.Equal(t, "the body", got)
		}
	}
	// Of an unknown length only EOF says that it is whole.
	cfg := shadowOf(telling)
	cfg.Methods = []string{"POST"}
	s := newShadow(t, cfg)
	h := s.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 8))
	}))
	r := request("POST", "/")
	r.Body, r.ContentLength = &lateEOF{"the body"}, -1
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, map[string]uint64{"partial": 1}, idle(t, s))
}

// TestAnAnswerReadToItsAnnouncedEnd: the same for what a rollout's transport gives its client.
func TestAnAnswerReadToItsAnnouncedEnd(t *testing.T) {
	r := newRollout(t, rolloutOf(1))
	tr := r.Transport(nil, tripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: 8, Body: &lateEOF{"the body"}}, nil
	}))
	resp, err := tr.RoundTrip(request("GET", "/", "User", "a"))
	require.NoError(t, err)
	require.Equal(t, 1, r.Stats().InFlight["canary"])
	_, err = io.ReadFull(resp.Body, make([]byte, 8))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, resp.Body.Close(), "once more")
	require.Zero(t, r.Stats().InFlight["canary"])
}

// A tornBody breaks off.
type tornBody struct{ io.Reader }

func (b tornBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = errors.New("torn")
	}
	return n, err
}

func (tornBody) Close() error { return nil }

// TestMemoryIsGivenBack: however a copy ends, what it took of MaxBytes is there for others.
func TestMemoryIsGivenBack(t *testing.T) {
	big := strings.Repeat("x", 3000)
	writing := func(then func(r *http.Request)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"a":`)
			_, _ = io.WriteString(w, `"`+big[:2000]+`"}`)
			then(r)
		})
	}
	primary := writing(func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	for _, tt := range []struct {
		name      string
		candidate http.Handler
		transport http.RoundTripper
		change    func(cfg *versioning.ShadowConfig)
		want      string
	}{
		{"match", writing(func(*http.Request) {}), nil, nil, "match"},
		{"differ", jsonText(`{"a":"` + big[:1500] + `"}`), nil, nil, "differ"},
		{"panic", writing(func(*http.Request) { panic("x") }), nil, nil, "panic"},
		{"timeout", writing(func(r *http.Request) { <-r.Context().Done() }), nil, nil, "timeout"},
		{"large answer", constant(200, "", big+big), nil, nil, "too_large"},
		{"torn answer", nil, tripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: tornBody{strings.NewReader(big)}}, nil
		}), nil, "failure"},
		{"no room for the answer", writing(func(*http.Request) {}), nil,
			func(cfg *versioning.ShadowConfig) { cfg.MaxBytes = 7000 }, "dropped"},
		{"no room to compare", jsonText(`{"a":"` + big[:1500] + `"}`), nil,
			func(cfg *versioning.ShadowConfig) { cfg.MaxBytes = 40_000 }, "dropped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := shadowOf(tt.candidate)
				cfg.Methods, cfg.MaxBody = []string{"POST"}, 4000
				if tt.transport != nil {
					cfg.Transport, cfg.Target = tt.transport, &url.URL{Scheme: "http", Host: "a"}
				}
				if tt.change != nil {
					tt.change(&cfg)
				}
				s, err := versioning.NewShadow(cfg)
				require.NoError(t, err)
				for i := range 5 {
					r := request("POST", "/")
					r.Body = io.NopCloser(strings.NewReader(big))
					s.Middleware(primary).ServeHTTP(httptest.NewRecorder(), r)
					time.Sleep(time.Minute)
					require.EqualValues(t, i+1, s.Stats().Requests[tt.want], s.Stats())
					require.Zero(t, s.Stats().Bytes)
				}
				require.NoError(t, s.Close(context.Background()))
			})
		})
	}
	// With what is learned, and for copies that are not sent any more.
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		cfg := shadowOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
		cfg.Learn, cfg.Workers, cfg.Queue = 1, 1, 2
		s, err := versioning.NewShadow(cfg)
		require.NoError(t, err)
		for range 5 {
			serve(s.Middleware(primary), request("GET", "/"))
			synctest.Wait()
		}
		require.EqualValues(t, 2, s.Stats().Requests["dropped"])
		require.NotZero(t, s.Stats().Bytes)
		close(hang)
		synctest.Wait()
		require.Zero(t, s.Stats().Bytes)
		require.EqualValues(t, 3, s.Report().Learned)
		require.NoError(t, s.Close(t.Context()))
		serve(s.Middleware(primary), request("GET", "/"))
		require.Zero(t, s.Stats().Bytes)
	})
}

// TestCloseGivesBackWhatWaits: copies that wait for a worker are dropped, and so are those of
// requests that end later.
func TestCloseGivesBackWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := shadowOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}))
		cfg.Workers = 1
		cfg.Observe = func(_ context.Context, e versioning.ShadowEvent) {
			if e.Outcome == versioning.ShadowDropped {
				panic("observer")
			}
		}
		s, err := versioning.NewShadow(cfg)
		require.NoError(t, err)
		goOn := make(chan struct{})
		h := s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-goOn
			}
			_, _ = io.WriteString(w, "x")
		}))
		for range 5 {
			serve(h, request("GET", "/"))
		}
		late := make(chan any)
		go func() {
			defer func() { late <- recover() }()
			serve(h, request("GET", "/slow"))
		}()
		synctest.Wait()
		require.Equal(t, 4, s.Stats().Queue)
		require.NoError(t, s.Close(t.Context()))
		require.Zero(t, s.Stats().Queue)
		require.EqualValues(t, 4, s.Stats().Requests["dropped"])
		close(goOn)
		require.Equal(t, "observer", <-late, "on the request's goroutine it is the caller's")
		require.Zero(t, s.Stats().Bytes)
		require.Zero(t, s.Stats().Workers)
	})
}

// TestABodyThatIsReadLater: a transport may read on when the handler has returned. That is not
// copied.
func TestABodyThatIsReadLater(t *testing.T) {
	cfg := shadowOf(telling)
	cfg.Methods = []string{"POST"}
	s := newShadow(t, cfg)
	var kept io.ReadCloser
	h := s.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { kept = r.Body }))
	r := request("POST", "/")
	r.Body, r.ContentLength = &lateEOF{"the body"}, 8
	h.ServeHTTP(httptest.NewRecorder(), r)
	text, err := io.ReadAll(kept)
	require.NoError(t, err)
	require.Equal(t, "the body", string(text))
	require.Equal(t, map[string]uint64{"partial": 1}, idle(t, s))
}

// TestTunnelsAreNotCopied, not even if their method is named.
func TestTunnelsAreNotCopied(t *testing.T) {
	cfg := shadowOf(telling)
	cfg.Methods = []string{"CONNECT"}
	s := newShadow(t, cfg)
	serve(s.Middleware(telling), request("CONNECT", "/"))
	require.Equal(t, map[string]uint64{"upgrade": 1}, idle(t, s))
}

// TestMemoryIsGivenBackWhateverHooksAndHandlersDo: Show may panic, and a handler may end its
// goroutine, as those of tests do.
func TestMemoryIsGivenBackWhateverHooksAndHandlersDo(t *testing.T) {
	ends := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"a":2}`)
		runtime.Goexit()
	})
	panics := func(string) bool { panic("show") }
	for name, set := range map[string]func(cfg *versioning.ShadowConfig){
		"Show panics":           func(cfg *versioning.ShadowConfig) { cfg.Show = panics },
		"Show panics, learning": func(cfg *versioning.ShadowConfig) { cfg.Show, cfg.Learn = panics, 1 },
		"Goexit":                func(cfg *versioning.ShadowConfig) { cfg.Candidate = ends },
		"Goexit, learning":      func(cfg *versioning.ShadowConfig) { cfg.Candidate, cfg.Learn = ends, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := shadowOf(jsonText(`{"a":1}`))
			set(&cfg)
			s := newShadow(t, cfg)
			var n atomic.Int64
			h := s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				jsonText(fmt.Sprintf(`{"a":%d}`, 10+n.Add(1))).ServeHTTP(w, r)
			}))
			for range 20 {
				serve(h, request("GET", "/"))
			}
			require.Equal(t, map[string]uint64{"panic": 20}, idle(t, s))
		})
	}
}
