//go:build race

package versioning

// simPart is which part of the simulation's runs the tests make: the race detector makes them slow,
// and there is one goroutine in each.
const simPart = 250
