package versioning_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// constant is a handler that answers with a text.
func constant(status int, contentType, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func jsonText(body string) http.Handler { return constant(200, "application/json", body) }

// shadowOf returns a valid configuration that learns nothing.
func shadowOf(candidate http.Handler) versioning.ShadowConfig {
	return versioning.ShadowConfig{
		Name: "shop", Candidate: candidate, Credentials: versioning.CredentialsStrip, Learn: -1,
	}
}

func newShadow(t testing.TB, cfg versioning.ShadowConfig) *versioning.Shadow {
	t.Helper()
	s, err := versioning.NewShadow(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

// idle waits until all copies are compared, and returns the outcomes that are not zero.
func idle(t testing.TB, s *versioning.Shadow) map[string]uint64 {
	t.Helper()
	done := func() bool {
		st := s.Stats()
		return st.Queue == 0 && st.Workers == 0
	}
	require.Eventually(t, done, 30*time.Second, time.Millisecond)
	require.Zero(t, s.Stats().Bytes, "all memory has been given back")
	outcomes := map[string]uint64{}
	for outcome, n := range s.Stats().Requests {
		if n > 0 {
			outcomes[outcome] = n
		}
	}
	return outcomes
}

func TestShadowFaultsAreNamed(t *testing.T) {
	_, err := versioning.NewShadow(versioning.ShadowConfig{
		Transport: http.DefaultTransport, Sample: -1, MaxBody: -1, MaxBytes: -1, Workers: -1, Queue: -1,
		Timeout: -1, Fields: []string{"a:"}, SecretFields: []string{" "}, Learn: 2, MaxPaths: -1,
	})
	for _, want := range []string{
		`Name: "" is not`, "Target: a scheme", "Credentials: is required", "Sample: -1 is negative",
		"MaxBody: -1 is", "MaxBytes: -1 is", "Workers: -1 is", "Queue: -1 is", "Timeout: -1ns is",
		`Fields: "a:" is not`, `SecretFields: " " is not`, "Learn: 2 is more", "MaxPaths: -1 is",
	} {
		require.ErrorContains(t, err, "versioning: ShadowConfig."+want)
	}
	_, err = versioning.NewShadow(versioning.ShadowConfig{})
	require.ErrorContains(t, err, "versioning: ShadowConfig.Candidate: or Transport is required")
	s := newShadow(t, shadowOf(telling))
	require.PanicsWithValue(t, "versioning: nil handler", func() { s.Middleware(nil) })
}

// TestWhatTheCandidateGets: the request as it came, whatever the handler in use did to it, marked,
// and without credentials unless they shall be sent.
func TestWhatTheCandidateGets(t *testing.T) {
	for _, credentials := range []versioning.Credentials{
		versioning.CredentialsStrip, versioning.CredentialsSend,
	} {
		var got *http.Request
		var body string
		cfg := shadowOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			got, body = r, string(b)
		}))
		cfg.Methods, cfg.Credentials = []string{"POST"}, credentials
		cfg.SecretFields = []string{"x-api-key"}
		s := newShadow(t, cfg)
		mux := http.NewServeMux()
		mux.HandleFunc("POST /users/{id}", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			r.Header.Set("Accept", "changed")
			r.Header.Del("User")
			r.URL.Path = "/changed"
		})
		r := request("POST", "http://shop.test/users/1?a=b", "Accept", "text/plain", "User", "a",
			"Authorization", "x", "Cookie", "x", "Idempotency-Key", "x", "Proxy-Authorization", "x",
			"X-Api-Key", "x")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("the body")), 8
		h := s.Middleware(mux)
		h.ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, "POST /users/{id}", r.Pattern)
		idle(t, s)
		require.Equal(t, "the body", body)
		require.EqualValues(t, 8, got.ContentLength)
		require.Equal(t, "/users/1?a=b", got.URL.RequestURI())
		require.Equal(t, "/users/1?a=b", got.RequestURI)
		require.Equal(t, "shop.test", got.Host)
		want := http.Header{"Accept": {"text/plain"}, "User": {"a"}, "Trivet-Shadow": {"1"}}
		if credentials == versioning.CredentialsSend {
			for _, name := range []string{
				"Authorization", "Cookie", "Idempotency-Key", "Proxy-Authorization", "X-Api-Key",
			} {
				want[name] = []string{"x"}
			}
		}
		require.Equal(t, want, got.Header)
	}
}

func TestWhatIsNotCopied(t *testing.T) {
	big := strings.Repeat("x", 2000)
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, body)
		}
	}
	post := func(body string, length int64) *http.Request {
		r := request("POST", "/")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), length
		return r
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		r    *http.Request
		h    http.HandlerFunc
		want versioning.ShadowOutcome
	}{
		{"another method", request("PUT", "/"), answer(""), versioning.ShadowMethod},
		{"an upgrade", request("GET", "/", "Upgrade", "websocket"), answer(""), versioning.ShadowUpgrade},
		{"a large body", post(big, 2000), answer(""), versioning.ShadowTooLarge},
		{"a large body of unknown length", post(big, -1), answer(""), versioning.ShadowTooLarge},
		{"a large answer", request("GET", "/"), answer(big), versioning.ShadowTooLarge},
		{"a large file", request("GET", "/"), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, strings.NewReader(big))
		}, versioning.ShadowTooLarge},
		{"an unread body", post("abc", 3), func(http.ResponseWriter, *http.Request) {},
			versioning.ShadowPartial},
		{"a stream", request("GET", "/"), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "Text/Event-Stream; charset=utf-8")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "data: x\n\n")
		}, versioning.ShadowStream},
		{"a panic", request("GET", "/"), func(http.ResponseWriter, *http.Request) { panic("x") },
			versioning.ShadowPanic},
		{"a client that has left", request("GET", "/").WithContext(gone), answer(""),
			versioning.ShadowCanceled},
		{"a copy", request("GET", "/", "Trivet-Shadow", "1"), answer(""), ""},
		{"a skipped one", request("GET", "/skip"), answer(""), ""},
		{"all that fits", post("abc", -1), answer(big[:1000]), versioning.ShadowDiffer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sent atomic.Int64
			var events []versioning.ShadowEvent
			var mu sync.Mutex
			cfg := shadowOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent.Add(1) }))
			cfg.MaxBody, cfg.Methods = 1000, []string{"POST"}
			cfg.Skip = func(r *http.Request) bool { return r.URL.Path == "/skip" }
			cfg.Observe = func(_ context.Context, e versioning.ShadowEvent) {
				mu.Lock()
				defer mu.Unlock()
				events = append(events, e)
			}
			s := newShadow(t, cfg)
			w := httptest.NewRecorder()
			func() {
				defer func() { _ = recover() }()
				s.Middleware(tt.h).ServeHTTP(w, tt.r)
			}()
			outcomes := idle(t, s)
			if tt.want == "" {
				require.Empty(t, outcomes)
				return
			}
			require.Equal(t, map[string]uint64{string(tt.want): 1}, outcomes)
			require.Equal(t, []versioning.ShadowEvent{{Shadow: "shop", Outcome: tt.want}}, events)
			require.Equal(t, tt.want == versioning.ShadowDiffer, sent.Load() == 1)
			if strings.Contains(tt.name, "large answer") || strings.Contains(tt.name, "large file") {
				require.Equal(t, big, w.Body.String())
			}
		})
	}
}

func TestDifferencesByPath(t *testing.T) {
	for _, tt := range []struct {
		name, a, b string
		want       []string
	}{
		{"none", `{"a":1,"b":[1,2]}`, ` {"b":[1.0,2],"a":1}`, nil},
		{"a value", `{"a":{"b":1}}`, `{"a":{"b":2}}`, []string{"a.b"}},
		{"large integers", `[9007199254740993]`, `[9007199254740992]`, []string{"[]"}},
		{"a type", `{"a":"1"}`, `{"a":1}`, []string{"a"}},
		{"missing and new members", `{"a":null}`, `{"b":1}`, []string{"a", "b"}},
		{"elements", `{"l":[{"p":1},{"p":2}]}`, `{"l":[{"p":1},{"p":3}]}`, []string{"l[].p"}},
		{"length", `{"l":[1,2]}`, `{"l":[1]}`, []string{"l[]"}},
		{"the whole", `[1]`, `{}`, []string{"body"}},
		{"ignored", `{"id":{"x":1}}`, `{"id":{"x":2}}`, nil},
		{"no JSON", `a`, `b`, []string{"body"}},
		{"two JSON values", `1 2`, `1 3`, []string{"body"}},
		{"booleans and null", `[true,false,null]`, `[true,false,null ]`, nil},
		{"a deep one", strings.Repeat(`{"aaaaaaaaaa":`, 60) + "1" + strings.Repeat("}", 60),
			strings.Repeat(`{"aaaaaaaaaa":`, 60) + "2" + strings.Repeat("}", 60),
			[]string{strings.Repeat("aaaaaaaaaa.", 18) + "aa"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := shadowOf(jsonText(tt.b))
			cfg.Ignore = []string{"id"}
			s := newShadow(t, cfg)
			serve(s.Middleware(jsonText(tt.a)), request("GET", "/"))
			idle(t, s)
			r := s.Report()
			var paths []string
			for _, p := range r.Paths {
				require.EqualValues(t, 1, p.Differs)
				paths = append(paths, p.Path)
			}
			require.Equal(t, tt.want, paths)
			require.EqualValues(t, 1, r.Compared)
			require.EqualValues(t, min(len(tt.want), 1), r.Differing)
		})
	}
	cfg := shadowOf(constant(500, "text/plain", "{}"))
	cfg.Fields = []string{"content-type", "Etag"}
	s := newShadow(t, cfg)
	serve(s.Middleware(jsonText("{}")), request("GET", "/"))
	serve(s.Middleware(constant(500, "text/plain", "other")), request("HEAD", "/"))
	idle(t, s)
	paths := s.Report().Paths
	require.Len(t, paths, 2)
	require.Equal(t, "field Content-Type", paths[0].Path)
	require.Equal(t, "status", paths[1].Path)
}

// TestV19_ValuesAreRedacted: what clients were answered is nobody's to read in a report.
func TestV19_ValuesAreRedacted(t *testing.T) {
	cfg := shadowOf(jsonText(`{"name":"Grace","n":2,"shown":"b","l":[1],"o":{},"t":false}`))
	cfg.Show = func(path string) bool { return path == "shown" }
	s := newShadow(t, cfg)
	for _, body := range []string{
		`{"name":"secret","n":2,"shown":"b","l":[1],"o":{},"t":false}`,
		`{"name":"Grace","n":77,"shown":"b","l":[1],"o":{},"t":false}`,
		`{"name":"Grace","n":2,"shown":"a","l":[1],"o":{},"t":false}`,
		`{"name":"Grace","n":2,"shown":"b","l":77,"o":{},"t":false}`,
		`{"name":"Grace","n":2,"shown":"b","l":[1],"o":[77],"t":false}`,
		`{"name":"Grace","n":2,"shown":"b","l":[1],"o":{},"t":true}`,
		`secret 77`,
	} {
		serve(s.Middleware(jsonText(body)), request("GET", "/?secret=77"))
		idle(t, s)
	}
	text := fmt.Sprintf("%+v", s.Report().Samples)
	require.NotContains(t, text, "secret")
	require.NotContains(t, text, "77")
	require.NotContains(t, text, "Grace")
	for _, want := range []string{
		"Primary:string of 6 bytes Candidate:string of 5 bytes", "Path:n Method:GET Route: Primary:number",
		"Path:shown Method:GET Route: Primary:a Candidate:b", "Primary:number Candidate:array of 1",
		"Primary:array of 1 Candidate:object of 0", "Primary:boolean Candidate:boolean",
	} {
		require.Contains(t, text, want)
	}
}

// TestNoiseIsLearned: what differs between two answers of the handler in use does not count, and
// what differs more often does.
func TestNoiseIsLearned(t *testing.T) {
	var n atomic.Int64
	answer := func(price int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			i := n.Add(1)
			fmt.Fprintf(w, `{"time":%d,"rare":%v,"price":%d}`, i, i%10 == 0, price)
		})
	}
	cfg := shadowOf(answer(2))
	cfg.Learn = 1
	s := newShadow(t, cfg)
	for range 100 {
		serve(s.Middleware(answer(1)), request("GET", "/"))
		idle(t, s)
	}
	r := s.Report()
	require.EqualValues(t, 100, r.Compared)
	require.EqualValues(t, 100, r.Learned)
	require.InDelta(t, 80, r.Judged, 1, "not before enough is known")
	require.Equal(t, r.Judged, r.Differing)
	require.Equal(t, "price", r.Paths[0].Path)
	require.False(t, r.Paths[0].Noisy)
	for _, p := range r.Paths[1:] {
		require.True(t, p.Noisy, "%+v", p)
	}
	for _, d := range r.Samples {
		require.Equal(t, "price", d.Path)
	}

	same := newShadow(t, func() versioning.ShadowConfig {
		cfg := shadowOf(answer(1))
		cfg.Learn = 1
		return cfg
	}())
	judge := same.Judge(0.05, 50, versioning.RejectRelease)
	d, why := judge()
	require.Equal(t, versioning.Hold, d)
	require.Equal(t, "0 of 50 answers are compared", why)
	for range 100 {
		serve(same.Middleware(answer(1)), request("GET", "/"))
		idle(t, same)
	}
	d, _ = judge()
	require.Equal(t, versioning.Advance, d)
	d, why = s.Judge(0.05, 50, versioning.RejectRelease)()
	require.Equal(t, versioning.RejectRelease, d)
	require.Contains(t, why, "answers differ, more than 5 %")

	// Nothing but safe requests is repeated to learn.
	var posts atomic.Int64
	cfg = shadowOf(telling)
	cfg.Learn, cfg.Methods = 1, []string{"POST"}
	s = newShadow(t, cfg)
	h := s.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { posts.Add(1) }))
	for range 10 {
		serve(h, request("POST", "/"))
	}
	idle(t, s)
	require.EqualValues(t, 10, posts.Load())
}

// TestV20_ACandidateThatHangsDelaysNobody: in virtual time requests take what they take without a
// shadow, memory stays within its bound, and what finds no room is dropped.
func TestV20_ACandidateThatHangsDelaysNobody(t *testing.T) {
	times := func(t *testing.T, wrap func(http.Handler) http.Handler) (list []time.Duration) {
		h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(7 * time.Millisecond)
			for range 3 {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
				time.Sleep(time.Millisecond)
			}
		}))
		for range 500 {
			begun := time.Now()
			r := request("POST", "/")
			r.Body = io.NopCloser(&slowReader{n: 10})
			h.ServeHTTP(httptest.NewRecorder(), r)
			list = append(list, time.Since(begun))
		}
		return list
	}
	synctest.Test(t, func(t *testing.T) {
		forever := make(chan struct{})
		cfg := shadowOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-forever }))
		cfg.Methods, cfg.MaxBytes = []string{"POST"}, 200_000
		s := newShadow(t, cfg)
		most := 0
		want := times(t, func(h http.Handler) http.Handler { return h })
		got := times(t, func(h http.Handler) http.Handler {
			h = s.Middleware(h)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r)
				most = max(most, s.Stats().Bytes)
			})
		})
		require.Equal(t, want, got)
		require.Equal(t, 20*time.Millisecond, got[0])
		st := s.Stats()
		require.Equal(t, 4, st.Workers)
		require.Greater(t, st.Requests["dropped"], uint64(400))
		require.LessOrEqual(t, most, 200_000)
		require.Greater(t, most, 100_000)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, s.Close(ctx), context.DeadlineExceeded)
		close(forever)
	})
}

// A slowReader has n bytes, one in each millisecond.
type slowReader struct{ n int }

func (r *slowReader) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Millisecond)
	r.n--
	p[0] = 'x'
	return 1, nil
}

func TestCandidatesThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := shadowOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/panic" {
				panic("x")
			}
			<-r.Context().Done()
		}))
		s, err := versioning.NewShadow(cfg)
		require.NoError(t, err)
		h := s.Middleware(telling)
		serve(h, request("GET", "/panic"))
		serve(h, request("GET", "/slow"))
		time.Sleep(9 * time.Second)
		require.Equal(t, 1, s.Stats().Workers)
		time.Sleep(2 * time.Second)
		require.Zero(t, s.Stats().Workers)
		require.EqualValues(t, 1, s.Stats().Requests["timeout"])
		require.EqualValues(t, 1, s.Stats().Requests["panic"])
		serve(h, request("GET", "/slow"))
		synctest.Wait()
		require.NoError(t, s.Close(t.Context()), "it ends what goes on")
		serve(h, request("GET", "/slow"))
		require.Zero(t, s.Stats().Bytes)
		require.Zero(t, s.Stats().Queue)
	})
	// An observer that panics ends no process.
	cfg := shadowOf(telling)
	cfg.Observe = func(context.Context, versioning.ShadowEvent) { panic("observer") }
	s := newShadow(t, cfg)
	serve(s.Middleware(telling), request("GET", "/"))
	require.Equal(t, map[string]uint64{"match": 1}, idle(t, s))
	require.EqualValues(t, 1, s.Stats().Panics)
}

func TestShadowOverATransport(t *testing.T) {
	var got *http.Request
	fails := false
	cfg := shadowOf(nil)
	cfg.Target = &url.URL{Scheme: "http", Host: "candidate:8080"}
	cfg.Transport = tripper(func(r *http.Request) (*http.Response, error) {
		got = r
		if fails {
			return nil, errors.New("refused")
		}
		return &http.Response{
			StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(`{"a":1}`)),
		}, nil
	})
	s := newShadow(t, cfg)
	h := s.Middleware(jsonText(`{"a":1}`))
	serve(h, request("GET", "http://shop.test/a%2Fb?c", "Connection", "x", "Te", "y"))
	require.Equal(t, map[string]uint64{"match": 1}, idle(t, s))
	require.Equal(t, "http://candidate:8080/a%2Fb?c", got.URL.String())
	require.Equal(t, "shop.test", got.Host)
	require.Empty(t, got.RequestURI)
	require.Nil(t, got.Body)
	require.Equal(t, http.Header{"Trivet-Shadow": {"1"}}, got.Header)
	fails = true
	serve(h, request("GET", "/"))
	require.Equal(t, map[string]uint64{"match": 1, "failure": 1}, idle(t, s))

	// A real one, which reads no more than it compares.
	srv := server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
	}))
	cfg.Transport = srv.Client().Transport
	cfg.Target, _ = url.Parse(srv.URL)
	s = newShadow(t, cfg)
	serve(s.Middleware(telling), request("GET", "/"))
	require.Equal(t, map[string]uint64{"too_large": 1}, idle(t, s))
}

// TestPathsAreBounded: members whose names are keys make up any number of paths.
func TestPathsAreBounded(t *testing.T) {
	var n atomic.Int64
	cfg := shadowOf(jsonText(`{}`))
	cfg.MaxPaths = 50
	s := newShadow(t, cfg)
	h := s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var b strings.Builder
		for range 120 {
			fmt.Fprintf(&b, `"%d":1,`, n.Add(1))
		}
		fmt.Fprintf(w, `{%s"x":1}`, b.String())
	}))
	for range 20 {
		serve(h, request("GET", "/"))
	}
	idle(t, s)
	paths := s.Report().Paths
	require.LessOrEqual(t, len(paths), 51)
	require.Equal(t, "(other paths)", paths[0].Path)
}

func TestShadowLatencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(d time.Duration) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(d)
				w.WriteHeader(200)
				time.Sleep(time.Second)
			})
		}
		s, err := versioning.NewShadow(shadowOf(slow(300 * time.Millisecond)))
		require.NoError(t, err)
		for range 20 {
			serve(s.Middleware(slow(100*time.Millisecond)), request("GET", "/"))
		}
		time.Sleep(time.Minute)
		r := s.Report()
		require.InEpsilon(t, 100*time.Millisecond, r.Primary.P95, 0.02)
		require.InEpsilon(t, 300*time.Millisecond, r.Candidate.P50, 0.02)
		require.NoError(t, s.Close(t.Context()))
	})
}
