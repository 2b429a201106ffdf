package balancer

import (
	"maps"
	"net"
	"net/url"
	"reflect"
	"strings"
)

// An Endpoint is one server of a target. Its Addr identifies it.
type Endpoint struct {
	// Addr is where to connect to: "10.0.0.7:8443", "[fd00::7]:80", "unix:/run/x.sock". Without a
	// port the target's is used.
	Addr string

	// Weight is the share of requests relative to others. Zero means 1.
	Weight uint32

	// Drain keeps new requests from the endpoint, whatever a policy, a cookie or panic mode says.
	// Those in flight go on, and so do its checks, so that it can come back at once.
	Drain bool

	// Priority orders groups of endpoints: those of priority 0 get requests first, those of 1 as
	// far as those of 0 are unhealthy, and so on.
	Priority uint8

	// Zone is where the endpoint is, for [Config.Zone].
	Zone string

	// Labels are for the user's own policies and wrappers. They must not be changed.
	Labels map[string]string
}

func (e Endpoint) equal(o Endpoint) bool {
	return e.Addr == o.Addr && e.Weight == o.Weight && e.Drain == o.Drain &&
		e.Priority == o.Priority && e.Zone == o.Zone && maps.Equal(e.Labels, o.Labels)
}

// lacksAddress reports whether e has no address. With the target's port added, an empty address
// would be that of this machine.
func (e Endpoint) lacksAddress() bool { return e.Addr == "" || e.Addr == "unix:" }

// network returns the network and address to dial.
func (e Endpoint) network() (network, addr string) {
	if path, ok := strings.CutPrefix(e.Addr, "unix:"); ok {
		return "unix", path
	}
	return "tcp", e.Addr
}

// withPort completes the address with the port of target.
func (e Endpoint) withPort(target *url.URL) Endpoint {
	if strings.HasPrefix(e.Addr, "unix:") {
		return e
	}
	if _, _, err := net.SplitHostPort(e.Addr); err != nil {
		e.Addr = net.JoinHostPort(strings.Trim(e.Addr, "[]"), targetPort(target))
	}
	return e
}

func targetPort(target *url.URL) string {
	if port := target.Port(); port != "" {
		return port
	}
	if target.Scheme == "https" {
		return "443"
	}
	return "80"
}

// isNil reports whether v is nil or holds a nil pointer, func, map or the like. An interface that
// holds such a value is not nil itself, and would fail at the first request.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Interface, reflect.Chan, reflect.Slice:
		return rv.IsNil()
	}
	return false
}
