// Package telemetry shows what HTTP servers and clients do: traces, metrics, an access log, and
// objectives with burn rates, on the OpenTelemetry API alone.
//
//	log := slog.Default().Handler()
//	lines, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: log})
//	if err != nil {
//		return err
//	}
//	tel, err := telemetry.New(telemetry.Config{AccessLog: lines, RequestID: "X-Request-Id"})
//	if err != nil {
//		return err
//	}
//	client := &http.Client{Transport: tel.Transport(nil)}
//	return http.ListenAndServe(":8080", tel.Middleware(mux))
//
// [Telemetry.Middleware] makes a server span, metrics and a log line of each request,
// [Telemetry.Transport] a client span and metrics. Requests go on as if neither were there: panics
// pass through, streams stream, files are sent by sendfile, and if a provider, exporter or hook
// fails, requests do not notice. The program decides where spans and metrics go, by the providers
// in [Config]: see go.opentelemetry.io/otel/sdk and the exporters.
//
// # Place in a chain
//
// On a server, Middleware stands outermost, so that it sees what all others do. On a client,
// Transport stands innermost, below whatever repeats or spreads requests: each attempt is a span.
// At a public edge set [Config.Public]. Behind proxies name them in [Config.TrustedProxies].
//
// Other packages report to telemetry by a function and a snapshot, and know nothing of it:
//
//	observe := telemetry.Observer[balancer.Event](tel, "users")
//	lb, err := balancer.New(balancer.Config{Observe: observe})
//	unregister, err := telemetry.Register(tel, "users", lb.Stats)
//
// Their events are metrics, events of the request's span, and fields of its line in the access log.
// See [Observer] for what an event must look like.
//
// [LogHandler] puts the ids of trace, span and request, and the route, on the lines that the
// service itself writes with log/slog.
//
// # Traces
//
// Spans and metrics follow the stable HTTP semantic conventions of OpenTelemetry 1.43, and trace
// context and baggage those of W3C. The route of a request is the pattern of the ServeMux that
// served it; see [Route] and [Config.RouteFunc].
//
// The attribute error.type is a status code or a word. A server's words are
//
//	panic      the handler panicked
//	aborted    it panicked with http.ErrAbortHandler, or called runtime.Goexit
//	canceled   the client left before it had its response
//	timeout    the request's context had a deadline, which passed before that
//
// and a client's
//
//	timeout    a deadline passed, or the network timed out
//	canceled   somebody other than the caller gave up
//	dns        there is no address for the host
//	connect    there is no connection to it
//	tls        there is no trust between client and host
//	not_sent   a wrapper refused the request, by an error with NotSent() bool
//	body       the connection broke within the response body
//	_OTHER     none of these
//
// A caller that cancels its own request made no error: the request is reported without error.type,
// and without a status unless one came.
//
// Three things deviate from the conventions. url.full has no fragment, since it is never sent and
// may be a secret. A client's server.address is the URL's host, whatever the Host field says. Of a
// stream (a hijacked connection, a 101 response, or event streams, multipart streams and JSON lines
// that are flushed or have no length) the duration in metrics, objectives and the log's idea of
// slow is the time to the first byte: the rest lasts as long as the client likes.
//
// # Metrics
//
//	http.server.request.duration            histogram, s
//	http.client.request.duration            histogram, s
//	http.server.active_requests             with Config.ActiveRequests; client likewise
//	http.server.request.body.size           with Config.BodySizes; response and client likewise
//	trivet.<package>.<event>                counter, by Observer
//	trivet.<package>.<event>.duration       histogram, s, by Observer
//	trivet.<package>.<field>                gauge or counter, by Register
//
// So the event "attempt" of package balancer comes out as trivet.balancer.attempt and
// trivet.balancer.attempt.duration, with its outcome and the observer's name as attributes, and
// in_flight of its Stats as trivet.balancer.in_flight.
//
// This package's own, by Register(tel, "", x.Stats):
//
//	x                  instruments
//	Telemetry          trivet.telemetry.in_flight .requests .failures .panics .series
//	                   .overflowed .log_skipped .faults
//	SLO                trivet.telemetry.slo.requests .failures .timed .slow .burn_rate{key}
//	                   .firing{key}
//	health.Health      trivet.health.started .draining .up{key}
//
// In Prometheus, dots become underscores, counters end in _total, and durations in _seconds. A bool
// is 0 or 1. The file examples/gateway/deploy/keda.yaml scales on the requests in flight.
//
// Nothing that a client chooses freely is an attribute of a metric. What there is of it (known
// methods, protocols, statuses), and what a hook lets through all the same, ends at
// [Config.MaxSeries]. Room is kept for routes: beyond the bound the failures of a route are still
// counted with it, in the end as one series with error.type 5xx.
//
// # Limits
//
// Request and response bodies are counted and never kept. Texts of spans are cut at 1 KiB, queries
// and URLs at 2 KiB. Secrets in query values, user information of URLs, and texts of errors and
// panics are redacted; paths are not, since nobody can tell what is secret in them. The access log
// writes on the request's goroutine: give it a handler that does not block. Nothing is mounted by
// itself: metrics and probes belong on a listener that strangers do not reach.
package telemetry
