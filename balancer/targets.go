package balancer

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
)

// ErrOtherTarget reports a request for a target that [Config.Targets] does not name: its endpoints
// are not those of that target. The request was not sent.
var ErrOtherTarget = errors.New("balancer: not one of Config.Targets")

// An otherTargetError is final: the wait that it states is none.
type otherTargetError struct {
	host       string
	redirected bool // a server sent the client there
}

func (e *otherTargetError) Error() string {
	s := "balancer: " + e.host + " is not one of Config.Targets"
	if e.redirected {
		s += ", and a server redirects the client there"
	}
	return s
}

func (e *otherTargetError) Is(target error) bool      { return target == ErrOtherTarget }
func (e *otherTargetError) NotSent() bool             { return true }
func (e *otherTargetError) RetryAfter() time.Duration { return 0 }

// serves returns an error if c's endpoints are not for the target of req.
func (c *Config) serves(req *http.Request) error {
	if len(c.Targets) == 0 {
		return nil
	}
	for _, t := range c.Targets {
		if strings.EqualFold(t, req.URL.Host) {
			return nil
		}
	}
	port := targetPort(req.URL) // one of both may name a default port
	for _, t := range c.Targets {
		host, p := origin.SplitHost(t)
		if strings.EqualFold(host, req.URL.Hostname()) &&
			(p == port || p == "" && port == targetPort(&url.URL{Scheme: req.URL.Scheme})) {
			return nil
		}
	}
	return &otherTargetError{host: req.URL.Host, redirected: req.Response != nil}
}

// validateTargets reports what is no host of a URL.
func validateTargets(f *settings.Faults, targets []string) {
	for _, t := range targets {
		u, err := url.Parse("http://" + t)
		switch {
		case strings.Contains(t, "://"):
			f.Add("Targets", "%q has a scheme: leave out %s", t, t[:strings.Index(t, "://")+len("://")])
		case err != nil, u.Host != t, u.Hostname() == "":
			f.Add("Targets", "%q is no host such as users.internal or users.internal:8443", t)
		}
	}
}
