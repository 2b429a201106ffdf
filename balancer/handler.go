package balancer

import (
	"errors"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/settings"
)

// HandlerConfig configures [Balancer.Handler]. The zero HandlerConfig is valid. Its functions must
// be safe for concurrent use.
type HandlerConfig struct {
	// Rewrite, if not nil, may change the outbound request after everything else has been done to
	// it. It must leave the inbound one alone.
	Rewrite func(r *httputil.ProxyRequest)

	// ModifyResponse, if not nil, may change the response before it is sent on. If it changes
	// ContentLength, the field follows. Of a 101 it may change the header only. If it returns an
	// error, ErrorHandler answers the request.
	ModifyResponse func(resp *http.Response) error

	// TargetHost sends the target's host in the Host field. By default the client's is sent on, as
	// most applications need it for links and cookies.
	TargetHost bool

	// TrustedProxies lists the networks of the proxies in front whose forwarding fields are
	// believed: their X-Forwarded-For is sent on with the peer's address appended, and their other
	// forwarding fields as they are. Those of everybody else are removed: [Balancer.Handler] lists
	// them. An IPv4 prefix in IPv6 form means its IPv4 form. Empty means that nobody is trusted.
	TrustedProxies []netip.Prefix

	// TrustUnix trusts all peers of unix sockets as TrustedProxies trusts those in its networks.
	TrustUnix bool

	// LenientQuery sends on queries that servers read in different ways: those with a semicolon,
	// with a percent sign that encodes nothing, or with more parameters than net/url reads. By
	// default they get 400, since a check in front of the Handler could see other parameters than
	// the server. Set it where nothing in front reads parameters. A query with a blank, a control
	// character or "#" gets 400 all the same.
	LenientQuery bool

	// Transport, if not nil, wraps the Balancer: the place for a retry layer.
	Transport func(next http.RoundTripper) http.RoundTripper

	// ErrorHandler answers requests that got no response. If nil, they get a problem document
	// (RFC 9457) with the status of [ErrorStatus], and Retry-After if there is a wait. It is not
	// called for clients that have gone.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler returns a reverse proxy to target through b. Requests keep their method, body and
// streaming, and their path and query behind target's. The path's dot segments are resolved first;
// a path that spells them in another way than "." and ".." gets 400, and so do a query that servers
// read in different ways (see [HandlerConfig.LenientQuery]) and a malformed Host or method. Only
// upgrades to websocket are passed on. CONNECT gets 405. OPTIONS and TRACE with
// Max-Forwards: 0 are answered here.
//
// Header fields of the request are removed in this order:
//
//   - Fields of the connection (RFC 9110, section 7.6.1). They go before the proxy adds its own
//     fields, so a client's Connection field cannot strip those.
//   - Of everybody: Forwarded (RFC 7239), Proxy, which CGI passes on as HTTP_PROXY, and every other
//     spelling of these and of the fields below, such as X_Forwarded_For.
//   - Of peers that are not trusted: X-Forwarded-*, X-Real-Ip, True-Client-Ip, X-Client-Ip,
//     X-Cluster-Client-Ip, Cf-Connecting-Ip, Fastly-Client-Ip, X-Proxyuser-Ip,
//     X-Envoy-External-Address, X-Forwarded, Forwarded-For, X-Original-Forwarded-For, X-Host,
//     X-Original-Host, X-Original-Url, X-Rewrite-Url, X-Url-Scheme and Front-End-Https.
//
// Then X-Forwarded-For gets the peer's address at its end, and X-Forwarded-Host and -Proto are
// added if they are missing. A peer without an address, such as that of a unix socket, adds
// nothing. A chain of proxies that is too long to be read is shortened to the client and the peer.
//
// Trailers, of requests and responses, pass the same rules, and may carry nothing that belongs into
// a header: framing, routing, credentials, content fields, request ids and the context of traces
// (RFC 9110, section 6.5.1). Informational responses pass them too; HTTP/1.0 clients get none.
//
// A response of known length leaves together with its header if it is there within 2 ms; a longer
// wait holds back neither. Each piece of an event stream, of gRPC and of a response of unknown
// length is flushed as it comes. Nothing is added to a response but what net/http needs for its
// connection. An answer that comes before the request has ended reaches a client that still sends:
// see [Refuse]. An http.MaxBytesReader in front sets fields of its ResponseWriter when the limit is
// hit, so it must not have the Handler's own: give it a wrapper that hides that. A client that
// waits for 100 (Continue) is invited by the server, or after a second of its silence, and never
// after a refusal.
//
// An upgraded connection ends when its peers end it, or with the request's context, as the context
// of an http.Server's BaseContext: then each peer that has got whole frames gets a close frame with
// the status 1001, and a second to read it. [Balancer.Stats] counts those that are open.
func (b *Balancer) Handler(target *url.URL, cfg HandlerConfig) (http.Handler, error) {
	ft := settings.Of("balancer", "Handler")
	switch {
	case target == nil:
		ft.Add("", "target is required")
	case target.Scheme != "http" && target.Scheme != "https" || target.Host == "":
		ft.Add("", "target %q: want scheme://host", target.Redacted())
	}
	fc := settings.Of("balancer", "HandlerConfig")
	h := &handler{cfg: cfg, proxies: origin.NewProxies(fc, cfg.TrustedProxies, cfg.TrustUnix)}
	if err := errors.Join(ft.Err(), fc.Err()); err != nil {
		return nil, err
	}
	if cfg.ErrorHandler == nil {
		h.cfg.ErrorHandler = writeProblem
	}
	h.target = &url.URL{
		Scheme: target.Scheme, Host: target.Host,
		Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery,
	}
	h.transport = b
	if cfg.Transport != nil {
		h.transport = cfg.Transport(b)
	}
	return h, nil
}

type handler struct {
	cfg       HandlerConfig
	proxies   origin.Proxies
	target    *url.URL
	transport http.RoundTripper
	senders   sync.Pool // of *sender
}

// methods are those that a Handler names in Allow. It passes on others, too.
const methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{h: h, w: w, in: r}
	defer x.close()
	if r.Method == http.MethodConnect {
		x.refuse(func(w http.ResponseWriter) {
			w.Header().Set("Allow", methods)
			problem.Write(w, problem.Details{
				Status: http.StatusMethodNotAllowed, Title: "CONNECT is not supported",
			})
		})
		return
	}
	if fault := x.prepare(); fault != "" {
		x.refuse(func(w http.ResponseWriter) {
			problem.Write(w, problem.Details{Status: http.StatusBadRequest, Title: fault})
		})
		return
	}
	if !passedOn(r, x.out.Header) {
		x.refuse(x.answerLast)
		return
	}
	x.run()
}
