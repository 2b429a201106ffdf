package main

import (
	"bytes"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

// Versions gives each version of an API an upstream of its own, and says until when it is spoken.
type Versions struct {
	List    []Version      `yaml:"list"`    // oldest first; required
	Sources VersionSources `yaml:"sources"` // where requests name a version

	// Default is the version of requests that name none: "oldest" or "current" of those that have
	// not ended, one of the list, or "require", which answers 400; require.
	Default string `yaml:"default"`

	// Match says whether a version may be asked for that is not in the list: "exact", or "floor",
	// which takes the newest version that is not newer; exact.
	Match string `yaml:"match"`

	Echo string `yaml:"echo"` // the response field that has the version which was spoken; none

	// Client is the request field by whose value GET /versions tells clients apart. It is shown as
	// it is, so it must not be a secret; none.
	Client string `yaml:"client"`
}

// A Version is one version of an API.
type Version struct {
	Version    string `yaml:"version"`    // a date, a number such as 2 or 2.1, or a word; required
	Upstream   string `yaml:"upstream"`   // required
	Deprecated Date   `yaml:"deprecated"` // since when clients should leave it; never
	Sunset     Date   `yaml:"sunset"`     // afterwards it gets 410; never
	Successor  string `yaml:"successor"`  // the URL of what replaces it; none
}

// VersionSources are the places in which requests name a version. The first one that does decides;
// sources that name different versions are refused.
type VersionSources struct {
	Path       string `yaml:"path"`        // the first segment after this: "/v" for /v2/users; none
	Host       string `yaml:"host"`        // the part of the host that * stands for: "v*.example.com"; none
	Header     string `yaml:"header"`      // a request field; none
	MediaType  string `yaml:"media_type"`  // a parameter of Accept and Content-Type; none
	VendorType string `yaml:"vendor_type"` // a media type's begin: "application/vnd.example.v"; none
	Query      string `yaml:"query"`       // a query parameter; none
}

// check adds to f the faults of v, the versions of a route.
func (v *Versions) check(r Route, upstreams map[string]Upstream, f *faults, path ...any) {
	at := func(keys ...any) []any { return append(path[:len(path):len(path)], keys...) }
	if r.Upstream != "" {
		route := path[: len(path)-1 : len(path)-1]
		f.add("each version has an upstream of its own", append(route, "upstream")...)
	}
	if v.Sources.Path != "" && r.Path != "/" {
		f.add("needs a route whose path is /, since the version is the first segment of the path",
			at("sources", "path")...)
	}
	keys := map[string][]any{
		"Versions": {"list"}, "Default": {"default"}, "Match": {"match"}, "Echo": {"echo"},
	}
	for i, one := range v.List {
		if _, ok := upstreams[one.Upstream]; !ok {
			f.add(fmt.Sprintf("%q is not one of the upstreams: %s", one.Upstream, names(upstreams)),
				at("list", i, "upstream")...)
		}
		for field, key := range map[string]string{
			"Name": "version", "Sunset": "sunset", "Deprecated": "deprecated", "Successor": "successor",
		} {
			keys[fmt.Sprintf("Versions[%d].%s", i, field)] = []any{"list", i, key}
		}
		keys[fmt.Sprintf("Versions[%d]", i)] = []any{"list", i}
	}
	sources, named := v.Sources.all()
	for i := range sources {
		keys[fmt.Sprintf("Sources[%d]", i)] = []any{"sources", named[i]}
	}
	if v.Client != "" && !fieldName.MatchString(v.Client) {
		f.add(fmt.Sprintf("%q is not the name of a header field", v.Client), at("client")...)
	}
	_, err := versioning.New(v.settings())
	if err == nil {
		return
	}
	for _, fault := range fieldFaults(err) {
		reason := fault.Reason()
		if fault.Field() == "Default" && v.Default == "" {
			reason = "is required, since there are no sources"
		}
		f.add(reason, at(keys[fault.Field()]...)...)
	}
}

// all returns the sources, and their keys.
func (s VersionSources) all() (sources []versioning.Source, keys []string) {
	for _, one := range []struct {
		key, value string
		source     func(string) versioning.Source
	}{
		{"path", s.Path, versioning.Path},
		{"host", s.Host, versioning.Host},
		{"header", s.Header, versioning.Header},
		{"media_type", s.MediaType, versioning.MediaType},
		{"vendor_type", s.VendorType, versioning.VendorType},
		{"query", s.Query, versioning.Query},
	} {
		if one.value != "" {
			sources, keys = append(sources, one.source(one.value)), append(keys, one.key)
		}
	}
	return sources, keys
}

// settings returns what versioning.New takes.
func (v *Versions) settings() versioning.Config {
	cfg := versioning.Config{Match: versioning.Match(v.Match), Echo: v.Echo}
	for _, one := range v.List {
		cfg.Versions = append(cfg.Versions, versioning.Version{
			Name: one.Version, Deprecated: time.Time(one.Deprecated), Sunset: time.Time(one.Sunset),
			Successor: one.Successor,
		})
	}
	cfg.Sources, _ = v.Sources.all()
	switch v.Default {
	case "", "require", "oldest", "current":
		cfg.Default = versioning.Default(v.Default)
	default:
		cfg.Default = versioning.Fixed(v.Default)
	}
	if v.Client != "" {
		cfg.Client = func(r *http.Request) (string, bool) {
			name := r.Header.Get(v.Client)
			return name, name != ""
		}
	}
	return cfg
}

// newVersions returns the versions of a route, or nil if it has none: those of old, the route
// before a reload, if they have the same settings. Otherwise commit, if not nil, gives them what
// those of old know of their use.
func newVersions(
	r Route, old *routing, tel *telemetry.Telemetry,
) (v *versioning.Versions, commit func(), err error) {
	if r.Versions == nil {
		return nil, nil, nil
	}
	if old.versions != nil && r.Versions.same(old.route.Versions) {
		return old.versions, nil, nil
	}
	cfg := r.Versions.settings()
	cfg.Observe = telemetry.Observer[versioning.Event](tel, r.label())
	v, err = versioning.New(cfg)
	if err == nil && old.versions != nil {
		commit = func() { inheritUsage(v, old.versions) }
	}
	return v, commit, err
}

// same reports whether two routes differ at most in the upstreams of their versions.
func (v *Versions) same(other *Versions) bool {
	if other == nil || len(v.List) != len(other.List) {
		return false
	}
	a, b := *v, *other
	a.List, b.List = slices.Clone(a.List), slices.Clone(b.List)
	for i := range a.List {
		a.List[i].Upstream, b.List[i].Upstream = "", ""
	}
	return reflect.DeepEqual(a, b)
}

// inheritUsage gives v what old knows of who uses which version.
func inheritUsage(v, old *versioning.Versions) {
	var ledger bytes.Buffer
	_ = old.Save(&ledger) // a buffer takes all
	_ = v.Restore(&ledger)
}

// choose returns the handler that lets the upstream of a request's version answer it.
func (v *Versions) choose(
	versions *versioning.Versions, upstreams map[string]*upstream,
) (http.Handler, error) {
	handlers := map[string]http.Handler{}
	for _, one := range v.List {
		handlers[one.Version] = upstreams[one.Upstream]
	}
	return versions.Select(handlers)
}

// A Date is a day at whose beginning, in UTC, something happens, or a time of RFC 3339.
type Date time.Time

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Date) UnmarshalYAML(n *yaml.Node) error {
	layout := time.RFC3339
	if !strings.ContainsAny(n.Value, "Tt") {
		layout = time.DateOnly
	}
	t, err := time.Parse(layout, n.Value)
	if err != nil {
		return fmt.Errorf("must be a date such as 2026-12-31 or 2026-12-31T18:00:00Z, not %s",
			describeNode(n))
	}
	*d = Date(t)
	return nil
}
