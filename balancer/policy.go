package balancer

import (
	"errors"
	"fmt"
	"net/http"
)

// A Policy picks one of a target's endpoints for a request.
type Policy interface {
	// Pick returns the index of an endpoint in v, or -1 to leave the choice to chance. It is called
	// concurrently, on the path of every request: it must not block, and should not allocate. It
	// must not keep v. It should pick an endpoint for which v.Avoided is true only if there is no
	// other.
	Pick(v *View, r *http.Request) int
}

// A strategy is a policy of this package. It knows more of a group than a user's own policy can.
type strategy interface {
	Policy
	validate() error
	traits() traits
}

// traits are what a strategy wants of a group besides calls of Pick. The zero traits want nothing.
type traits struct {
	estimator estimator      // how latencies become costs
	probing   *ProbingConfig // if not nil, endpoints are asked for their load
	sticky    *sticky        // if not nil, cookies tell where a request goes

	// tier, if not nil, returns the bits by which r's tier is chosen; without ok chance decides.
	tier func(r *http.Request) (bits uint64, ok bool)
}

func traitsOf(p Policy) traits {
	if s, ok := p.(strategy); ok {
		return s.traits()
	}
	return traits{estimator: rootEstimator} // for the Cost that a user's own policy may read
}

// validatePolicy says what is wrong with p.
func validatePolicy(p Policy) error {
	if isNil(p) {
		return fmt.Errorf("is a nil %T", p)
	}
	if s, ok := p.(strategy); ok {
		return s.validate()
	}
	return nil
}

// validateNext says what is wrong with p as the Next of another policy.
func validateNext(p Policy) error {
	if !isNil(p) && traitsOf(p).sticky != nil {
		return errors.New("Sticky sets no cookies as the Next of another policy; " +
			"give it that one as its own Next")
	}
	return validatePolicy(p)
}
