package telemetry

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
)

// Names of the HTTP semantic conventions, version 1.43.0. They are written here because each
// release of otel renames its semconv package.
const (
	schemaURL = "https://opentelemetry.io/schemas/1.43.0"

	attrMethod         = "http.request.method"
	attrMethodOriginal = "http.request.method_original"
	attrStatus         = "http.response.status_code"
	attrRoute          = "http.route"
	attrResend         = "http.request.resend_count"
	attrErrorType      = "error.type"
	attrScheme         = "url.scheme"
	attrPath           = "url.path"
	attrQuery          = "url.query"
	attrFull           = "url.full"
	attrTemplate       = "url.template"
	attrServerAddress  = "server.address"
	attrServerPort     = "server.port"
	attrClientAddress  = "client.address"
	attrPeerAddress    = "network.peer.address"
	attrPeerPort       = "network.peer.port"
	attrProtocol       = "network.protocol.version"
	attrUserAgent      = "user_agent.original"
	attrOverflow       = "otel.metric.overflow"

	methodOther = "_OTHER"
)

// Bounds on what spans and log lines carry of a request.
const (
	maxMethod  = 32       // bytes of a method
	maxText    = 1024     // bytes of a path or field; of a query or URL twice that
	maxMessage = 1024     // bytes of an error's text
	maxStack   = 16 << 10 // bytes of a stack
	maxRoute   = 256      // bytes of a route; a longer one is a path or a mistake
)

// Values of error.type, beside status codes.
const (
	errPanic    = "panic"    // the handler panicked
	errAborted  = "aborted"  // the handler panicked with http.ErrAbortHandler
	errCanceled = "canceled" // the client left, or the caller gave up
	errTimeout  = "timeout"  // a deadline passed, or the network timed out
	errDNS      = "dns"      // no address for the host
	errConnect  = "connect"  // no connection to the host
	errTLS      = "tls"      // no trust between client and host
	errNotSent  = "not_sent" // refused before sending: an open breaker, a limit
	errBody     = "body"     // the connection broke within the response body
	errOther    = "_OTHER"
)

// protocols are the values of network.protocol.version.
var protocols = [...]string{"", "1.0", "1.1", "2", "3"}

// protoIndex returns the index into protocols; 0 means unknown.
func protoIndex(major, minor int) uint8 {
	switch {
	case major == 1 && (minor == 0 || minor == 1):
		return uint8(1 + minor)
	case major == 2 || major == 3:
		return uint8(1 + major)
	}
	return 0
}

// errorType returns the value of error.type for k, or "" if the request went well. A status of 4xx
// is the client's error, so it is one for its transport only (conventions for HTTP spans,
// "Status").
func (k seriesKey) errorType(client bool) string {
	switch {
	case k.err != "":
		return k.err
	case k.status >= 500, client && k.status >= 400:
		return strconv.Itoa(int(k.status))
	}
	return ""
}

func (k seriesKey) scheme() string {
	if k.tls {
		return "https"
	}
	return "http"
}

// endAttributes returns the attributes that are known when a request ends, with room for extra
// ones.
func (k seriesKey) endAttributes(client bool, extra int) []attribute.KeyValue {
	kv := make([]attribute.KeyValue, 0, 4+extra)
	if k.status != 0 {
		kv = append(kv, attribute.Int(attrStatus, int(k.status)))
	}
	if k.route != "" {
		if client {
			kv = append(kv, attribute.String(attrTemplate, k.route))
		} else {
			kv = append(kv, attribute.String(attrRoute, k.route))
		}
	}
	if e := k.errorType(client); e != "" {
		kv = append(kv, attribute.String(attrErrorType, e))
	}
	return kv
}

// spanName returns "{method} {route}"; the method is HTTP if it is not known (conventions, "Name").
func spanName(method, route string) string {
	if method == methodOther {
		method = "HTTP"
	}
	if route == "" {
		return method
	}
	return method + " " + route
}
