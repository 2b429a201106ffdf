//go:build race

package cache_test

// The race detector allocates where the program does not.
const raceEnabled = true
