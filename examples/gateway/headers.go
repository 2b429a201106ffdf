package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Headers are what a route changes in the headers of its requests and answers.
type Headers struct {
	Request  FieldEdits `yaml:"request"`  // of what its upstreams get
	Response FieldEdits `yaml:"response"` // of every final answer of the route
}

// FieldEdits are changes of a header.
type FieldEdits struct {
	Set    map[string]string `yaml:"set"`    // fields that get this value instead of all others; none
	Remove []string          `yaml:"remove"` // fields that are removed; none
}

// check adds to f the faults of the key headers of a route.
func (h Headers) check(s Server, f *faults, path ...any) {
	h.Request.check(s, append(slices.Clone(requestFields), s.DeadlineField), f, with(path, "request")...)
	h.Response.check(s, append(slices.Clone(responseFields), s.HintField), f, with(path, "response")...)
}

// with returns path with keys behind it.
func with(path []any, keys ...any) []any { return append(path[:len(path):len(path)], keys...) }

func (e FieldEdits) check(s Server, own []string, f *faults, path ...any) {
	seen := map[string]bool{}
	check := func(name string, at ...any) {
		key := strings.ToLower(strings.Map(hyphen, name))
		switch why := notOneToChange(name, own); {
		case !fieldName.MatchString(name):
			f.add(fmt.Sprintf("%q is not the name of a header field", name), at...)
		case why != "":
			f.add(fmt.Sprintf("%q %s", name, why), at...)
		case seen[key]:
			f.add(fmt.Sprintf("%q stands here twice", name), at...)
		}
		seen[key] = true
	}
	for i, name := range e.Remove {
		check(name, with(path, "remove", i)...)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Set)) {
		at := with(path, "set", name)
		check(name, at...)
		if v := e.Set[name]; strings.ContainsFunc(v, unfit) || strings.Trim(v, " \t") != v {
			f.add("has control characters, or blanks around it", at...)
		}
	}
}

// unfit reports whether r may not stand in the value of a field (RFC 9110, section 5.5).
func unfit(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }

// The fields that a route may not change, because a connection's end sets them (RFC 9110, section
// 7.6.1), they say where a message ends or who it is for, or they tell of proxies and clients.
var (
	connectionFields = []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE",
		"Trailer", "Transfer-Encoding", "Upgrade", "HTTP2-Settings",
	}
	framingFields   = []string{"Content-Length", "Host", "Expect"}
	forwardedFields = []string{
		"Forwarded", "Proxy", "X-Real-Ip", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip",
		"Cf-Connecting-Ip", "Fastly-Client-Ip", "X-Proxyuser-Ip", "X-Envoy-External-Address", "X-Forwarded",
		"Forwarded-For", "X-Original-Forwarded-For", "X-Host", "X-Original-Host", "X-Original-Url",
		"X-Rewrite-Url", "X-Url-Scheme", "Front-End-Https",
	}
	requestFields  = []string{requestID, "Traceparent", "Tracestate", "Baggage", "Trivet-Shadow"}
	responseFields = []string{requestID}
)

// notOneToChange returns why a route may not change a field, or "". Other spellings of a name are
// the same: a server could read them so.
func notOneToChange(name string, own []string) string {
	is := func(field string) bool { return field != "" && spells(name, field) }
	const forwarded = "X-Forwarded-"
	switch {
	case slices.ContainsFunc(connectionFields, is):
		return "is a field of the connection"
	case slices.ContainsFunc(framingFields, is):
		return "is a field of the message's framing or routing"
	case slices.ContainsFunc(forwardedFields, is),
		len(name) >= len(forwarded) && spells(name[:len(forwarded)], forwarded):
		return "is a field by which proxies tell of each other"
	case slices.ContainsFunc(own, is):
		return "is a field that the gateway sets itself"
	}
	return ""
}

// addedFields are those that net/http adds unless a header has them without a value.
var addedFields = []string{"User-Agent", "Content-Type", "Date"}

// An edit is FieldEdits in the form that is applied. A nil edit changes nothing.
type edit struct {
	set    map[string][]string
	remove []string // also the other spellings of what is set
	bare   []string // of these: those that net/http would add
}

func newEdit(e FieldEdits) *edit {
	if len(e.Set)+len(e.Remove) == 0 {
		return nil
	}
	made := &edit{set: map[string][]string{}, remove: slices.Clone(e.Remove)}
	for name, value := range e.Set {
		made.set[http.CanonicalHeaderKey(name)] = []string{value}
		made.remove = append(made.remove, name)
	}
	for _, name := range e.Remove {
		if name = http.CanonicalHeaderKey(name); slices.Contains(addedFields, name) {
			made.bare = append(made.bare, name)
		}
	}
	return made
}

// apply changes h. A field goes in every spelling that a server could take for it.
func (e *edit) apply(h http.Header) {
	if e == nil {
		return
	}
	e.drop(h)
	for _, name := range e.bare {
		h[name] = nil
	}
	for name, value := range e.set {
		h[name] = value[:1:1]
	}
}

// removes reports whether the client's or upstream's field of that name goes.
func (e *edit) removes(name string) bool {
	return slices.ContainsFunc(e.remove, func(field string) bool { return spells(name, field) })
}

// drop removes fields from h, a header, or trailers, in which nothing is set.
func (e *edit) drop(h http.Header) {
	if e == nil {
		return
	}
	for name := range h {
		if e.removes(name) {
			delete(h, name)
		}
	}
}

// dropAnnounced removes trailers from those that h, the header of an answer, announces. net/http
// sends no others, except those of dropLate.
func (e *edit) dropAnnounced(h http.Header) {
	if e == nil || len(h["Trailer"]) == 0 {
		return
	}
	var kept []string
	for _, line := range h["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); !e.removes(name) {
				kept = append(kept, name)
			}
		}
	}
	delete(h, "Trailer")
	if len(kept) > 0 {
		h.Set("Trailer", strings.Join(kept, ", "))
	}
}

// dropLate removes trailers that were not announced from h, the header of an answer that has been
// written.
func (e *edit) dropLate(h http.Header) {
	if e == nil {
		return
	}
	for key := range h {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok && e.removes(name) {
			delete(h, key)
		}
	}
}

type editKey struct{}

// request lets rewrite, for each upstream that gets the request or a copy of it, change its header.
// Limits, versions, rollouts and caches in front see what the client has sent.
func (e *edit) request(next http.Handler) http.Handler {
	if e == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		edited := r.WithContext(context.WithValue(r.Context(), editKey{}, e))
		next.ServeHTTP(w, edited)
		r.Pattern = edited.Pattern
	})
}

// edit changes the requests to a host of a sticky upstream. A client's cookie leads to its host
// first, even if the route removes it, so this must be behind the balancer.
func (u *upstream) edit(next http.RoundTripper) http.RoundTripper {
	if u.cfg.Sticky == nil {
		return next
	}
	return editing{next}
}

type editing struct{ next http.RoundTripper }

func (t editing) RoundTrip(r *http.Request) (*http.Response, error) {
	if e := editOf(r.Context()); e != nil {
		r = r.WithContext(r.Context())
		r.Header = r.Header.Clone()
		e.apply(r.Header)
	}
	return t.next.RoundTrip(r)
}

func (t editing) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// editOf returns what request has asked for.
func editOf(ctx context.Context) *edit {
	e, _ := ctx.Value(editKey{}).(*edit)
	return e
}
