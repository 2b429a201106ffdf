// Package lbsim simulates clients that spread requests over servers: a deterministic discrete-event
// model to compare balancing policies in. It knows nothing of the balancer; whoever runs it
// supplies [Client] implementations.
//
// Servers share their cores among the requests they hold (processor sharing). Requests arrive as an
// open Poisson process; the time of every arrival, its client and its work, and the faults of
// servers come from random streams of their own, so all policies meet the same weather (common
// random numbers). A request that misses its deadline counts with the deadline's length, and its
// work is abandoned.
package lbsim
