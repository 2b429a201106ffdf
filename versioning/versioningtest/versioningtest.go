// Package versioningtest tests a chain of changes with recorded requests and responses:
//
//	func TestVersions(t *testing.T) {
//		versioningtest.Run(t, versions, os.DirFS("testdata"), "*.json")
//	}
//
// Each file is a [Fixture]: what a client of an old version sends and gets, and what the handler,
// which speaks the head version, gets and answers. [Run] sends the client's request through
// [versioning.Versions.Middleware] to a handler that compares and answers as recorded. So what an
// old client got on the day of the recording it must get for ever, whatever changes come later.
package versioningtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/trivet-go/trivet/versioning"
	"github.com/trivet-go/trivet/versioning/internal/trace"
)

// A Fixture is one exchange with a client of an old version.
type Fixture struct {
	// Client is what the client sends. Its header or URL names the version, as Config.Sources has
	// it.
	Client Message `json:"client"`

	// Handler is what the handler gets. Fields that are not in its header are not compared.
	Handler Message `json:"handler"`

	// Answer is what the handler answers.
	Answer Message `json:"answer"`

	// Result is what the client gets. Fields that are not in its header are not compared.
	Result Message `json:"result"`

	// WriteBack, if not nil, is a request without a body in which the client then sends back what
	// it got. The handler must get what it answered: a client that changes nothing loses nothing.
	WriteBack *Message `json:"write_back,omitempty"`
}

// A Message is a request or a response.
type Message struct {
	Method string            `json:"method,omitempty"` // of a request; empty means GET
	URL    string            `json:"url,omitempty"`    // of a request: path and query
	Status int               `json:"status,omitempty"` // of a response; zero means 200
	Header map[string]string `json:"header,omitempty"` // an empty value: the field must be missing
	Body   json.RawMessage   `json:"body,omitempty"`   // as JSON; members may be in any order
	Text   string            `json:"text,omitempty"`   // a body that is not JSON, such as a stream
}

// content returns the body and its default type.
func (m *Message) content() (body []byte, media string) {
	if len(m.Body) > 0 {
		return m.Body, "application/json"
	}
	return []byte(m.Text), ""
}

// fill sets the fields of m in h.
func (m *Message) fill(h http.Header) {
	body, media := m.content()
	if media != "" && len(body) > 0 {
		h.Set("Content-Type", media)
	}
	for name, value := range m.Header {
		h.Set(name, value)
	}
}

// compare returns what differs from m, or "".
func (m *Message) compare(h http.Header, body []byte) string {
	for _, name := range sorted(m.Header) {
		if got := h.Get(name); got != m.Header[name] {
			return fmt.Sprintf("%s is %q, not %q", name, got, m.Header[name])
		}
	}
	want, media := m.content()
	if media == "" {
		if string(want) != string(body) {
			return fmt.Sprintf("the body is %q, not %q", body, want)
		}
		return ""
	}
	a, err := normal(body)
	if err != nil {
		return fmt.Sprintf("the body %q is no JSON: %v", body, err)
	}
	b, err := normal(want)
	if err != nil {
		return fmt.Sprintf("the recorded body is no JSON: %v", err)
	}
	if a != b {
		return fmt.Sprintf("the body is\n%s\nnot\n%s", a, b)
	}
	return ""
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// normal returns text with its members sorted and its numbers as they are written.
func normal(text []byte) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", err
	}
	if _, err := dec.Token(); err != io.EOF {
		return "", fmt.Errorf("something follows the value")
	}
	out, err := json.MarshalIndent(v, "", "  ")
	return string(out), err
}

// Run runs each fixture in the files of fsys that match pattern, a glob, as a test of its own. It
// fails if there are none, and if there is a change, except for those with a Schema alone, that no
// fixture runs.
func Run(t *testing.T, v *versioning.Versions, fsys fs.FS, pattern string) {
	t.Helper()
	files, err := fs.Glob(fsys, pattern)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("versioningtest: no file matches %q", pattern)
	}
	ran := map[string]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(path.Base(file), path.Ext(file)), func(t *testing.T) {
			text, err := fs.ReadFile(fsys, file)
			if err != nil {
				t.Fatal(err)
			}
			dec := json.NewDecoder(bytes.NewReader(text))
			dec.DisallowUnknownFields()
			var f Fixture
			if err := dec.Decode(&f); err != nil {
				t.Fatalf("versioningtest: %s: %v", file, err)
			}
			for _, fault := range f.Check(v, func(change string) { ran[change] = true }) {
				t.Errorf("versioningtest: %s: %s", file, fault)
			}
		})
	}
	for _, name := range Unused(v, ran) {
		t.Errorf("versioningtest: no fixture runs the change %q", name)
	}
}

// Unused returns the names of the changes that are not in ran, those with a Schema alone excepted.
func Unused(v *versioning.Versions, ran map[string]bool) []string {
	var unused []string
	for _, c := range v.Changes() {
		converts := c.Request != nil || c.Response != nil || c.RequestBody.Converts() ||
			c.ResponseBody.Converts()
		if converts && !ran[c.Name] {
			unused = append(unused, c.Name)
		}
	}
	return unused
}

// Check runs f through v and returns what is not as recorded. ran, if not nil, is called with the
// name of each change that runs.
func (f *Fixture) Check(v *versioning.Versions, ran func(change string)) (faults []string) {
	called := false
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called = true
		body, err := io.ReadAll(r.Body)
		if err != nil {
			faults = append(faults, "the handler's request: "+err.Error())
		}
		if fault := f.Handler.compare(r.Header, body); fault != "" {
			faults = append(faults, "the handler's request: "+fault)
		}
		if got := r.URL.RequestURI(); f.Handler.URL != "" && got != f.Handler.URL {
			faults = append(faults, fmt.Sprintf("the handler's request: the URL is %s, not %s", got,
				f.Handler.URL))
		}
		if f.Handler.Method != "" && r.Method != f.Handler.Method {
			faults = append(faults, fmt.Sprintf("the handler's request: it is %s, not %s", r.Method,
				f.Handler.Method))
		}
		f.Answer.fill(w.Header())
		w.WriteHeader(status(f.Answer.Status))
		answer, _ := f.Answer.content()
		_, _ = w.Write(answer)
	}))
	body, _ := f.Client.content()
	method := f.Client.Method
	if method == "" {
		method = http.MethodGet
	}
	r := httptest.NewRequest(method, f.Client.URL, bytes.NewReader(body))
	if len(body) == 0 {
		r.Body = http.NoBody
	}
	f.Client.fill(r.Header)
	if ran != nil {
		r = r.WithContext(trace.With(r.Context(), ran))
	}
	w := httptest.NewRecorder()
	if brokeOff(h, w, r) {
		return append(faults, "the client's response: it broke off, since its stream could not be converted")
	}
	if !called {
		faults = append(faults, fmt.Sprintf("the request was refused: %d %s", w.Code, w.Body))
		return faults
	}
	if w.Code != status(f.Result.Status) {
		faults = append(faults, fmt.Sprintf("the client's response: the status is %d, not %d", w.Code,
			status(f.Result.Status)))
	}
	if fault := f.Result.compare(w.Result().Header, w.Body.Bytes()); fault != "" {
		faults = append(faults, "the client's response: "+fault)
	}
	if f.WriteBack != nil {
		faults = append(faults, f.writeBack(v, w.Body.Bytes(), ran)...)
	}
	return faults
}

// brokeOff lets h answer r and reports whether it broke off, as net/http has it.
func brokeOff(h http.Handler, w http.ResponseWriter, r *http.Request) (broke bool) {
	defer func() {
		if v := recover(); v == http.ErrAbortHandler {
			broke = true
		} else if v != nil {
			panic(v)
		}
	}()
	h.ServeHTTP(w, r)
	return false
}

// writeBack sends got back, which the client got.
func (f *Fixture) writeBack(v *versioning.Versions, got []byte, ran func(string)) []string {
	back := Fixture{Client: *f.WriteBack, Handler: Message{Body: f.Answer.Body, Text: f.Answer.Text}}
	back.Client.Body = got
	if back.Client.Method == "" {
		back.Client.Method = http.MethodPut
	}
	var faults []string
	for _, fault := range back.Check(v, ran) {
		faults = append(faults, "what the client got, sent back: "+fault)
	}
	return faults
}

func status(code int) int {
	if code == 0 {
		return http.StatusOK
	}
	return code
}
