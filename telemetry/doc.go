// Package telemetry shows what HTTP servers and clients do.
package telemetry
