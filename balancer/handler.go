package balancer

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
	"github.com/trivet-go/trivet/internal/retryafter"
	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/internal/unsent"
)

// HandlerConfig configures [Balancer.Handler]. The zero HandlerConfig is valid.
type HandlerConfig struct {
	// Rewrite, if not nil, may change the outbound request after everything else has been done to
	// it. It must leave the inbound one alone.
	Rewrite func(r *httputil.ProxyRequest)

	// ModifyResponse, if not nil, may change the response before it is sent on. If it returns an
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

	// Transport, if not nil, wraps the Balancer: the place for a retry layer.
	Transport func(next http.RoundTripper) http.RoundTripper

	// ErrorHandler answers requests that got no response. If nil, they get a problem document
	// (RFC 9457) with the status of [ErrorStatus], and Retry-After if there is a wait. It is not
	// called for clients that have gone.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler returns a reverse proxy to target through b. Requests keep their method, body and
// streaming, and their path and query behind target's. Query parameters that net/url cannot parse
// are removed, so that proxy and server cannot disagree on them. Only upgrades to websocket are
// passed on. CONNECT gets 405.
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
	transport := http.RoundTripper(b)
	if cfg.Transport != nil {
		transport = cfg.Transport(b)
	}
	h.proxy = &httputil.ReverseProxy{
		Rewrite:        h.rewrite,
		Transport:      outbound{transport},
		ModifyResponse: cfg.ModifyResponse,
		ErrorHandler:   h.error,
		FlushInterval:  -1, // each write of the server reaches the client at once: SSE, gRPC
		BufferPool:     &bufferPool{},
		ErrorLog:       log.New(io.Discard, "", 0), // Observe and the server are told the same
	}
	return h, nil
}

type handler struct {
	cfg     HandlerConfig
	proxies origin.Proxies
	target  *url.URL
	proxy   *httputil.ReverseProxy
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		problem.Write(w, problem.Details{
			Status: http.StatusMethodNotAllowed, Title: "CONNECT is not supported",
		})
		return
	}
	if r.URL.Opaque != "" {
		// RFC 9112, section 3.2 has no such form. "GET x:y HTTP/1.1" would go out as
		// "GET y HTTP/1.1", past the target's path.
		problem.Write(w, problem.Details{
			Status: http.StatusBadRequest, Title: "The request's target is malformed",
		})
		return
	}
	if _, ok := r.Header["Upgrade"]; ok && !upgradesToWebsocket(r.Header) {
		// A server may ignore an upgrade (RFC 9110, section 7.8). An h2c connection through a proxy
		// would carry requests that the proxy has not looked at.
		r = r.WithContext(r.Context())
		r.Header = r.Header.Clone()
		r.Header.Del("Upgrade")
		r.Header.Del("Http2-Settings")
	}
	if len(w.Header()) > 0 {
		w = &informed{Recorder: response.NewRecorder(w, r), outer: w.Header().Clone()}
	}
	h.proxy.ServeHTTP(w, r)
}

// maxInformational is how many informational responses a request may have. net/http stops counting
// them once a trace looks at them.
const maxInformational = 100

// An outbound is the transport of the httputil.ReverseProxy. It mends what that leaves open.
type outbound struct{ next http.RoundTripper }

func (t outbound) RoundTrip(r *http.Request) (*http.Response, error) {
	// The trace is the ReverseProxy's own, made for this request. A second trace around it would
	// cost far more, and net/http would ignore its error.
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.Got1xxResponse != nil {
		pass := trace.Got1xxResponse
		var n atomic.Int32 // hedged attempts share the trace
		trace.Got1xxResponse = func(code int, header textproto.MIMEHeader) error {
			if n.Add(1) > maxInformational {
				return errInformational
			}
			return pass(code, header)
		}
	}
	resp, err := t.next.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		// The ReverseProxy leaves the connection open if the client's cannot be hijacked.
		conn := resp.Body // the ReverseProxy replaces resp.Body
		context.AfterFunc(r.Context(), func() { conn.Close() })
	}
	if err == nil && len(resp.Trailer) > 0 {
		resp.Header.Del("Content-Length") // HTTP/2 can have both; HTTP/1.1 has trailers after chunks only
	}
	return resp, err
}

var errInformational = errors.New("balancer: too many informational responses")

// An informed keeps the fields that handlers around the proxy have set: httputil.ReverseProxy
// clears the header after each informational response.
type informed struct {
	*response.Recorder
	outer   http.Header
	cleared bool
}

func (w *informed) WriteHeader(code int) {
	if code < 200 && code != http.StatusSwitchingProtocols {
		w.cleared = true
	} else if w.cleared {
		h := w.Header()
		for name, values := range w.outer {
			h[name] = append(values, h[name]...)
		}
	}
	w.Recorder.WriteHeader(code)
}

func upgradesToWebsocket(h http.Header) bool {
	v := h["Upgrade"]
	return len(v) == 1 && strings.EqualFold(v[0], "websocket")
}

func (h *handler) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(h.target)
	if !h.cfg.TargetHost {
		r.Out.Host = r.In.Host
	}
	h.setForwarding(r)
	if len(r.Out.Trailer) > 0 && r.Out.Body != nil {
		r.Out.Body = &trailed{r.Out.Body, r.In, r.Out.Trailer}
		r.Out.ContentLength = -1 // HTTP/2 can have both; HTTP/1.1 has trailers after chunks only
	}
	if _, ok := r.Out.Header["Accept-Encoding"]; !ok {
		// The transport would ask for gzip and unpack it. The client would get another response
		// than it asked for, under the same ETag.
		r.Out.Header.Set("Accept-Encoding", "identity")
	}
	scheme, _, _ := strings.Cut(r.Out.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Negotiate") || strings.EqualFold(scheme, "NTLM") {
		// These schemes authenticate the connection, with all requests that follow on it: no other
		// client's may.
		r.Out.Close = true
	}
	if h.cfg.Rewrite != nil {
		h.cfg.Rewrite(r)
	}
	// A deviation from RFC 9110, section 7.6.3: no Via is added, since nginx does not compress its
	// response to a request with one.
}

// A trailed body passes on the trailers that come after it. The outbound request has a copy of the
// inbound one's trailers, made when only their names were known.
type trailed struct {
	io.ReadCloser
	in  *http.Request
	out http.Header
}

func (b *trailed) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range b.out { // only those that were announced
			b.out[name] = b.in.Trailer[name]
		}
	}
	return n, err
}

func (h *handler) error(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		panic(http.ErrAbortHandler) // the client has gone
	}
	h.cfg.ErrorHandler(w, r, err)
}

// ErrorStatus returns the status that answers a request which failed with err, an error that
// [HandlerConfig.ErrorHandler] gets: 413, 408 or 400 if the client's body was at fault, 503 if the
// request was not sent, 504 after a timeout, else 502. With 503 it also returns the wait that err
// states, or one second if err states none, for Retry-After. A wait of 0 is none: no Retry-After is
// to be sent, since the refusal is final. With other statuses the wait is 0.
//
// It does not know the request's context. If that has expired, whatever err says may have come of
// it: a handler that sets deadlines answers 504 for 502 then.
func ErrorStatus(err error) (status int, retryAfter time.Duration) {
	var timeout net.Error
	timedOut := errors.As(err, &timeout) && timeout.Timeout()
	var tooLarge *http.MaxBytesError
	var body *bodyError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, 0
	case errors.As(err, &body) && timedOut:
		return http.StatusRequestTimeout, 0
	case errors.As(err, &body):
		return http.StatusBadRequest, 0
	case unsent.Is(err):
		return http.StatusServiceUnavailable, waitOf(err)
	case timedOut, errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, 0
	}
	return http.StatusBadGateway, 0
}

// titles are those of the problem documents with a status of ErrorStatus. They tell nothing of err.
var titles = map[int]string{
	http.StatusRequestEntityTooLarge: "The request's body is too large",
	http.StatusRequestTimeout:        "The request's body took too long",
	http.StatusBadRequest:            "The request's body could not be read",
	http.StatusServiceUnavailable:    "No server is available for this request",
	http.StatusGatewayTimeout:        "The server behind this one took too long",
	http.StatusBadGateway:            "The server behind this one could not be reached",
}

func writeProblem(w http.ResponseWriter, _ *http.Request, err error) {
	status, wait := ErrorStatus(err)
	retryafter.Set(w.Header(), wait)
	problem.Write(w, problem.Details{Status: status, Title: titles[status]})
}

// A bufferPool saves each response the allocation of 32 KiB.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
