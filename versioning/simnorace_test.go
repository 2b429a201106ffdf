//go:build !race

package versioning

// simPart is which part of the simulation's runs the tests make.
const simPart = 50
