package cache

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// unsafeMethod reports whether a method may change something. Those that nobody knows may (RFC
// 9111, section 4.4).
func unsafeMethod(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodConnect,
		methodQuery,
		"PROPFIND", "REPORT", "SEARCH", "PRI":
		return false
	}
	return true
}

// target returns the absolute URL of the request.
func (x *exchange) target() *url.URL {
	u := *x.r.URL
	u.Scheme, u.Host = x.origin()
	return &u
}

// invalidate purges what an unsafe request has changed: its URL, and those of Location and
// Content-Location that have the same origin (RFC 9111, section 4.4), and the groups that the
// response names (RFC 9875, section 3). A request that has failed has changed nothing (C44).
func (x *exchange) invalidate(ctx context.Context, status int, h http.Header) {
	if status < 200 || status >= 400 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	target := x.target()
	labels := x.c.urlLabels(target)
	own := x.c.changes.slot(target)
	own.Add(1) // first, for what a POST may store
	for _, name := range [...]string{"Location", "Content-Location"} {
		if values := h[name]; len(values) > 0 {
			if u, err := target.Parse(values[0]); err == nil && x.sameOrigin(u) {
				labels = append(labels, x.c.urlLabels(u)...)
				if slot := x.c.changes.slot(u); slot != own {
					slot.Add(1)
				}
			}
		}
	}
	for _, group := range groups(h["Cache-Group-Invalidation"]) {
		labels = append(labels, groupLabel(plainHost(target.Scheme, target.Host), group))
	}
	var failed error
	x.c.counts.purges.Add(1)
	for _, label := range labels {
		p := Purge{Label: label, How: Hard}
		if failed != nil && x.c.fleet != nil {
			x.c.fleet.purgeHere(p) // nobody waits for what has failed again and again
		} else if err := x.c.store.Purge(ctx, p); err != nil {
			failed = err
		}
	}
	x.c.storeResult(ctx, failed)
	x.c.observe(ctx, Event{Kind: Purged, By: "method", Err: failed})
}

// changes count what a Cache was told to forget: by slots of paths, which several may share, and
// what may concern any.
type changes struct {
	any   atomic.Uint64
	slots [256]atomic.Uint64
}

func (c *changes) slot(u *url.URL) *atomic.Uint64 {
	path := plainEscapes(u.EscapedPath())
	h := uint32(2166136261) // FNV-1a
	for i := range len(path) {
		h = (h ^ uint32(path[i])) * 16777619
	}
	return &c.slots[h%uint32(len(c.slots))]
}

// concerning is a number that grows with what may concern u.
func (c *changes) concerning(u *url.URL) uint64 { return c.any.Load() + c.slot(u).Load() }

// sameOrigin reports whether u has the origin of the request. A Middleware does not ask for the
// same scheme: a proxy before it may have taken off TLS.
func (x *exchange) sameOrigin(u *url.URL) bool {
	scheme, host := x.origin()
	return (x.server || u.Scheme == scheme) && plainHost(u.Scheme, u.Host) == plainHost(scheme, host)
}

// posted returns the Entry for a response to POST that may answer later GETs: it says so by its
// Content-Location and has explicit freshness (RFC 9110, section 9.3.3).
func (x *exchange) posted(ctx context.Context, status int, own, outer http.Header) *Entry {
	location := own["Content-Location"]
	if x.c.shared {
		return nil // what other processes were told to forget meanwhile is not known
	}
	if status != http.StatusOK || len(location) == 0 || x.r.URL.Opaque != "" ||
		x.fields&hasOddName != 0 || x.manyUnkeyed() || x.nominates() {
		return nil
	}
	target := x.target()
	u, err := target.Parse(location[0])
	if err != nil || !x.sameOrigin(u) || u.EscapedPath() != target.EscapedPath() ||
		u.RawQuery != target.RawQuery {
		return nil
	}
	now := time.Now()
	resp := arrival{status: status, header: own, outer: outer, received: now}
	d := responseDirectives(own, x.c.cfg.TargetedFields)
	if _, explicit := x.c.lifetime(status, own, &d, now); !explicit || len(own["Vary"]) > 0 ||
		len(own["Trailer"]) > 0 || x.storable(&resp, &d) != ReasonNone {
		return nil
	}
	post := x.r
	x.r = x.r.WithContext(ctx)
	x.r.Method = http.MethodGet
	x.setKey()
	x.r = post
	_, mark, err := x.c.store.Get(ctx, x.key) // after the invalidation
	if err != nil {
		return nil
	}
	return x.newEntry(&resp, &d, mark, now)
}

// update updates what is stored with the response to a HEAD (RFC 9111, section 4.3.5): what cannot
// be the same any more is invalidated.
func (x *exchange) update(ctx context.Context, status int, h, outer http.Header, began time.Time) {
	mark := x.mark // the response knows of no purge that came while the HEAD was under way
	r, _, err := x.look(ctx)
	if err != nil {
		return
	}
	old, _ := x.pick(r)
	if old == nil || status != http.StatusOK || old.Status != http.StatusOK {
		return
	}
	p := x.c.policy(old)
	etag, modified, length := h.Get("Etag"), h.Get("Last-Modified"), contentLength(h)
	if etag != p.etag && etag != "" || modified != "" && modified != old.Header.Get("Last-Modified") ||
		length >= 0 && old.Size >= 0 && length != old.Size {
		_ = x.c.store.Purge(ctx, Purge{Label: old.Labels[0], How: Soft})
		return
	}
	resp := arrival{status: status, header: h, outer: outer, received: time.Now()}
	e := x.updated(old, &resp, mark, began)
	fresh := resp
	fresh.header = e.Header
	d := responseDirectives(e.Header, x.c.cfg.TargetedFields)
	if x.storable(&fresh, &d) == ReasonNone {
		x.put(context.WithoutCancel(ctx), x.keyFor(e), e)
	}
}
