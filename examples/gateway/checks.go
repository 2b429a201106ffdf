package main

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A fault is one thing that is wrong with a configuration. Its path has the keys and indices that
// lead from the root to it.
type fault struct {
	path []any
	text string
}

type faults []fault

func (f *faults) add(text string, path ...any) { *f = append(*f, fault{path, text}) }

// wrapped adds the faults that the New of a package found in its Config. keys maps the Config's
// fields to keys under path; the faults of other fields are added to path itself.
func (f *faults) wrapped(err error, keys map[string]string, path ...any) {
	found := fieldFaults(err)
	if len(found) == 0 {
		f.add(err.Error(), path...)
	}
	for _, fault := range found {
		if key, ok := keys[fault.Field()]; ok {
			f.add(fault.Reason(), append(slices.Clone(path), key)...)
		} else {
			f.add(fault.Reason(), path...)
		}
	}
}

// A fieldFault is one fault of a field, as the New of each package returns it.
type fieldFault interface {
	error
	Field() string
	Reason() string
}

// fieldFaults returns the innermost faults in err's tree.
func fieldFaults(err error) (found []fieldFault) {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			found = append(found, fieldFaults(inner)...)
		}
	case interface{ Unwrap() error }:
		found = fieldFaults(e.Unwrap())
	}
	if fault, ok := err.(fieldFault); ok && len(found) == 0 {
		found = append(found, fault)
	}
	return found
}

func (f *faults) duration(d *Duration, def time.Duration, path ...any) {
	switch {
	case *d == 0:
		*d = Duration(def)
	case *d < 0:
		f.add("must be positive", path...)
	case *d > maxConfigDuration:
		f.add("must be at most "+time.Duration(maxConfigDuration).String(), path...)
	}
}

func (f *faults) size(s *Size, def Size, path ...any) {
	switch {
	case *s == 0:
		*s = def
	case *s < 0:
		f.add("must be positive", path...)
	case *s > maxConfigSize:
		f.add("must be at most 1024GiB", path...)
	}
}

func (f *faults) listen(addr *string, def string, path ...any) bool {
	if *addr == "" {
		*addr = def
	}
	host, port, err := net.SplitHostPort(*addr)
	valid := err == nil && (host == "" || validHost(host)) && validPort(port)
	if !valid {
		f.add(addressFault(*addr, "127.0.0.1:8080"), path...)
	}
	return valid
}

// unixPath returns the path of an address such as unix:/run/app.sock, or "" if addr is none.
func unixPath(addr string) string {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok || !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, unicode.IsControl) {
		return ""
	}
	return path
}

// validAddr reports whether a dialler can take addr: a host with or without a port, or a unix
// socket.
func validAddr(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return unixPath(addr) != ""
	}
	if host, port, err := net.SplitHostPort(addr); err == nil {
		return validHost(host) && validPort(port) && port != "0"
	}
	if inner, ok := strings.CutPrefix(addr, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && strings.Contains(inner, ":") && validHost(inner)
	}
	return validHost(addr)
}

func validHost(host string) bool {
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	name := strings.TrimSuffix(host, ".")
	if strings.Trim(name, "0123456789.") == "" { // a number alone is a port that somebody took for a host
		_, err := netip.ParseAddr(name)
		return err == nil
	}
	return hostName.MatchString(strings.ToLower(name))
}

// validPort reports whether port is a number or the name of a service.
func validPort(port string) bool {
	_, err := net.LookupPort("tcp", port)
	return err == nil && serviceName.MatchString(port) // the system's own look-up skips blanks and signs
}

// addressFault says what is wrong with text, which is no address such as example.
func addressFault(text, example string) string {
	if fault := schemeFault(text, "an address"); fault != "" {
		return fault
	}
	host, _, _ := net.SplitHostPort(example)
	port := strings.TrimPrefix(text, ":")
	address, _, hasPath := strings.Cut(text, "/")
	switch {
	case strings.Trim(port, "0123456789") == "" && validPort(port):
		return fmt.Sprintf("%q is a port without a host: write it as in %s:%s", text, host, port)
	case hasPath && validAddr(address):
		return unsecret(text) + " is not an address such as " + example + ": leave out the path"
	}
	return unsecret(text) + " is not an address such as " + example
}

// schemeFault says that text, which is not the thing that it should be, is a URL, or "" if it is
// none.
func schemeFault(text, thing string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !schemeName.MatchString(scheme) {
		return ""
	}
	fault := unsecret(text) + " is a URL and not " + thing + ": leave out " + scheme + "://"
	if strings.Contains(rest, "/") {
		fault += " and the path"
	}
	return fault
}

var schemeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]{0,20}$`)

// unsecret returns a URL or address in the form for an error, which ends in logs.
func unsecret(text string) string {
	if strings.Contains(text, "@") {
		return "what stands here" // text may contain a password
	}
	if i := strings.IndexAny(text, "?#"); i >= 0 && strings.Contains(text[:i], "/") {
		text = text[:i+1] + "…" // or a token
	}
	return strconv.Quote(text)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// maxNames bounds the names that an error lists. A thousand faults that list a thousand names each
// would fill the memory.
const maxNames = 20

// names lists the keys of m, for an error that refuses another one.
func names[V any](m map[string]V) string {
	switch {
	case len(m) == 0:
		return "there are none"
	case len(m) > maxNames:
		return fmt.Sprintf("there are %d", len(m))
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// hostName matches the form that route gives a request's Host. Another host would never match.
var hostName = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)
