package versioning

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

const (
	minLearned   = 20 // answers, before which nobody knows what is noise
	maxSamples   = 20
	maxShown     = 64 // bytes of a value
	maxPath      = 200
	maxFound     = 100 // paths of one comparison
	treeOverhead = 32  // times as much memory as its text a decoded JSON may take
	gzipOverhead = 64 << 10
	otherPaths   = "(other paths)"
)

// A pathCount is how often answers differed at a path.
type pathCount struct {
	differs uint64 // between the handler in use and the candidate
	noise   uint64 // between two answers of the handler in use
}

// differences are what comparisons have found.
type differences struct {
	cfg *ShadowConfig

	mu        sync.Mutex // guards the fields below
	compared  uint64
	learned   uint64
	judged    uint64 // compared since noise is known
	differing uint64 // of judged: at a path that is no noise
	paths     map[string]*pathCount
	samples   []Difference
}

// A Difference is one at which answers differed, of which the report has a few. Values are redacted
// unless ShadowConfig.Show names the path.
type Difference struct {
	Path      string `json:"path"` // of JSON, or "status", "body", "field Content-Type"
	Method    string `json:"method"`
	Route     string `json:"route"` // a pattern; "" if none matched
	Primary   string `json:"primary"`
	Candidate string `json:"candidate"`
}

// learn notes where two answers of the handler in use differ.
func (d *differences) learn(s *Shadow, j *shadowJob, again *shadowAnswer) {
	found, ok := s.diff(j, again)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learned++
	for path := range found.at {
		d.pathLocked(path).noise++
	}
}

// compare notes where the candidate's answer differs.
func (d *differences) compare(s *Shadow, j *shadowJob, a *shadowAnswer) ShadowOutcome {
	found, ok := s.diff(j, a)
	if !ok {
		return ShadowDropped
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compared++
	real := ""
	for path := range found.at {
		c := d.pathLocked(path)
		c.differs++
		if !d.noisyLocked(c) {
			real = path
		}
	}
	if d.cfg.Learn > 0 && d.learned < minLearned {
		return ShadowLearning
	}
	d.judged++
	if real == "" {
		return ShadowMatch
	}
	d.differing++
	if len(d.samples) < maxSamples {
		values := found.at[real]
		d.samples = append(d.samples, Difference{
			Path: real, Method: j.method, Route: j.route, Primary: values[0], Candidate: values[1],
		})
	}
	return ShadowDiffer
}

// pathLocked returns the count of a path, or the one that latecomers share.
func (d *differences) pathLocked(path string) *pathCount {
	c := d.paths[path]
	if c == nil {
		if len(d.paths) >= d.cfg.MaxPaths {
			path = otherPaths
			if c = d.paths[path]; c != nil {
				return c
			}
		}
		c = &pathCount{}
		d.paths[strings.Clone(path)] = c
	}
	return c
}

// noisyLocked reports whether two answers of the handler in use differ at a path at least half as
// often as those of the candidate.
func (d *differences) noisyLocked(c *pathCount) bool {
	noise := float64(c.noise) / float64(max(d.learned, 1))
	return c.noise > 0 && 2*noise >= float64(c.differs)/float64(max(d.compared, 1))
}

// found are the paths at which two answers differ, with their values.
type found struct {
	cfg *ShadowConfig
	at  map[string][2]string
}

func (f *found) add(path string, a, b any) {
	if len(path) > maxPath {
		path = path[:maxPath]
	}
	if _, ok := f.at[path]; ok {
		return
	}
	if len(f.at) >= maxFound {
		path = otherPaths
	}
	show := f.cfg.Show != nil && f.cfg.Show(path)
	f.at[path] = [2]string{describe(a, show), describe(b, show)}
}

// describe returns a value, or if it may not be shown its type and size.
func describe(v any, show bool) string {
	if show {
		text := fmt.Sprint(v)
		if _, ok := v.(string); !ok {
			if b, err := json.Marshal(v); err == nil {
				text = string(b)
			}
		}
		return text[:min(len(text), maxShown)]
	}
	switch v := v.(type) {
	case nil:
		return "null"
	case absent:
		return "absent"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case int:
		return strconv.Itoa(v) // a status
	case string:
		return fmt.Sprintf("string of %d bytes", len(v))
	case []any:
		return fmt.Sprintf("array of %d", len(v))
	case map[string]any:
		return fmt.Sprintf("object of %d", len(v))
	}
	return "value"
}

// absent stands for a value that is not there.
type absent struct{}

func (absent) MarshalJSON() ([]byte, error) { return []byte(`"(absent)"`), nil }

// diff returns where an answer differs from the one that the client got. ok is false if there is no
// memory to find it out.
func (s *Shadow) diff(j *shadowJob, b *shadowAnswer) (f *found, ok bool) {
	a := &j.primary
	f = &found{cfg: &s.cfg, at: map[string][2]string{}}
	if a.status != b.status {
		f.add("status", a.status, b.status)
	}
	for i, name := range s.cfg.Fields {
		if a.fields[i] != b.fields[i] {
			f.add("field "+name, a.fields[i], b.fields[i])
		}
	}
	if j.method == http.MethodHead || bytes.Equal(a.body.b, b.body.b) {
		return f, true
	}
	unzip := s.unzipSize(a) + s.unzipSize(b)
	if !s.reserve(unzip) {
		return f, false
	}
	defer s.release(unzip)
	first, second := s.unzip(a), s.unzip(b)
	if bytes.Equal(first, second) {
		return f, true
	}
	size := treeOverhead * int64(len(first)+len(second))
	if !s.reserve(size) {
		return f, false
	}
	defer s.release(size)
	x, ok1 := decodeJSON(first)
	y, ok2 := decodeJSON(second)
	if !ok1 || !ok2 {
		f.add("body", string(first), string(second))
		return f, true
	}
	f.values("", x, y)
	return f, true
}

// unzipSize is about how many bytes unzip takes.
func (s *Shadow) unzipSize(a *shadowAnswer) int64 {
	if !a.zipped() {
		return 0
	}
	return min(2*s.cfg.MaxBody+gzipOverhead, endless/1024) // without bounds, many must fit
}

func (a *shadowAnswer) zipped() bool { return a.coding == "gzip" || a.coding == "x-gzip" }

// unzip returns the body of an answer. One that is broken, longer than MaxBody or encoded otherwise
// stays as it is: no paths can be told in it.
func (s *Shadow) unzip(a *shadowAnswer) []byte {
	if !a.zipped() {
		return a.body.b
	}
	r, err := gzip.NewReader(bytes.NewReader(a.body.b))
	if err != nil {
		return a.body.b
	}
	text, err := io.ReadAll(io.LimitReader(r, s.cfg.MaxBody+1))
	if err != nil || int64(len(text)) > s.cfg.MaxBody {
		return a.body.b
	}
	return text
}

// decodeJSON returns the only JSON value in text.
func decodeJSON(text []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, err == io.EOF
}

// values adds where two values differ. Elements of arrays have one path together.
func (f *found) values(path string, a, b any) {
	for _, ignored := range f.cfg.Ignore {
		if path == ignored {
			return
		}
	}
	if len(path) > maxPath { // neither time nor memory may grow with the square of the depth
		if !reflect.DeepEqual(a, b) {
			f.add(path, a, b)
		}
		return
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			f.objects(path, x, y)
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			if len(x) != len(y) {
				f.add(path+"[]", x, y)
				return
			}
			for i := range x {
				f.values(path+"[]", x[i], y[i])
			}
			return
		}
	case json.Number:
		if y, ok := b.(json.Number); ok && sameNumber(x, y) {
			return
		}
	default:
		if a == b {
			return
		}
	}
	f.add(orRoot(path), a, b)
}

func (f *found) objects(path string, a, b map[string]any) {
	for name, x := range a {
		y, ok := b[name]
		if !ok {
			y = absent{}
		}
		f.values(join(path, name), x, y)
	}
	for name, y := range b {
		if _, ok := a[name]; !ok {
			f.values(join(path, name), absent{}, y)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func orRoot(path string) string {
	if path == "" {
		return "body"
	}
	return path
}

// sameNumber reports whether two numbers are one: 1.0 and 1 are.
func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, err1 := a.Float64()
	y, err2 := b.Float64()
	const exact = 1 << 53 // beyond it two integers may be one float
	return err1 == nil && err2 == nil && x == y && x < exact && x > -exact
}
