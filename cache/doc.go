// Package cache.
package cache
