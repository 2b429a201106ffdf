// Package telemetry shows what HTTP servers and clients do: traces, metrics, an access log,
// objectives with burn rates, and health probes, on the OpenTelemetry API alone.
//
// A [Telemetry] stands outermost on a server and innermost on a client:
//
//	tel, err := telemetry.New(telemetry.Config{AccessLog: log, SLOs: []*telemetry.SLO{slo}})
//	handler = tel.Middleware(handler)
//	client.Transport = tel.Transport(client.Transport) // inside retry: each attempt is a span
//
// Requests go on as if it were not there: panics pass through, streams stream, files are sent by
// sendfile, and if a provider, exporter or hook fails, requests do not notice. Which providers there
// are is up to the program: see go.opentelemetry.io/otel/sdk and the exporters.
//
// # Traces
//
// Spans and metrics follow the stable HTTP semantic conventions of OpenTelemetry 1.43, and trace context and baggage those
// of W3C. At a public edge set [Config.Public]. Values of error.type beside status codes are, for a server: panic,
// aborted (the handler panicked with http.ErrAbortHandler), canceled (the client left) and timeout;
// for a client: timeout, canceled (by another than the caller), dns, connect, tls, not_sent (refused before sending,
// by an error with NotSent() bool), body (the connection broke within the response body) and _OTHER. A caller that cancels its
// own request made no error: it is reported without error.type, and without a status unless it came.
//
// The route of a request is the pattern of the ServeMux that served it; see [Route] and [Config.RouteFunc].
//
// Deviations from the conventions: url.full has no fragment, since it is never sent and may be a secret; a client's
// server.address is the URL's host, whatever the Host field; durations of streams are those of [StreamPolicy]. Texts of spans are
// cut at 1 KiB, URLs at 2.
//
// # Metrics
//
//	http.server.request.duration            histogram, s
//	http.client.request.duration            histogram, s
//	http.server.active_requests             with Config.ActiveRequests; client likewise
//	http.server.request.body.size           with Config.BodySizes; response and client likewise
//	trivet.<package>.<event>                counter, by Observer
//	trivet.<package>.<event>.<duration>     histogram, s, by Observer
//	trivet.<package>.<field>                gauge or counter, by Register
//
// So an event "attempt" of package balancer with a string outcome and a duration comes out as
// trivet.balancer.attempt and trivet.balancer.attempt.duration with the attributes outcome and name,
// and in_flight of its Stats as trivet.balancer.in_flight.
// This package's own, by Register(tel, "", x.Stats):
//
//	x                  instruments
//	Telemetry          trivet.telemetry.in_flight .requests .errors .panics .series .overflow .log_skipped .faults
//	Runtime            trivet.telemetry.runtime.goroutines .threads .heap_bytes .memory_bytes .gc_cycles
//	                   .gc_pause_p99 .gc_cpu_percent .sched_latency_p50 .sched_latency_p99
//	SLO                trivet.telemetry.slo.requests .failed .timed .slow .burn_rate{key} .firing{key}
//	Health             trivet.telemetry.health.started .draining .up{key}
//
// In Prometheus, dots become underscores, counters end in _total, and durations in _seconds.
//
// Nothing that a client chooses freely is an attribute of a metric. What a hook lets through nevertheless ends at
// [Config.MaxSeries].
//
// # Siblings
//
// Other packages report by a function and a snapshot, and know nothing of this one:
//
//	lb, err := balancer.New(balancer.Config{Observe: telemetry.Observer[balancer.Event](tel, "users")})
//	unregister, err := telemetry.Register(tel, "users", lb.Stats)
//
// Their events are metrics, events of the request's span, and fields of its line in the access log.
//
// # Autoscaling
//
// CPU is a late signal for a server that waits for others. Scale on what is in flight instead, per
// replica, as of Little's law: here with KEDA, from 40 requests at once in each replica on.
//
//	triggers:
//	  - type: prometheus
//	    metricType: AverageValue
//	    metadata:
//	      serverAddress: http://prometheus:9090
//	      query: sum(trivet_telemetry_in_flight{job="api"})
//	      threshold: "40"
//
// Where something bounds what is in flight and exports that by Register, scale on how much of the bound is used, queue included:
//
//	query: sum(<bound>_in_flight{job="api"} + <bound>_queued{job="api"}) / avg(<bound>_limit{job="api"})
//	threshold: "0.7"
//
// (A query over all replicas as AverageValue: KEDA divides by their number.)
//
// # Limits
//
// Request and response bodies are counted and never kept. Secrets in query values, user information of URLs, and texts of errors and
// panics are redacted; paths are not, since nobody can tell what is secret in them. The access log writes on the
// request's goroutine: give it a handler that does not block. Nothing is mounted by itself: metrics and
// probes belong on a listener that strangers do not reach.
package telemetry
