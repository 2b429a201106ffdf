package versioning_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trivet-go/trivet/versioning"
)

var day1 = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

// BenchmarkMiddleware finds the version of requests of the head version, before the same ServeMux.
func BenchmarkMiddleware(b *testing.B) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users", func(http.ResponseWriter, *http.Request) {})
	v := newVersions(b, versioning.Config{
		Versions: named("1", "2"), Sources: allSources(), Changes: []versioning.Change{rename("2", "a", "b")},
	})
	h := v.Middleware(mux)
	w := &nullWriter{header: http.Header{}}
	run := func(b *testing.B, h http.Handler, r *http.Request) {
		b.ReportAllocs()
		for b.Loop() {
			clear(w.header)
			h.ServeHTTP(w, r)
		}
	}
	b.Run("source=none/baseline", func(b *testing.B) { run(b, mux, request("GET", "/users")) })
	for _, source := range []struct {
		name string
		r    *http.Request
	}{
		{"path", request("GET", "/v2/users")},
		{"header", request("GET", "/users", "X-Api-Version", "2")},
		{"media_type", request("GET", "/users", "Accept", "application/json;version=2")},
		{"query", request("GET", "/users?api-version=2")},
	} {
		b.Run("source="+source.name, func(b *testing.B) { run(b, h, source.r) })
	}
	// What the bar is about: beyond the mux, in pairs so short that few of them are interrupted.
	b.Run("beyond=mux", func(b *testing.B) {
		for _, source := range []struct {
			name   string
			r      *http.Request
			source versioning.Source
		}{
			{"path", request("GET", "/v2/users"), versioning.Path("/v")},
			{"header", request("GET", "/users", "X-Api-Version", "2"), versioning.Header("X-Api-Version")},
			{"media_type", request("GET", "/users", "Accept", "application/json;version=2"),
				versioning.MediaType("version")},
			{"query", request("GET", "/users?api-version=2"), versioning.Query("api-version")},
		} {
			one := newVersions(b, versioning.Config{
				Versions: named("1", "2"), Sources: []versioning.Source{source.source},
			}).Middleware(mux)
			bare := request("GET", "/users")
			times := func(h http.Handler, r *http.Request) float64 {
				const n = 500
				start := time.Now()
				for range n {
					clear(w.header)
					h.ServeHTTP(w, r)
				}
				return float64(time.Since(start).Nanoseconds()) / n
			}
			var beyond, ratios []float64
			for range 1000 {
				base := times(mux, bare)
				took := times(one, source.r)
				beyond, ratios = append(beyond, took-base), append(ratios, took/base)
			}
			slices.Sort(beyond)
			slices.Sort(ratios)
			b.ReportMetric(beyond[500], source.name+"-ns")
			b.Logf("%s: median %.0f ns, a tenth is below %.0f and a tenth above %.0f; %.1f times the mux",
				source.name, beyond[500], beyond[100], beyond[900], ratios[500])
		}
		for b.Loop() {
			w.WriteHeader(200)
		}
	})
}

// tenKiB is a body of 10 KiB: 60 objects in an array.
func tenKiB() []byte {
	var b bytes.Buffer
	b.WriteString(`{"data":[`)
	for i := 0; b.Len() < 10<<10-180; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"user number %d","email":"user%d@example.com","score":%d.25,`+
			`"tags":["a","b"],"address":{"city":"Zürich","zip":"80%02d"},"active":true}`, i, i, i, i, i)
	}
	b.WriteString(`],"total":60}`)
	return b.Bytes()
}

// fiveChanges look into each of the objects.
func fiveChanges() []versioning.Change {
	each := func(f func(o *versioning.Object)) versioning.Body {
		return versioning.JSON(func(doc *versioning.Object) error {
			list := doc.Array("data")
			for i := range list.Len() {
				if o, ok := list.At(i).(*versioning.Object); ok {
					f(o)
				}
			}
			return nil
		})
	}
	changes := []versioning.Change{
		{Name: "rename", ResponseBody: each(func(o *versioning.Object) { o.Rename("name", "full_name") })},
		{Name: "drop", ResponseBody: each(func(o *versioning.Object) { o.Delete("active") })},
		{Name: "add", ResponseBody: each(func(o *versioning.Object) { o.Set("kind", "user") })},
		{Name: "flatten", ResponseBody: each(func(o *versioning.Object) {
			city, _ := o.Object("address").Text("city")
			o.Set("city", city)
		})},
		{Name: "split", ResponseBody: each(func(o *versioning.Object) {
			email, _ := o.Text("email")
			user, _, _ := strings.Cut(email, "@")
			o.Set("user", user)
		})},
	}
	return changes
}

// BenchmarkConversion converts a body of 10 KiB across 5 changes, beside what encoding/json takes
// to decode and encode it.
func BenchmarkConversion(b *testing.B) {
	body := tenKiB()
	v := chained(b, versioning.Config{}, fiveChanges()...)
	convert := func() {
		if _, err := v.Down(context.Background(), "1", body); err != nil {
			b.Error(err)
		}
	}
	codec := func() {
		var tree any
		if err := json.Unmarshal(body, &tree); err != nil {
			b.Error(err)
		}
		if _, err := json.Marshal(tree); err != nil {
			b.Error(err)
		}
	}
	for name, f := range map[string]func(){"codec=trivet/changes=5": convert, "codec=json/baseline": codec} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				f()
			}
		})
	}
	b.Run("ratio=paired", func(b *testing.B) {
		times := func(f func()) float64 {
			start := time.Now()
			for range 50 {
				f()
			}
			return float64(time.Since(start))
		}
		var ratios []float64
		for range 21 {
			base := times(codec)
			ratios = append(ratios, times(convert)/base)
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[10], "median-ratio")
		b.Logf("ratio to one decode and encode: median %.2f, %.2f to %.2f", ratios[10], ratios[0], ratios[20])
		for b.Loop() {
			convert()
		}
	})
}
