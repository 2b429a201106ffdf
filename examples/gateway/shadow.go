package main

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

// A Shadow sends copies of a route's requests to another upstream, the candidate, and compares its
// answers, which no client gets, with those of the route's own upstream.
type Shadow struct {
	Upstream string `yaml:"upstream"` // the candidate; required

	// Credentials says whether copies have Authorization, cookies, Idempotency-Key and the
	// secret_fields: "send" them or "strip" them. Required.
	Credentials  string   `yaml:"credentials"`
	SecretFields []string `yaml:"secret_fields"` // further request fields that strip removes; none

	Sample   Share    `yaml:"sample"`    // the share of requests that are copied; 1
	Methods  []string `yaml:"methods"`   // besides GET, HEAD and OPTIONS; none
	MaxBody  Size     `yaml:"max_body"`  // the longest body that is copied; 64KiB
	MaxBytes Size     `yaml:"max_bytes"` // what all copies together take; 32MiB
	Workers  int      `yaml:"workers"`   // copies that are sent at once; 4
	Timeout  Duration `yaml:"timeout"`   // of a copy; 10s
	Ignore   []string `yaml:"ignore"`    // paths of JSON that are not compared: "items[].id"; none
	Learn    Share    `yaml:"learn"`     // the share of safe copies that are asked twice to learn noise; 0.1
}

// check adds to f the faults of the key shadow of a route.
func (s *Shadow) check(r Route, upstreams map[string]Upstream, f *faults, path ...any) {
	at := func(keys ...any) []any { return append(path[:len(path):len(path)], keys...) }
	before := len(*f)
	if r.Versions != nil {
		f.add("a route with versions has no upstream to compare with", path...)
	}
	if _, ok := upstreams[s.Upstream]; !ok {
		f.add(fmt.Sprintf("%q is not one of the upstreams: %s", s.Upstream, names(upstreams)),
			at("upstream")...)
	}
	if s.Credentials != "send" && s.Credentials != "strip" {
		f.add(fmt.Sprintf("%q is not one of: send, strip", s.Credentials), at("credentials")...)
	}
	for i, m := range s.Methods {
		if !fieldName.MatchString(m) {
			f.add(fmt.Sprintf("%q is not a method such as POST", m), at("methods", i)...)
		}
	}
	f.size(&s.MaxBody, 0, at("max_body")...)
	f.size(&s.MaxBytes, 0, at("max_bytes")...)
	f.duration(&s.Timeout, 0, at("timeout")...)
	if s.Workers < 0 {
		f.add("must be positive", at("workers")...)
	}
	if len(*f) > before {
		return // package versioning would find the same
	}
	cfg := s.config()
	cfg.Candidate = http.NotFoundHandler()
	if _, err := versioning.NewShadow(cfg); err != nil {
		f.wrapped(err, map[string]string{"SecretFields": "secret_fields"}, path...)
	}
}

// config returns what versioning.NewShadow takes, without its candidate.
func (s *Shadow) config() versioning.ShadowConfig {
	return versioning.ShadowConfig{
		Name: shadowName(s.Upstream), Credentials: versioning.Credentials(s.Credentials),
		SecretFields: s.SecretFields, Sample: float64(s.Sample), Methods: s.Methods,
		MaxBody: int64(s.MaxBody), MaxBytes: int64(s.MaxBytes), Workers: s.Workers,
		Timeout: time.Duration(s.Timeout), Ignore: s.Ignore, Learn: float64(s.Learn),
	}
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

// shadowName returns the name of an upstream, which may be of any form, as a shadow's.
func shadowName(upstream string) string {
	name := notInName.ReplaceAllString("shadow-"+upstream, "-")
	return name[:min(len(name), 64)]
}

// A routeShadow is the shadow of one route, made live.
type routeShadow struct {
	settings  Shadow
	shadow    *versioning.Shadow
	candidate atomic.Pointer[upstream] // of the current generation; set before the first request
}

// newRouteShadow returns the shadow of a route, or nil if it has none: old, which may be nil, if it
// has the same settings.
func newRouteShadow(r Route, old *routeShadow, tel *telemetry.Telemetry) (*routeShadow, error) {
	if r.Shadow == nil {
		return nil, nil
	}
	if old != nil && reflect.DeepEqual(old.settings, *r.Shadow) {
		return old, nil
	}
	s := &routeShadow{settings: *r.Shadow}
	cfg := r.Shadow.config()
	cfg.Candidate = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.candidate.Load().ServeHTTP(w, r)
	})
	cfg.Observe = telemetry.Observer[versioning.ShadowEvent](tel, r.label())
	var err error
	s.shadow, err = versioning.NewShadow(cfg)
	return s, err
}

// wrap lets the shadow see what a route's upstream answers. A nil shadow leaves it as it is.
func (s *routeShadow) wrap(next http.Handler) http.Handler {
	if s == nil {
		return next
	}
	return s.shadow.Middleware(next)
}

// removeField removes a field, however it is spelt, from a client's header or trailers. The one
// that marks copies is one: an upstream that takes the request for a copy may leave undone what it
// asks for.
func removeField(h http.Header, field string) {
	for name := range h {
		if spells(name, field) {
			delete(h, name)
		}
	}
}
