package versioning_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// rename returns a change that renames a member of bodies in both directions.
func rename(version, old, current string) versioning.Change {
	return versioning.Change{
		Version: version, Name: old + "-to-" + current,
		RequestBody: versioning.JSON(func(o *versioning.Object) error {
			o.Rename(old,
				current)
			return nil
		}),
		ResponseBody: versioning.JSON(func(o *versioning.Object) error {
			o.Rename(current,
				old)
			return nil
		}),
	}
}

// chained returns Versions 1 to n+1 with one change each, which are given without their Version.
func chained(t testing.TB, cfg versioning.Config, changes ...versioning.Change) *versioning.Versions {
	t.Helper()
	cfg.Versions = named("1")
	for i := range changes {
		cfg.Versions = append(cfg.Versions, versioning.Version{Name: fmt.Sprint(i + 2)})
		changes[i].Version = fmt.Sprint(i + 2)
	}
	cfg.Sources = []versioning.Source{versioning.Path("/v"), versioning.Header("V")}
	cfg.Changes = append(cfg.Changes, changes...)
	return newVersions(t, cfg)
}

func post(target, body string, fields ...string) *http.Request {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return r
}

// answering answers with a body.
func answering(contentType, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	})
}

// echoing answers with the request's body.
var echoing = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	w.Header().Set("X-Got", string(bytes.TrimSpace(body)))
	w.Header().Set("X-Length", fmt.Sprint(r.ContentLength, " ", r.Header.Get("Content-Length")))
	_, _ = w.Write(body)
})

func TestRequestsGoUpAndResponsesDown(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"), rename("", "b", "c"), rename("", "c", "d"))
	h := v.Middleware(echoing)
	for version, name := range map[int]string{1: "a", 2: "b", 3: "c", 4: "d"} {
		body := fmt.Sprintf(`{"x":1.0,%q:2}`+"\n", name)
		w := serve(h, post("/", body, "V", fmt.Sprint(version), "Content-Digest", "x"))
		require.Equal(t, body, w.Body.String())
		require.Equal(t, `{"x":1.0,"d":2}`, w.Header().Get("X-Got"))
		if version != 4 {
			require.Equal(t, "16 16", w.Header().Get("X-Length"))
			require.Equal(t, []string{"16"}, w.Header()["Content-Length"])
		}
	}
	require.Equal(t, map[string]uint64{"1": 1, "2": 1, "3": 1, "4": 0}, v.Stats().Converted)
}

// A body that becomes longer or shorter has the length that it has then.
func TestLengthOfConvertedRequests(t *testing.T) {
	h := chained(t, versioning.Config{}, rename("", "a", "much_longer")).Middleware(echoing)
	w := serve(h, post("/v1/", `{"a":1}`))
	require.Equal(t, `{"much_longer":1}`, w.Header().Get("X-Got"))
	require.Equal(t, "17 17", w.Header().Get("X-Length"))
	require.Equal(t, []string{"7"}, w.Header()["Content-Length"])
}

// Changes of one version are undone in the reverse order, and the header, the URL and the status
// are converted too.
func TestOrderHeaderAndURL(t *testing.T) {
	var order []string
	step := func(name string) versioning.Change {
		return versioning.Change{
			Version: "2", Name: name,
			Request: func(r *http.Request) error {
				order = append(order, "up "+name)
				r.Header.Add("X-Up", name)
				r.URL.RawQuery += "&" + name
				return nil
			},
			Response: func(r *versioning.Response) error {
				order = append(order, "down "+name)
				r.Header.Add("X-Down", name)
				r.Status++
				require.Equal(t, "/users", r.Request.URL.Path)
				return nil
			},
		}
	}
	moved := versioning.Change{
		Version: "2", Name: "moved", Routes: []string{"GET /people"},
		Request: func(r *http.Request) error { r.URL.Path = "/users"; return nil },
	}
	late := step("late")
	late.Version, late.Routes = "3", []string{"GET /users"} // as the path is by then
	other := step("other")
	other.Routes = []string{"POST /people", "GET /{$}"}
	v := newVersions(t, versioning.Config{
		Versions: named("1", "2", "3"), Sources: []versioning.Source{versioning.Path("/v")},
		Changes: []versioning.Change{late, moved, step("one"), step("two"), other},
	})
	var got *http.Request
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.WriteHeader(200)
	}))
	r := request("GET", "/v1/people?q")
	w := serve(h, r)
	require.Equal(t, []string{"up one", "up two", "up late", "down late", "down two", "down one"}, order)
	require.Equal(t, "/users?q&one&two&late", got.URL.String())
	require.Equal(t, []string{"one", "two", "late"}, got.Header["X-Up"])
	require.Equal(t, []string{"late", "two", "one"}, w.Header()["X-Down"])
	require.Equal(t, 203, w.Code)
	require.Empty(t, r.Header["X-Up"], "the request that came in is as it was")
	require.Equal(t, "/v1/people?q", r.URL.String())
}

// A change that looks at headers only never waits: the client has the first byte before the second
// is written.
func TestHeaderChangesNeverBuffer(t *testing.T) {
	v := chained(t, versioning.Config{}, versioning.Change{
		Name: "header",
		Request: func(r *http.Request) error {
			r.Header.Set("X-New", r.Header.Get("X-Old"))
			return nil
		},
		Response: func(r *versioning.Response) error { r.Header.Set("X-Old", "1"); return nil },
	})
	protocols(t, func(t *testing.T, h2 bool) {
		srv := server(t, h2, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// It reads a byte, and answers it, before the next one is sent.
			w.Header().Set("Content-Type", "application/json")
			rc := http.NewResponseController(w)
			if !h2 {
				require.NoError(t, rc.EnableFullDuplex())
			}
			b := make([]byte, 1)
			for {
				if _, err := io.ReadFull(r.Body, b); err != nil {
					return
				}
				_, _ = w.Write(b)
				_ = rc.Flush()
			}
		})))
		body, feed := io.Pipe()
		req, _ := http.NewRequest("POST", srv.URL+"/v1/", body)
		go func() { _, _ = feed.Write([]byte("{")) }()
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, "1", resp.Header.Get("X-Old"))
		b := make([]byte, 1)
		for range 3 {
			_, err = io.ReadFull(resp.Body, b)
			require.NoError(t, err)
			go func() { _, _ = feed.Write([]byte("{")) }()
		}
		require.NoError(t, feed.Close())
	})
}

// However many changes there are, a body is read once: more changes cost what they do themselves.
func TestBodyIsReadOnce(t *testing.T) {
	body := []byte(`{"a":1,"list":[` +
		strings.TrimSuffix(strings.Repeat(`{"k":[{"a":1},{"b":2}],"m":"x"},`, 300), ",") + `]}`)
	touch := func() versioning.Change {
		return versioning.Change{ResponseBody: versioning.JSON(func(o *versioning.Object) error {
			list := o.Array("list")
			for i := range list.Len() {
				children := list.At(i).(*versioning.Object).Array("k")
				for j := range children.Len() {
					children.At(j).(*versioning.Object).Has("a")
				}
			}
			return nil
		})}
	}
	allocs := func(n int) float64 {
		changes := make([]versioning.Change, n)
		for i := range changes {
			changes[i] = touch()
			changes[i].Name = fmt.Sprint("c", i)
		}
		v := chained(t, versioning.Config{}, changes...)
		return testing.AllocsPerRun(20, func() {
			if _, err := v.Down(context.Background(), "1", body); err != nil {
				t.Error(err)
			}
		})
	}
	one, ten := allocs(1), allocs(10)
	require.Less(t, ten, one*1.5)
}

func TestJSONKinds(t *testing.T) {
	type older struct {
		Name string `json:"name"`
	}
	type newer struct {
		First, Last string
	}
	up, down := versioning.Pair(func(o older) (newer, error) {
		first, last, ok := strings.Cut(o.Name, " ")
		if !ok {
			return newer{}, errors.New("no last name")
		}
		return newer{first, last}, nil
	}, func(n newer) (older, error) { return older{n.First + " " + n.Last}, nil })
	v := chained(t, versioning.Config{},
		versioning.Change{Name: "pair", RequestBody: up, ResponseBody: down},
		versioning.Change{
			Name: "envelope",
			RequestBody: versioning.JSONValue(func(v any) (any, error) {
				o := versioning.NewObject()
				o.Set("data", v)
				return o, nil
			}),
			ResponseBody: versioning.JSONValue(func(v any) (any, error) {
				o, _ := v.(*versioning.Object)
				return o.Get("data"), nil
			}),
		})
	w := serve(v.Middleware(echoing), post("/v1/", `{"name":"Ada <Lovelace>","x":1}`))
	require.Equal(t, `{"data":{"First":"Ada","Last":"<Lovelace>"}}`, w.Header().Get("X-Got"))
	require.Equal(t, `{"name":"Ada <Lovelace>"}`, w.Body.String())
	w = serve(v.Middleware(echoing), post("/v1/", `{"name":"Ada"}`))
	require.Equal(t, 400, w.Code)
	require.NotContains(t, w.Body.String(), "last name", "errors of ours are not told")

	// JSON looks into arrays, and leaves scalars alone.
	v = chained(t, versioning.Config{}, rename("", "a", "b"))
	for in, want := range map[string]string{
		`[{"a":1}, 2, [{"a":1}], {"c":1}]`: `[{"b":1},2,[{"a":1}],{"c":1}]`,
		`"\ud800"`:                         `"\ud800"`,
		` 1.00 `:                           `1.00`,
		`null`:                             `null`,
	} {
		require.Equal(t, want, serve(v.Middleware(echoing), post("/v1/", in)).Header().Get("X-Got"))
	}
	none, _ := versioning.Pair[older, newer](nil, nil)
	_, err := versioning.New(versioning.Config{
		Versions: named("1", "2"), Sources: []versioning.Source{versioning.Query("v")},
		Changes: []versioning.Change{{Version: "2", Name: "x", RequestBody: none}},
	})
	require.ErrorContains(t, err, "changes nothing")
}

// Media types decide, whatever the case and parameters.
func TestWhatIsConverted(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	for contentType, converted := range map[string]bool{
		"application/json": true, "Application/JSON; charset=utf-8": true, "application/problem+json": true,
		"application/vnd.x+JSON": true, "text/plain": false, "": false, "application/json-seq": false,
		"application/octet-stream": false, "application/x-www-form-urlencoded": false,
	} {
		w := serve(v.Middleware(answering(contentType, `{"b":1}`)), request("GET", "/v1/"))
		require.Equal(t, converted, w.Body.String() == `{"a":1}`, contentType)
		w = serve(v.Middleware(echoing), post("/v1/", `{"a":1}`, "Content-Type", contentType))
		require.Equal(t, converted, w.Header().Get("X-Got") == `{"b":1}`, contentType)
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, code := range []int{204, 304} {
			h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Length", "7")
				w.WriteHeader(code)
			}))
			w := serve(h, request(method, "/v1/"))
			require.Equal(t, code, w.Code)
			require.Empty(t, w.Header().Get("Content-Length"), "it is that of another body")
		}
	}
	// An empty body is none.
	w := serve(v.Middleware(answering("application/json", "")), request("GET", "/v1/"))
	require.Equal(t, 200, w.Code)
	require.Equal(t, 200, serve(v.Middleware(echoing), post("/v1/", "")).Code)
	// A handler that writes nothing.
	w = serve(v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})),
		request("GET", "/v1/"))
	require.Equal(t, 200, w.Code)
}

func TestErrorBodiesByOption(t *testing.T) {
	plain, both := rename("", "a", "b"), rename("", "b", "c")
	both.Errors = true
	v := chained(t, versioning.Config{}, plain, both)
	for code, want := range map[int]string{200: `{"a":1}`, 302: `{"a":1}`, 400: `{"b":1}`,
		404: `{"b":1}`, 500: `{"b":1}`} {
		h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, `{"c":1}`)
		}))
		w := serve(h, request("GET", "/v1/"))
		require.Equal(t, want, w.Body.String())
		require.Equal(t, code, w.Code)
	}
}

func TestLimitsAndFailures(t *testing.T) {
	var events []versioning.Event
	var errs []error
	bad := versioning.Change{
		Name: "bad", Routes: []string{"/bad"},
		Request: func(r *http.Request) error { return failIf(r.URL.RawQuery == "fail=request") },
		Response: func(r *versioning.Response) error {
			return failIf(r.Request.URL.RawQuery == "fail=response")
		},
		RequestBody: versioning.JSON(func(o *versioning.Object) error {
			return failIf(o.Has("requestBody"))
		}),
		ResponseBody: versioning.JSON(func(o *versioning.Object) error {
			return failIf(o.Has("responseBody"))
		}),
	}
	cfg := versioning.Config{MaxBody: 64, Observe: func(_ context.Context, e versioning.Event) {
		if e.Kind == versioning.Conversion {
			events = append(events, e)
		}
	}}
	refusing := chained(t, cfg, bad)
	cfg.OnError = versioning.Pass
	passing := chained(t, cfg, bad)
	cfg.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		errs = append(errs, err)
		w.WriteHeader(418)
	}
	handling := chained(t, cfg, bad)
	long := `{"x":"` + strings.Repeat("x", 60) + `"}`
	gz := "gzip"
	for _, tt := range []struct {
		name      string
		r         *http.Request
		header    map[string]string
		code      int // of the handler
		want      int // 0: the client's response is whole
		wantPass  int
		direction string
		change    string
	}{
		{name: "fine", r: post("/v1/bad", `{}`)},
		{"request", post("/v1/bad?fail=request", `{}`), nil, 200, 400, 400, "up", "bad"},
		{"request's body", post("/v1/bad", `{"requestBody":1}`), nil, 200, 400, 400, "up", "bad"},
		{"no JSON", post("/v1/bad", `{"a":1}x`), nil, 200, 400, 400, "up", ""},
		{"too large", post("/v1/bad", long), nil, 200, 413, 413, "up", ""},
		{"encoded", post("/v1/bad", "zip", "Content-Encoding", gz), nil, 200, 415, 415, "up", ""},
		{"response", post("/v1/bad?fail=response", `{"a":1}`), nil, 200, 500, 0, "down", "bad"},
		{"response's body", post("/v1/bad", `{"responseBody":1}`), nil, 200, 500, 0, "down", "bad"},
		{"response is no JSON", request("GET", "/v1/bad", "Body", "{"), nil, 200, 500, 0, "down", ""},
		{"response is too large", request("GET", "/v1/bad", "Body", long), nil, 200, 500, 0, "down", ""},
		{"response says that it is too large", request("GET", "/v1/bad", "Body", long),
			map[string]string{"Content-Length": "68"}, 200, 500, 0, "down", ""},
		{"response is encoded", request("GET", "/v1/bad", "Body", "x"),
			map[string]string{"Content-Encoding": gz}, 200, 500, 0, "down", ""},
		{"response is a part", request("GET", "/v1/bad", "Body", `{}`), nil, 206, 500, 0, "down", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method == "GET" {
					body = []byte(r.Header.Get("Body"))
				}
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("X-Handler", "1")
				for name, value := range tt.header {
					w.Header().Set(name, value)
				}
				if tt.code != 0 {
					w.WriteHeader(tt.code)
				}
				for len(body) > 0 {
					n := min(len(body), 40)
					_, _ = w.Write(body[:n])
					body = body[n:]
				}
			})
			fresh := func() *http.Request {
				r := tt.r.Clone(t.Context())
				if tt.r.Method == "POST" {
					b, _ := io.ReadAll(tt.r.Body)
					tt.r.Body = io.NopCloser(bytes.NewReader(b))
					r.Body = io.NopCloser(bytes.NewReader(b))
				}
				return r
			}
			for _, pass := range []bool{false, true} {
				events, errs = nil, nil
				v, want := refusing, tt.want
				if pass {
					v, want = passing, tt.wantPass
				}
				r, before := fresh(), v.Stats().Failures
				w := serve(v.Middleware(handler), r)
				if tt.direction != "" {
					require.Len(t, events, 1)
					require.Equal(t, tt.direction, string(events[0].Direction))
					require.Equal(t, tt.change, events[0].Change)
					require.Error(t, events[0].Err)
					require.EqualValues(t, 1, v.Stats().Failures-before)
				}
				if want == 0 {
					require.Contains(t, []int{200, 206}, w.Code)
					body := r.Header.Get("Body")
					if r.Method == "POST" {
						b, _ := io.ReadAll(tt.r.Body)
						tt.r.Body = io.NopCloser(bytes.NewReader(b))
						body = string(b)
					}
					require.Equal(t, body, w.Body.String())
					require.Equal(t, "1", w.Header().Get("X-Handler"))
					continue
				}
				require.Equal(t, want, w.Code)
				require.Empty(t, readProblem(t, w).Type)
				require.Empty(t, w.Header().Get("X-Handler"), "nothing of the handler's is left")
				require.Empty(t, w.Header().Get("Content-Encoding"))
				if want == 415 {
					require.Equal(t, "identity", w.Header().Get("Accept-Encoding"))
				}
			}
			if tt.direction == "up" {
				require.Equal(t, 418, serve(handling.Middleware(handler), fresh()).Code)
				require.Len(t, errs, 1)
				require.ErrorIs(t, errs[0], versioning.ErrConversion)
				var e *versioning.ConversionError
				require.ErrorAs(t, errs[0], &e)
				require.Equal(t, tt.want, e.Code)
				require.NotEmpty(t, e.Error())
			}
		})
	}
}

func failIf(fail bool) error {
	if fail {
		return errors.New("secret reason")
	}
	return nil
}

// Conversion makes no other value of a body: what changes do not touch reads the same.
func FuzzConversion(f *testing.F) {
	for _, seed := range []string{
		`{"a":1}`, `{"b":[1,2.50,{"a":{"a":null}}],"a":"\ud83d\ude00"}`, ` [ {"a" : 1 } , "x" ] `,
		`{"a":1,"a":2}`, `"`, `{}{}`, "",
		`{"\u0061":1,"":{}}`, strings.Repeat("[", 100) + strings.Repeat("]", 100), "{\"a\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	touch := versioning.JSON(func(o *versioning.Object) error {
		for _, name := range o.Names() {
			if child, ok := o.Get(name).(*versioning.Object); ok {
				child.Len()
			}
			o.Array(name).Len()
		}
		return nil
	})
	v := chained(f, versioning.Config{}, versioning.Change{Name: "touch", ResponseBody: touch})
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := v.Down(t.Context(), "1", body)
		if !json.Valid(body) {
			require.ErrorIs(t, err, versioning.ErrConversion)
			return
		}
		require.NoError(t, err)
		var a, b any
		decode := func(text []byte, v any) {
			dec := json.NewDecoder(bytes.NewReader(text))
			dec.UseNumber()
			require.NoError(t, dec.Decode(v))
		}
		decode(body, &a)
		decode(got, &b)
		require.Equal(t, a, b)
	})
}

// scanner of lines that a test reads one by one.
func nextLine(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	return line
}

// TestR32_ConversionsAreToldWithoutAnEnd: a client that leaves is observed by a context that has
// not ended.
func TestR32_ConversionsAreToldWithoutAnEnd(t *testing.T) {
	var told []error
	cfg := versioning.Config{Observe: func(ctx context.Context, e versioning.Event) {
		if e.Kind == versioning.Conversion {
			told = append(told, ctx.Err())
		}
	}}
	ctx, cancel := context.WithCancel(t.Context())
	v := chained(t, cfg, versioning.Change{
		Name: "bad", Routes: []string{"/bad"},
		Response: func(*versioning.Response) error { return errors.New("no") },
	})
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { cancel() }))
	h.ServeHTTP(httptest.NewRecorder(), post("/v1/bad", "{}").WithContext(ctx))
	require.Equal(t, []error{nil}, told)
}
