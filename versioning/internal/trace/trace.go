// Package trace tells package versioningtest which changes a request ran through.
package trace

import "context"

type key struct{}

// With returns a context in which ran is called with the name of each change that runs.
func With(ctx context.Context, ran func(change string)) context.Context {
	return context.WithValue(ctx, key{}, ran)
}

// From returns the function of ctx, or nil.
func From(ctx context.Context) func(change string) {
	ran, _ := ctx.Value(key{}).(func(change string))
	return ran
}
