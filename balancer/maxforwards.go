package balancer

import (
	"net/http"
	"strconv"
)

// maxForwards returns how many more proxies may pass r on (RFC 9110, section 7.6.2), if it says so
// and is of a method for which that counts.
func maxForwards(r *http.Request) (n uint64, ok bool) {
	if r.Method != http.MethodOptions && r.Method != http.MethodTrace {
		return 0, false
	}
	values := r.Header["Max-Forwards"]
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(values[0], 10, 64)
	return n, err == nil
}

// passedOn says in the outbound header that the request has come to one more proxy. It returns
// false if no further one may have it.
func passedOn(in *http.Request, out http.Header) bool {
	n, ok := maxForwards(in)
	switch {
	case !ok:
		return true
	case n == 0:
		return false
	}
	out["Max-Forwards"] = []string{strconv.FormatUint(n-1, 10)}
	return true
}

// answerLast answers a request that goes no further. TRACE would tell what proxies in front have
// added.
func (x *exchange) answerLast(w http.ResponseWriter) {
	w.Header().Set("Allow", methods)
	if x.in.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.WriteHeader(http.StatusMethodNotAllowed)
}
