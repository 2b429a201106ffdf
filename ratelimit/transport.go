package ratelimit

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Transport returns a RoundTripper that sends requests through next, each when its host's pace allows. If next is
// nil, [http.DefaultTransport] is used. A request that is not sent fails with a [*PaceError]. A 429 is
// returned like any other response; it slows down the next requests.
func (p *Pacer) Transport(next http.RoundTripper) http.RoundTripper {
	return p.transport("", next)
}

// TransportFor is Transport with one pace, that of the given host, for all requests: for balancer.Config.Wrap, where many hosts
// stand behind one URL.
func (p *Pacer) TransportFor(host string, next http.RoundTripper) http.RoundTripper {
	return p.transport(host, next)
}

func (p *Pacer) transport(host string, next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{pacer: p, host: host, next: next}
}

// paceKey makes one of the ways to write u's host: each would be a pace of its own, above the configured rate.
func paceKey(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch {
	case u.Scheme == "http":
		host = strings.TrimSuffix(host, ":80")
	case u.Scheme == "https":
		host = strings.TrimSuffix(host, ":443")
	}
	name, port := strings.TrimSuffix(host, ":"), ""
	if i := strings.LastIndexByte(name, ':'); i >= 0 && strings.IndexByte(name[i:], ']') < 0 {
		name, port = name[:i], name[i:]
	}
	if dotless, ok := strings.CutSuffix(name, "."); ok {
		return dotless + port
	}
	return name + port
}

type transport struct {
	pacer *Pacer
	host  string // empty: the request's
	next  http.RoundTripper
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	host := t.host
	if host == "" {
		host = paceKey(req.URL)
	}
	h := t.pacer.pin(host)
	defer h.unpin()
	if err := t.pacer.wait(req.Context(), host, h); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // RoundTrip owns the body even when it fails; next will not see it
		}
		return nil, err
	}
	resp, err := t.next.RoundTrip(req)
	if err == nil && t.pacer.cfg.MaxRetryAfter > 0 {
		if s := readHint(resp, time.Now(), t.pacer.cfg.MaxRetryAfter); s != (hint{}) {
			t.pacer.hints.Add(1)
			h.obey(s)
		}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach next.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
