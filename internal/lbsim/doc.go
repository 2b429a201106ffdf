// Package lbsim simulates clients that spread requests over servers: a deterministic discrete-event
// model in which balancing policies are compared. It knows nothing of package balancer. Its users
// supply implementations of [Client].
//
// Servers share their cores among the requests they hold (processor sharing). Requests arrive as an
// open Poisson process. The time, client and work of every arrival and the faults of servers come
// from random streams of their own, so that all policies meet the same weather (common random
// numbers). A request that misses its deadline counts with the deadline's length, and its work is
// abandoned.
package lbsim
