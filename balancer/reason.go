package balancer

// A Reason says why an attempt went to its endpoint, or why the state of an endpoint changed.
type Reason string

// Why an attempt went to its endpoint.
const (
	ReasonCost         Reason = "cost"          // [Adaptive]: least requests in flight and latency
	ReasonConnections  Reason = "connections"   // [Adaptive], of an upgrade: fewest in flight
	ReasonLeastRequest Reason = "least_request" // [LeastRequest]
	ReasonTurn         Reason = "turn"          // [RoundRobin]
	ReasonHash         Reason = "hash"          // [Hash]: the request has a key
	ReasonSticky       Reason = "sticky"        // [Sticky]: the request has a valid cookie
	ReasonProbe        Reason = "probe"         // [Probing]: best by the loads that endpoints have reported
	ReasonExplore      Reason = "explore"       // to find out whether a slow endpoint has recovered
	ReasonOnly         Reason = "only"          // there was no other
	ReasonPolicy       Reason = "policy"        // a policy of the user's own
	ReasonAny          Reason = "any"           // at random, since the policy picked none
)

// Why the state of an endpoint changed.
const (
	ReasonConsecutiveFailures Reason = "consecutive_failures" // ejects: [OutlierConfig.Consecutive]
	ReasonSuccessRate         Reason = "success_rate"         // ejects: [OutlierConfig.Deviations]
	ReasonEndOfEjection       Reason = "end_of_ejection"
	ReasonHealthCheck         Reason = "health_check"     // active checks passed or failed
	ReasonNoHealthChecks      Reason = "no_health_checks" // a Reload ended those that it had failed
	ReasonWarmUp              Reason = "warm_up"          // [Config.Warm] is done
	ReasonDrain               Reason = "drain"            // [Endpoint.Drain] was set
	ReasonEndOfDrain          Reason = "end_of_drain"     // [Endpoint.Drain] was cleared
)
