package pacer

import (
	"cmp"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/origin"
)

// Transport returns a RoundTripper that sends requests through next, each when its host's pace
// allows. If next is nil, [http.DefaultTransport] is used. A request that is not sent fails with an
// [*Error]. A 429 is returned like any other response; it slows down the next requests.
func (p *Pacer) Transport(next http.RoundTripper) http.RoundTripper {
	return p.TransportFor("", next)
}

// TransportFor is [Pacer.Transport] with one pace, that of key, for all requests: for
// balancer.Config.Wrap, where many endpoints stand behind one URL. An empty key means the host of
// each request.
func (p *Pacer) TransportFor(key string, next http.RoundTripper) http.RoundTripper {
	return &transport{pacer: p, key: key, next: cmp.Or(next, http.DefaultTransport)}
}

type transport struct {
	pacer *Pacer
	key   string // empty: the request's host
	next  http.RoundTripper
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	key := t.key
	if key == "" {
		key = origin.URLHost(req.URL)
	}
	h := t.pacer.pin(key)
	defer h.unpin()
	if err := t.pacer.wait(req.Context(), key, h); err != nil {
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
