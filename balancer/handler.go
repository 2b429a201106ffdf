package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
)

// HandlerConfig configures [Balancer.Handler]. The zero HandlerConfig is valid.
type HandlerConfig struct {
	// Rewrite, if not nil, may change the outbound request after everything else has been done to it.
	Rewrite func(r *httputil.ProxyRequest)

	// ModifyResponse, if not nil, may change the response before it is sent on. An error is
	// answered by ErrorHandler.
	ModifyResponse func(resp *http.Response) error

	// TargetHost sends the target's host in the Host field. By default the client's is sent on, as most
	// applications need it for links and cookies.
	TargetHost bool

	// TrustForwarded lists the networks of proxies in front whose X-Forwarded-For, -Host and -Proto are
	// sent on, the peer's address appended to the first. Those of everybody else are replaced. Forwarded (RFC
	// 7239) is always removed. Empty means nobody is trusted.
	TrustForwarded []netip.Prefix

	// Transport, if not nil, wraps the Balancer: the place for a retry layer.
	Transport func(next http.RoundTripper) http.RoundTripper

	// ErrorHandler answers requests that got no response. If nil, they get a problem document (RFC 9457): 503 with
	// Retry-After if the request was not sent, 504 after a timeout, 413, 408 or 400 if the client's body was at fault, else 502. It is
	// not called for clients that have gone.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler returns a reverse proxy to target through b. Requests keep their path and query behind target's path, and their method, body
// and streaming; query parameters that net/url cannot parse are removed, so that nobody here or there reads them otherwise. Fields of the connection are removed before the proxy's own are added, so no client can name
// one of those away (RFC 9110, section 7.6.1). Only upgrades to websocket are passed on. CONNECT gets 405.
func (b *Balancer) Handler(target *url.URL, cfg HandlerConfig) (http.Handler, error) {
	var errs []error
	switch {
	case target == nil:
		errs = append(errs, errors.New("balancer: Handler: target is required"))
	case target.Scheme != "http" && target.Scheme != "https" || target.Host == "":
		errs = append(errs, fmt.Errorf("balancer: Handler: target %q: want scheme://host", target.Redacted()))
	}
	for i, p := range cfg.TrustForwarded {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("balancer: HandlerConfig.TrustForwarded: prefix %d is invalid", i))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	cfg.TrustForwarded = slices.Clone(cfg.TrustForwarded)
	if cfg.ErrorHandler == nil {
		cfg.ErrorHandler = writeProblem
	}
	h := &handler{cfg: cfg, target: &url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery}}
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
		ErrorLog:       log.New(io.Discard, "", 0), // what it would say, Observe and the server know
	}
	return h, nil
}

type handler struct {
	cfg    HandlerConfig
	target *url.URL
	proxy  *httputil.ReverseProxy
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		problem.Write(w, problem.Details{Status: http.StatusMethodNotAllowed, Title: "CONNECT is not supported"})
		return
	}
	if r.URL.Opaque != "" {
		// "GET x:y HTTP/1.1" would go out as "GET y HTTP/1.1", past the target's path. RFC 9112, section 3.2 has no such form.
		problem.Write(w, problem.Details{Status: http.StatusBadRequest, Title: "The request's target is malformed"})
		return
	}
	if _, ok := r.Header["Upgrade"]; ok && !upgradesToWebsocket(r.Header) {
		// A server may ignore an upgrade (RFC 9110, section 7.8), and an h2c connection through a proxy would carry requests that
		// nobody has looked at.
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

// maxInformational is how many informational responses a request may have. net/http has no limit once somebody looks at them.
const maxInformational = 100

// outbound mends what httputil.ReverseProxy leaves open.
type outbound struct{ next http.RoundTripper }

func (t outbound) RoundTrip(r *http.Request) (*http.Response, error) {
	// The trace is the ReverseProxy's own, made for this request. Another one around it would cost far more, and its error
	// would not count.
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
		// The ReverseProxy forgets about the connection if the client's cannot be taken over.
		conn := resp.Body // the ReverseProxy takes it out of resp
		context.AfterFunc(r.Context(), func() { conn.Close() })
	}
	if err == nil && len(resp.Trailer) > 0 {
		resp.Header.Del("Content-Length") // HTTP/2 can have both; HTTP/1.1 has trailers after chunks only
	}
	return resp, err
}

var errInformational = errors.New("balancer: too many informational responses")

// informed keeps what handlers around the proxy have put into the header: httputil.ReverseProxy clears it after
// each informational response.
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
	if h.trusts(r.In.RemoteAddr) {
		if v, ok := r.In.Header["X-Forwarded-For"]; ok {
			r.Out.Header["X-Forwarded-For"] = v // SetXForwarded appends to it
		}
		r.SetXForwarded()
		for _, name := range [...]string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
			if v, ok := r.In.Header[name]; ok {
				r.Out.Header[name] = v
			}
		}
	} else {
		r.SetXForwarded()
	}
	if len(r.Out.Trailer) > 0 && r.Out.Body != nil {
		r.Out.Body = &trailed{r.Out.Body, r.In, r.Out.Trailer}
		r.Out.ContentLength = -1 // HTTP/2 can have both; HTTP/1.1 has trailers after chunks only
	}
	if _, ok := r.Out.Header["Accept-Encoding"]; !ok {
		// The transport would ask for gzip and unpack it: another response than the client asked for, under the same ETag.
		r.Out.Header.Set("Accept-Encoding", "identity")
	}
	if scheme, _, _ := strings.Cut(r.Out.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Negotiate") || strings.EqualFold(scheme, "NTLM") {
		// These schemes vouch for whatever else comes over the connection: nobody else may get it afterwards.
		r.Out.Close = true
	}
	if h.cfg.Rewrite != nil {
		h.cfg.Rewrite(r)
	}
	// No Via, though RFC 9110, section 7.6.3 wants one of gateways: nginx upstreams take it as a
	// reason not to compress.
}

// A trailed body passes on the trailers that come after it: the outbound request's own copy has their names only.
type trailed struct {
	io.ReadCloser
	in  *http.Request
	out http.Header
}

func (b *trailed) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range b.out { // others were not announced
			b.out[name] = b.in.Trailer[name]
		}
	}
	return n, err
}

func (h *handler) trusts(remoteAddr string) bool {
	if len(h.cfg.TrustForwarded) == 0 {
		return false
	}
	peer, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	addr := peer.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(h.cfg.TrustForwarded, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (h *handler) error(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		panic(http.ErrAbortHandler) // nobody is there to read an answer
	}
	h.cfg.ErrorHandler(w, r, err)
}

func writeProblem(w http.ResponseWriter, _ *http.Request, err error) {
	d := problem.Details{Status: http.StatusBadGateway, Title: "The server behind this one could not be reached"}
	var unsent interface{ NotSent() bool }
	var wait interface{ RetryAfter() time.Duration }
	var timeout net.Error
	var tooLarge *http.MaxBytesError
	var body *bodyError
	switch {
	case errors.As(err, &tooLarge):
		d = problem.Details{Status: http.StatusRequestEntityTooLarge, Title: "The request's body is too large"}
	case errors.As(err, &body):
		d = problem.Details{Status: http.StatusBadRequest, Title: "The request's body could not be read"}
		if errors.As(err, &timeout) && timeout.Timeout() {
			d = problem.Details{Status: http.StatusRequestTimeout, Title: "The request's body took too long"}
		}
	case errors.As(err, &unsent) && unsent.NotSent():
		d = problem.Details{Status: http.StatusServiceUnavailable, Title: "No server is available for this request"}
		after := time.Second
		if errors.As(err, &wait) {
			after = wait.RetryAfter()
		}
		problem.RetryAfter(w.Header(), after)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		d = problem.Details{Status: http.StatusGatewayTimeout, Title: "The server behind this one took too long"}
	}
	problem.Write(w, d)
}

// bufferPool spares each response a buffer of 32 KiB.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
