package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Headers adds the fields by which caches decide to the responses of a handler that has none, or
// whose fields are wrong: freshness, tags, Vary, entity tags. It answers conditional requests.
// Create one with [NewHeaders]. Headers are safe for concurrent use and start no goroutines.
//
// They stand directly around the handler, inside of a [Cache], which then stores what a handler
// sends that says nothing:
//
//	handler = cache.Middleware(headers.Middleware(handler))
//
// Neither `public` nor s-maxage is ever added: a shared cache that obeys RFC 9111, section 3.5,
// stores no response to a request with Authorization for what is added here.
type Headers struct {
	cfg   HeadersConfig // read-only after NewHeaders
	rules []headersRule // cfg.Rules, then cfg.TTL
	vary  string        // cfg.Vary as one value
	types bool          // some rule names media types
}

// A headersRule is a HeadersRule with the values of the fields that it adds.
type headersRule struct {
	status          []int
	types           []string
	control, shared []string // Cache-Control, CDN-Cache-Control; empty: no such field
}

// NewHeaders returns Headers. The error, if any, names every invalid field of cfg.
func NewHeaders(cfg HeadersConfig) (*Headers, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Headers{cfg: cfg, vary: strings.Join(cfg.Vary, ", ")}
	rules := cfg.Rules
	if cfg.TTL > 0 {
		rules = append(rules, HeadersRule{Status: statusesWithTTL, TTL: cfg.TTL, SharedTTL: cfg.SharedTTL})
	}
	for _, rule := range rules {
		h.rules = append(h.rules, headersRule{
			status:  rule.Status,
			types:   rule.Types,
			control: h.control(rule.TTL),
		})
		if rule.SharedTTL > 0 {
			h.rules[len(h.rules)-1].shared = h.control(rule.SharedTTL)
		}
		h.types = h.types || len(rule.Types) > 0
	}
	return h, nil
}

// control returns the value of Cache-Control for that TTL, which Max caps.
func (h *Headers) control(ttl time.Duration) []string {
	switch {
	case ttl == HeadersNoStore:
		return []string{"no-store"}
	case ttl == 0:
		return []string{"no-cache"}
	case h.cfg.Max > 0:
		ttl = min(ttl, h.cfg.Max)
	}
	value := "max-age=" + secondsText(ttl)
	if h.cfg.Stale > 0 {
		value += ", stale-while-revalidate=" + secondsText(h.cfg.Stale)
	}
	if h.cfg.StaleIfError > 0 {
		value += ", stale-if-error=" + secondsText(h.cfg.StaleIfError)
	}
	return []string{value}
}

func secondsText(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// Middleware adds fields to the responses of next to GET, HEAD and QUERY. Requests of other methods
// pass untouched. It panics if next is nil.
func (h *Headers) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("cache: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != methodQuery,
			h.cfg.Skip != nil && h.cfg.Skip(r):
			next.ServeHTTP(w, r)
			return
		}
		hw := newHeadersWriter(h, w, r)
		next.ServeHTTP(hw, r)
		hw.finish() // not after a panic, which leaves what is held unsent
	})
}

// complete adds to header, of a response with that status, what h is configured to add.
func (h *Headers) complete(header http.Header, r *http.Request, status int) {
	h.refresh(header, status)
	if h.cfg.Max > 0 {
		capFreshness(header, h.cfg.Max, time.Now())
	}
	if h.vary != "" {
		addVary(header, h.cfg.Vary, h.vary)
	}
	if h.cfg.Tags != nil {
		h.addTags(header, h.cfg.Tags(r))
	}
}

// refresh adds freshness to header, or puts it in place of what is there.
func (h *Headers) refresh(header http.Header, status int) {
	if len(header["Set-Cookie"]) > 0 && !h.cfg.StoreSetCookie {
		return
	}
	if !h.cfg.Override && statesFreshness(header) {
		return
	}
	rule := h.ruleFor(header, status)
	if rule == nil {
		return
	}
	for _, name := range freshnessFields {
		delete(header, name)
	}
	header["Cache-Control"] = slices.Clone(rule.control)
	if rule.shared != nil {
		header["Cdn-Cache-Control"] = slices.Clone(rule.shared)
	}
}

// freshnessFields are the fields in which a response says for how long it is fresh.
var freshnessFields = [...]string{
	"Cache-Control", "Cdn-Cache-Control", "Surrogate-Control", "Expires", "Pragma",
}

func statesFreshness(header http.Header) bool {
	for _, name := range freshnessFields {
		if len(header[name]) > 0 {
			return true
		}
	}
	return false
}

// ruleFor returns the first rule that names a response, nil if none does. A 304 is judged as the
// 200 that it stands for. It tells no media type: where one matters, the stored response keeps the
// freshness that it has.
func (h *Headers) ruleFor(header http.Header, status int) *headersRule {
	if status == http.StatusNotModified {
		if h.types && header.Get("Content-Type") == "" {
			return nil
		}
		status = http.StatusOK
	}
	var mediaType string
	if h.types {
		mediaType, _, _ = strings.Cut(header.Get("Content-Type"), ";")
		mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	}
	for i := range h.rules {
		rule := &h.rules[i]
		if slices.Contains(rule.status, status) && rule.names(mediaType) {
			return rule
		}
	}
	return nil
}

func (r *headersRule) names(mediaType string) bool {
	if len(r.types) == 0 {
		return true
	}
	for _, pattern := range r.types {
		class, any := strings.CutSuffix(pattern, "*")
		if mediaType == pattern || any && (class == "*/" || strings.HasPrefix(mediaType, class)) {
			return true
		}
	}
	return false
}

// addVary adds names, which line holds, to the field Vary unless they or "*" are there.
func addVary(header http.Header, names []string, line string) {
	have := header["Vary"]
	if len(have) == 0 {
		header["Vary"] = []string{line}
		return
	}
	var missing []string
	for _, name := range names {
		if !listed(have, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 && !listed(have, "*") {
		header["Vary"] = append(slices.Clip(have), strings.Join(missing, ", "))
	}
}

// listed reports whether name is an element of the lists in lines, in any case.
func listed(lines []string, name string) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(element, " \t"), name) {
				return true
			}
		}
	}
	return false
}

// addTags adds tags behind those that the handler has set. Surrogate-Key separates them by spaces,
// Cache-Tag by commas.
func (h *Headers) addTags(header http.Header, tags []string) {
	tags = slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return tag == "" })
	if len(tags) == 0 {
		return
	}
	separator := " "
	if h.cfg.TagField == "Cache-Tag" {
		separator = ","
	}
	all := append(slices.Clip(header[h.cfg.TagField]), tags...)
	header[h.cfg.TagField] = []string{strings.Join(all, separator)}
}
